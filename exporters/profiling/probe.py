"""Probing a device: the points that are measured, and the profile that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from exporters.profiling.chains import TAPS, Times, pair_times
from exporters.profiling.fitting import REFERENCE, SIDES, WIDTHS, kernel_of
from exporters.runtime.import_ort import load_onnxruntime
from exporters.runtime.providers import PROVIDERS, check_device, device_kind
from structprune.errors import UsageError
from structprune.hardware.profile import KINDS, DeviceProfile, Machine, Step

Say = Callable[[str], None]
Point = tuple[int, int, int]
"""The reference width, the width, and the height and width of the image."""

PRECISIONS = ("float32", "float16")
MOST_MULTIPLY_ADDS = 2.5e8

ODD = 1
NARROW = (2, 3, 12)
LARGE = (16, 32, 128, 256, 512)
WEIGHTS = ((512, 1024), (1024, 1024), (1024, 4096), (2048, 4096))
LINEAR_SIDES = (1, 14)


def probe(
    machine: Machine,
    *,
    name: str = "",
    device: str = "cpu",
    precision: str = "float32",
    threads: int = 1,
    say: Say = lambda _: None,
) -> DeviceProfile:
    """Measure which widths the runtime likes on this machine, in under a minute.

    Args:
        machine: the processor, for the profile.
        name: what to call the profile; made of the device otherwise.
        device: ``"cpu"`` or ``"cuda"``.
        precision: ``"float32"`` or ``"float16"``.
        threads: CPU threads inside an operator.
        say: told what is measured next.

    Raises:
        UsageError: the device or the precision is none.
        DeviceUnavailableError: the device, or ONNX Runtime's provider for it, is not there.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    check_device(device)
    kind = device_kind(device)
    steps: list[Step] = []
    for layer in KINDS:
        say(f"measuring {layer} layers")
        for reference, width, side in points(layer):
            times = pair_times(
                layer, reference, width, side, device=device, precision=precision, threads=threads
            )
            steps += _steps(layer, reference, width, side, times)
    return DeviceProfile(
        name=name or f"{kind}-{machine.instructions.lower()}-{precision}",
        runtime="onnxruntime",
        version=load_onnxruntime().__version__,
        provider=PROVIDERS[kind],
        precision=precision,
        threads=threads,
        machine=machine,
        kernels={layer: kernel_of(layer, steps) for layer in KINDS},
        steps=tuple(steps),
    )


def _steps(kind: str, reference: int, width: int, side: int, times: Times) -> tuple[Step, ...]:
    if kind == "depthwise":
        return (Step(kind, width, width, side, times.reading),)
    return (
        Step(kind, reference, width, side, times.writing),
        Step(kind, width, reference, side, times.reading),
    )


def points(kind: str) -> Iterator[Point]:
    """Yield what is measured of a kind: narrow widths one by one, and wide ones for how time grows."""
    if kind == "linear":
        yield from ((a, b, side) for a, b in WEIGHTS for side in LINEAR_SIDES if a * b * side**2 < 1e8)
        return
    # Twice, far apart: another process may well disturb one of them.
    yield from ((REFERENCE, width, side) for _ in range(2) for side in SIDES for width in WIDTHS)
    for reference in LARGE:
        for width in (reference, reference + ODD, 2 * reference):
            for side in (1, 7, 14, 28, 56, 112):
                if _affordable(kind, reference, width, side):
                    yield reference, width, side
    if kind != "depthwise":  # which reads and writes as much
        yield from product((16, 256), NARROW, (14, 56))


def _affordable(kind: str, reference: int, width: int, side: int) -> bool:
    if side == 1 and kind != "1x1":
        return False
    if kind == "depthwise":
        return reference * width * side**2 <= MOST_MULTIPLY_ADDS / 2
    # Nothing that wide is that large in a network, and it would take the time of all others together.
    return width * side <= 4096 and reference * width * (side * TAPS[kind]) ** 2 <= MOST_MULTIPLY_ADDS
