"""What a run found out, as data: measurements, proofs, counts, and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from structprune.report.training import Training

SCHEMA = 1
"""Version of the report's JSON form; it grows when a key changes its meaning or goes away."""

MeasurementName = Literal["batch_time", "memory", "disk", "flops", "energy", "emissions"]
Runtime = Literal["torch", "torch-compile", "onnxruntime", "onnxruntime-copies", "none"]
ProofName = Literal["closed_gates", "reloaded", "onnx", "signature"]


@dataclass(frozen=True)
class Series:
    """Repeated readings of one quantity on one network.

    Attributes:
        median: their median, in the measurement's unit.
        samples: the readings themselves, in order.
    """

    median: float
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """How many times smaller the pruned network's reading is: dense / pruned.

    Attributes:
        value: median of the ratios of readings that were taken side by side.
        low: lower end of the 95 % bootstrap interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """One quantity, measured on the dense and on the pruned network under the same protocol.

    Attributes:
        name: what was measured.
        runtime: what ran the network; ``none`` for files and counts.
        batch: inputs per run, or None where that means nothing.
        threads: CPU threads used, or None where that means nothing.
        unit: of every number in it: ``ms``, ``MB``, ``GFLOP``, ``J``, ``gCO2e``.
        dense: readings of the network that came in.
        pruned: readings of the network that goes out.
        ratio: dense / pruned, or None where a ratio means nothing.
        how: protocol, device and provider in words, and whether measured or estimated.
        verdict: the ratio read aloud: ``"21.3x faster"``, ``"... no real speed-up"``.
        extra: named figures that belong to this one: percentiles, grams per 1,000 inferences.
    """

    name: MeasurementName
    runtime: Runtime
    batch: int | None
    threads: int | None
    unit: str
    dense: Series
    pruned: Series
    ratio: Ratio | None
    how: str
    verdict: str = ""
    extra: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """One comparison of two networks that must compute the same.

    Attributes:
        name: which of the four proofs.
        passed: whether every bound held.
        error: max|a - b| / max|b|.
        tolerance: the bound on ``error``, or None where only ``error_of_spread`` is bounded.
        error_of_spread: max|a - b| / s; s is the mean standard deviation of the output over the inputs.
        tolerance_of_spread: the bound on ``error_of_spread``, or None.
        spread: s / max|b|; at 1e-3 or below the comparison says nothing and can't pass.
        how: what was compared, in words: precision, inputs, batch sizes.
        inexact: where LayerNorms lost channels, max|a - b| / s against closed gates with LayerNorms that
            take mean and variance of all channels; None where the cut is exact.
        dead: whether outputs are constant, though those of the dense network on the same inputs vary.
    """

    name: ProofName
    passed: bool
    error: float
    tolerance: float | None
    error_of_spread: float | None
    tolerance_of_spread: float | None
    spread: float | None
    how: str
    inexact: float | None = None
    dead: bool = False


@dataclass(frozen=True)
class Count:
    """How much of something there is before and after: nodes, weights, parameters, FLOPs.

    Attributes:
        before: in the network that came in.
        after: in the network that goes out.
        removed: 1 - after / before.
        asked: the fraction asked for, or None where it was not the budget's unit.
    """

    before: int
    after: int
    removed: float
    asked: float | None = None


@dataclass(frozen=True)
class LimitResult:
    """A limit that was asked for, and what came of it.

    Attributes:
        name: of what: ``nodes``, ``weights``, ``params``, ``flops``, ``disk``, ``memory``, ``latency`` or
            ``speedup``.
        asked: what was asked for, in words: ``90 % removed``, ``at most 2M``, ``4x faster``.
        bound: the figure that this comes to, in ``unit``; of ``nodes`` and ``speedup`` the least, of others
            the most.
        reached: that of the network that goes out.
        unit: of both: ``ms``, ``MB``, ``x``, or none for counts.
        how: counted or measured, and on what.
    """

    name: str
    asked: str
    bound: float
    reached: float
    unit: str
    how: str


@dataclass(frozen=True)
class Protected:
    """A layer that was not cut, and why not."""

    layer: str
    reason: str


BranchKind = Literal["shape", "value", "training"]
BRANCH_WORDS: Mapping[BranchKind, str] = {
    "shape": "compares a size",
    "value": "reads a value",
    "training": "reads whether it trains",
}


@dataclass(frozen=True)
class Branch:
    """A place at which a forward pass may take another way.

    Attributes:
        kind: what its code asks for.
        module: the module whose code asks, "" for the network itself.
        line: file name and line.
        size: the size that was compared, and
        bound: what it was compared with; None for other kinds.
    """

    kind: BranchKind
    module: str
    line: str
    size: int | None = None
    bound: float | None = None

    def __str__(self) -> str:
        compared = "" if self.bound is None else f" ({self.size} with {self.bound:g})"
        return f"{self.module or 'the network'} {BRANCH_WORDS[self.kind]}{compared} at {self.line}"


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy in [0, 1] on images that neither scored nor trained.

    Attributes:
        before: of the network that came in.
        cut: right after the cut.
        finetuned: after fine-tuning, or None where there was none.
        images: how many images it was taken on.
        how: which images these are.
        mended: after the correction without training, or None where there was none or it did not help.
    """

    before: float
    cut: float
    finetuned: float | None
    images: int
    how: str
    mended: float | None = None

    @property
    def last(self) -> float:
        """Of the network that goes out."""
        found = (self.finetuned, self.mended, self.cut)
        return next(value for value in found if value is not None)


@dataclass(frozen=True)
class Int8:
    """What an int8 form of the ONNX file is worth, against the float32 file.

    Attributes:
        error_of_spread: max|a - b| / s of the int8 file's outputs a and the float32 file's b, s the mean
            standard deviation of b over the inputs; None where the outputs don't vary.
        same_largest: share of the inputs whose largest output is the same one, or None for no (N, K).
        compared: inputs that these two were taken on.
        calibrated: inputs that calibrated, none of those compared unless there were too few.
        measurements: ``dense`` is the float32 file and ``pruned`` the int8 one; empty without measuring.
        notes: what could not be measured, and why.
        calibration: which inputs calibrated, in words.
        accuracy_before: top-1 of the float32 file in [0, 1], or None without data.
        accuracy: top-1 of the int8 file.
    """

    error_of_spread: float | None
    same_largest: float | None
    compared: int
    calibrated: int
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    calibration: str = ""
    accuracy_before: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything a run found out; ``report.json`` is this and nothing else.

    Attributes:
        method: name of the method or of the score.
        model: what was compressed, as the user named it, without folders.
        seed: of everything random.
        nodes: output channels and units of every conv and linear layer but the output layers.
        weights: entries of conv and linear weights.
        parameters: entries of every parameter.
        flops: multiply-adds of one input, or None where they can't be counted.
        widths: layer -> (outputs before, outputs after), of every conv and linear layer.
        protected: layers that were not cut, and why not.
        samples: inputs that scored.
        draws: weight draws of NTK-SAP, or None where it was not asked.
        trained: whether the network counts as trained.
        trained_why: how that was decided.
        data: where the scoring inputs came from.
        proofs: in the order in which they were run.
        accuracy: or None without data.
        measurements: empty where none was asked for.
        seconds: wall time by step: ``score``, ``cut``, ``finetune``, ...
        break_even: inferences until the energy spent on compressing is earned back, or None.
        training: or None where a trained network was compressed.
        limits: what was asked for beside a fraction of nodes, and what was reached; mostly empty.
        notes: what a reader must know to read the numbers.
        software: name -> version.
        hardware: name -> value; no user name, host name or path.
        int8: or None where no int8 file was asked for.
        control_flow: where the network's own code asks for sizes, values or its mode.
        loss: what scored, in words; None where the score takes no loss.
        schema: version of this form.
    """

    method: str
    model: str
    seed: int
    nodes: Count
    weights: Count
    parameters: Count
    flops: Count | None
    widths: Mapping[str, tuple[int, int]]
    protected: tuple[Protected, ...]
    samples: int
    draws: int | None
    trained: bool
    trained_why: str
    data: str
    proofs: tuple[Proof, ...]
    accuracy: Accuracy | None = None
    measurements: tuple[Measurement, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    break_even: float | None = None
    training: Training | None = None
    limits: tuple[LimitResult, ...] = ()
    notes: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    int8: Int8 | None = None
    control_flow: tuple[Branch, ...] = ()
    loss: str | None = None
    schema: int = SCHEMA
