"""What a deployment target likes: measured steps of a runtime on a processor, in a file that can be carried.

The machine that compresses chooses widths by the profile of the one that will run the network. Times are in
microseconds, of one input through one layer.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from structprune.environment import device_named, processor, software
from structprune.errors import DeviceUnavailableError, InputError, argument
from structprune.files import read_text

SCHEMA = 1
"""Version of the profile's JSON form."""

KINDS = ("3x3", "1x1", "depthwise", "linear")
"""Layers whose steps are measured; other kernels are taken as the nearest of these, by multiply-adds."""


@dataclass(frozen=True)
class Machine:
    """A processor: its model name and its instruction set (AVX512, AVX2, NEON, ...); no host or user."""

    processor: str
    instructions: str

    def __str__(self) -> str:
        return f"{self.processor}, {self.instructions}"


@dataclass(frozen=True)
class Step:
    """One measured point.

    Attributes:
        kind: of layer, one of :data:`KINDS`.
        inputs: channels read.
        outputs: channels written.
        side: height and width of the image, in pixels; 1 for linear layers.
        us: time of one layer in microseconds, with the reorders that its inputs' width causes.
    """

    kind: str
    inputs: int
    outputs: int
    side: int
    us: float


@dataclass(frozen=True)
class Rates:
    """Time of a layer as a sum of what it does; nothing is negative, so that wider is never cheaper.

    Attributes:
        layer: us a layer.
        multiply: us a million multiply-adds.
        read: us a thousand entries of its input.
        written: us a thousand entries of its output.
        weight: us a thousand entries of its weight.
    """

    layer: float
    multiply: float
    read: float
    written: float
    weight: float

    def us(self, taps: Any, pixels: Any, groups: Any, inputs: Any, outputs: Any) -> Any:
        """Return the microseconds of a layer; widths are those of a conv group, numbers or arrays of them."""
        return sum(
            rate * part
            for rate, part in zip(astuple(self), work(taps, pixels, groups, inputs, outputs), strict=True)
        )


def work(taps: Any, pixels: Any, groups: Any, inputs: Any, outputs: Any) -> tuple[Any, ...]:
    """Return what a layer does, in the units of :class:`Rates` and in their order.

    Example:
        >>> work(9, 100, 1, 10, 20)
        (1.0, 0.18, 1.0, 2.0, 1.8)
    """
    weights = taps * inputs * outputs * groups
    entries = pixels * groups / 1e3
    return 1.0, weights * pixels / 1e6, inputs * entries, outputs * entries, weights / 1e3


@dataclass(frozen=True)
class Kernel:
    """How the runtime runs one kind of layer.

    Attributes:
        block: channels that are computed together: fewer cost as much as the next multiple of it.
        first: the least number of input channels that takes the fast path.
        divisor: what that number must be a multiple of, to take it.
        fast: rates of the fast path, on widths that fill their blocks.
        narrow: rates where the inputs are fewer than ``first``.
        slow: rates off the fast path, on the widths as they are.
    """

    block: int
    first: int
    divisor: int
    fast: Rates
    narrow: Rates
    slow: Rates


@dataclass(frozen=True)
class DeviceProfile:
    """The measured steps of a runtime on a processor.

    Attributes:
        name: what to call it.
        runtime: ``onnxruntime``.
        version: the runtime's.
        provider: what ran, as the session itself says.
        precision: ``float32`` or ``float16``.
        threads: CPU threads inside an operator.
        machine: the processor.
        kernels: kind of layer -> its steps and rates.
        steps: every measured point.
        schema: version of this form.
    """

    name: str
    runtime: str
    version: str
    provider: str
    precision: str
    threads: int
    machine: Machine
    kernels: Mapping[str, Kernel]
    steps: tuple[Step, ...] = ()
    schema: int = SCHEMA

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        runs = f"{self.runtime} {self.version}, {self.provider}, {self.precision}, {threads}"
        return f"{self.name} ({self.machine}; {runs})"


def this_machine(device: str = "cpu") -> Machine:
    """Return the processor that runs this, as the system names it: the CPU, or a GPU that is there."""
    if device.startswith("cuda"):
        place = device_named(device)
        major, minor = torch.cuda.get_device_capability(place)
        return Machine(torch.cuda.get_device_name(place), f"sm_{major}{minor}")
    capability = torch.backends.cpu.get_cpu_capability()
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return Machine(processor(), "NEON" if capability == "DEFAULT" and arm else capability)


def machine_like(profile: DeviceProfile) -> Machine:
    """Return this machine's processor of the kind that a profile is of; the CPU where there is no GPU."""
    on_gpu = profile.provider.startswith("CUDA") and torch.cuda.is_available()
    return this_machine("cuda" if on_gpu else "cpu")


def check_measuring(profile: DeviceProfile, here: Machine) -> None:
    """Refuse a profile of another processor where times of this one are asked for.

    Raises:
        DeviceUnavailableError: it is another one's.
    """
    if profile.machine != here:
        raise DeviceUnavailableError(
            f"the profile {profile.name} is of {profile.machine} and this machine is {here}: its times can't "
            "be measured here; measure there, or use the profile for choosing widths only "
            f"({argument('align', 'auto')})"
        )


def note_choosing(profile: DeviceProfile) -> str:
    """Say which profile chose, and whether it is of another processor or version."""
    here = machine_like(profile)
    other = "" if profile.machine == here else f", another processor than this one ({here})"
    installed = {name.removesuffix("-gpu"): version for name, version in software().items()}
    own = installed.get(profile.runtime, profile.version)
    older = "" if profile.version == own else f", another version of {profile.runtime} than here ({own})"
    return f"widths chosen by the profile {profile}{other}{older}"


def to_json(profile: DeviceProfile) -> str:
    """Write a profile as one JSON document, a measured point a line."""
    document = asdict(profile)
    rows = [[step.kind, step.inputs, step.outputs, step.side, step.us] for step in profile.steps]
    document["steps"] = []
    text = json.dumps(document, indent=1, allow_nan=False)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return text.replace('"steps": []', f'"steps": [\n{lines}\n ]' if rows else '"steps": []') + "\n"


def from_json(text: str) -> DeviceProfile:
    """Read what :func:`to_json` wrote.

    Raises:
        ValueError: it is no profile of this schema.
    """
    raw: Any = json.loads(text)
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        got = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"expected schema {SCHEMA}, got {got!r}")
    try:
        return _profile(raw)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_profile(path: Path) -> DeviceProfile:
    """Read a profile's file.

    Raises:
        InputError: there is none, or it is no profile.
    """
    try:
        return from_json(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        raise InputError(
            f"{path.name} is no device profile: {reason}; structprune profile -o FILE writes one"
        ) from error


def _profile(raw: Mapping[str, Any]) -> DeviceProfile:
    _expect({f.name for f in fields(DeviceProfile)}, set(raw))
    machine = Machine(**{key: _word(raw["machine"], key) for key in ("processor", "instructions")})
    kernels = {kind: _kernel(raw["kernels"][kind]) for kind in KINDS}
    steps = tuple(_step(row) for row in raw["steps"])
    return DeviceProfile(
        name=_word(raw, "name"),
        runtime=_word(raw, "runtime"),
        version=_word(raw, "version"),
        provider=_word(raw, "provider"),
        precision=_word(raw, "precision"),
        threads=_whole(raw["threads"]),
        machine=machine,
        kernels=kernels,
        steps=steps,
    )


def _kernel(raw: Mapping[str, Any]) -> Kernel:
    _expect({f.name for f in fields(Kernel)}, set(raw))
    block, first, divisor = (_whole(raw[key]) for key in ("block", "first", "divisor"))
    return Kernel(block, first, divisor, *(_rates(raw[key]) for key in ("fast", "narrow", "slow")))


def _rates(raw: Mapping[str, Any]) -> Rates:
    _expect({f.name for f in fields(Rates)}, set(raw))
    rates = {key: float(value) for key, value in raw.items()}
    if not all(0 <= value < math.inf for value in rates.values()):
        raise ValueError(f"rates must be finite and not negative, got {rates}")
    return Rates(**rates)


def _step(row: Any) -> Step:
    kind, inputs, outputs, side, us = row
    if kind not in KINDS or not 0 <= us < math.inf:
        raise ValueError(f"{row!r} is no measured step")
    return Step(kind, _whole(inputs), _whole(outputs), _whole(side), float(us))


def _expect(known: set[str], got: set[str]) -> None:
    if strange := known ^ got:
        raise ValueError(f"keys that are missing or not known: {', '.join(sorted(map(str, strange))[:5])}")


def _word(raw: Mapping[str, Any], key: str) -> str:
    value = raw[key]
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError(f"{key} is no name")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"{value!r} is no whole number above 0")
    return value
