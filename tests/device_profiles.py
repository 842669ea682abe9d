"""Device profiles that are made up: blocks small enough for networks of a few channels."""

from __future__ import annotations

from structprune.hardware.profile import KINDS, DeviceProfile, Kernel, Machine, Rates, Step

ELSEWHERE = Machine("Test CPU of another kind", "TEST")
WHOLE = Kernel(1, 1, 1, *([Rates(0.5, 1000.0, 0.0, 0.0, 0.01)] * 3))
STEPPED = Kernel(
    block=4,
    first=4,
    divisor=2,
    fast=Rates(0.5, 1000.0, 0.1, 0.1, 0.0),
    narrow=Rates(0.5, 4000.0, 0.1, 0.1, 0.0),
    slow=Rates(0.7, 3000.0, 0.4, 0.2, 0.0),
)
DEPTHWISE = Kernel(4, 2, 2, STEPPED.fast, STEPPED.slow, STEPPED.slow)


def made_up(machine: Machine = ELSEWHERE, name: str = "made-up") -> DeviceProfile:
    """Blocks of 4 channels, and convolutions that are fast from 4 inputs on, where these are even."""
    kernels = {"3x3": STEPPED, "1x1": STEPPED, "depthwise": DEPTHWISE, "linear": WHOLE}
    steps = tuple(Step(kind, 8, 8, 14, 12.5) for kind in KINDS)
    return DeviceProfile(
        name, "onnxruntime", "1.0", "CPUExecutionProvider", "float32", 1, machine, kernels, steps
    )
