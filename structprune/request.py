"""What the pipeline is asked for, what it may use, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from structprune.budget import Budget, Plan
from structprune.channels import ChannelGroups
from structprune.channels.picking import Scope
from structprune.choose import Scoring
from structprune.correction import Correction
from structprune.device_profile import DeviceProfile
from structprune.limits import Limit
from structprune.report import Int8, Measurement, MeasurementName, Proof, Report
from structprune.samples import Samples
from structprune.scores import Scores
from structprune.sources.architecture import Architecture
from structprune.trainer import Session, Trained

Say = Callable[[str], None]


class Measured(Protocol):
    """What measuring gives back."""

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """In the order in which they were taken."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured, and why."""


class Meter(Protocol):
    """Energy that was spent, or None where it can't be told; and how it was taken, or why it wasn't."""

    joules: float | None
    how: str


class Tools(Protocol):
    """What the package ``exporters`` does for the pipeline."""

    def export(self, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
        """Write an ONNX file; what comes back tells ``exporter``, ``opset`` and ``fallback``."""

    def check(self, model: nn.Module, path: Path, inputs: tuple[Tensor, ...], written: Any = None) -> Proof:
        """Compare a module with its ONNX file, given what ``export`` told of it."""

    def count_flops(self, model: nn.Module, example: tuple[Tensor, ...]) -> int:
        """Count the multiply-adds of one input."""

    def metered(self) -> AbstractContextManager[Meter]:
        """Take the energy of what happens inside."""

    def measure(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        example: tuple[Tensor, ...],
        files: tuple[Path, Path],
        say: Say,
    ) -> Measured:
        """Measure both networks, given as modules and as ONNX files."""

    def compare(
        self, name: MeasurementName, files: Sequence[Path], example: tuple[Tensor, ...], seconds: float
    ) -> Sequence[Measurement]:
        """Take the batch time, memory or disk of ONNX files, each held against the first, itself included."""

    def quantise(self, path: Path, out: Path, inputs: tuple[Tensor, ...], measure: bool, say: Say) -> Int8:
        """Write an int8 form of an ONNX file, compare the two and, where asked, time them."""

    def as_module(self, path: Path) -> nn.Module:
        """Return an ONNX file as a module that can be judged."""

    def break_even(self, spent_joules: float, dense_joules: float, pruned_joules: float) -> float | None:
        """Return after how many inferences the energy spent is earned back."""


class Subject(Protocol):
    """What a run is about: the dense network, and what is to be made of the one that comes of it."""

    @property
    def model(self) -> nn.Module:
        """The dense network."""

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Positional inputs with a batch dimension."""

    @property
    def name(self) -> str:
        """Name of the network."""

    @property
    def architecture(self) -> Architecture | None:
        """How to rebuild the network by name, or None."""

    @property
    def export(self) -> bool:
        """Whether to write and prove an ONNX file."""

    @property
    def measure(self) -> bool:
        """Whether to measure."""


@dataclass(frozen=True)
class Judge:
    """How the accuracy is taken.

    Attributes:
        evaluate: top-1 of a network, on images that neither score nor train.
        images: how many these are.
        how: which these are, in words.
    """

    evaluate: Callable[[nn.Module], float]
    images: int
    how: str


@dataclass(frozen=True)
class Request:
    """What is to be compressed, and how.

    Attributes:
        model: the network; it is never changed.
        example: positional inputs with a batch dimension, on the network's device.
        limits: what is asked for; none for a sweep, which stops at every depth.
        samples: what scores.
        scoring: how.
        name: of the network, for the report.
        trained_why: how ``scoring.trained`` was decided.
        architecture: how to rebuild the network by name, or None.
        judge: takes the accuracy, or None without data.
        finetune: trains the shrunk network in place, or None.
        export: whether to write and prove an ONNX file.
        measure: whether to measure.
        notes: what a reader of the report must know.
        scope: what of the network may be cut.
        correction: how the network is mended after the cut, without training, or None.
        floor: fraction of its width that every group keeps at least.
        align: number that widths become multiples of, or stay.
        int8: whether to write an int8 file beside the ONNX file.
        profile: of the device whose widths are chosen, or None for those of the budget alone.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    limits: tuple[Limit, ...]
    samples: Samples
    scoring: Scoring
    name: str
    trained_why: str
    architecture: Architecture | None = None
    judge: Judge | None = None
    finetune: Callable[[nn.Module], None] | None = None
    export: bool = True
    measure: bool = True
    notes: tuple[str, ...] = ()
    scope: Scope = field(default_factory=Scope)
    correction: Correction | None = None
    floor: float = 0.02
    align: int = 1
    int8: bool = False
    profile: DeviceProfile | None = None

    def __post_init__(self) -> None:
        self.budget()  # a floor or an alignment that makes no sense is refused before any work

    def budget(self, remove: float = 0.0) -> Budget:
        """Budget of a fraction of nodes, with the request's floor and alignment."""
        return Budget(remove, "nodes", self.floor, self.align)


@dataclass(frozen=True)
class Lesson:
    """A training with a method of pruning in it, and what becomes of the network.

    Attributes:
        session: what trains, and how.
        task: what is learned, for the report.
        recipe: the recipe's name.
        name: of the network, for the report.
        judge: takes the test accuracy, once.
        architecture: how to rebuild the network by name, or None.
        resume: whether to go on from the session's checkpoint.
        export: whether to write and prove an ONNX file.
        measure: whether to measure.
        notes: what a reader of the report must know.
    """

    session: Session
    task: str
    recipe: str
    name: str
    judge: Judge
    architecture: Architecture | None = None
    resume: bool = False
    export: bool = True
    measure: bool = True
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The network as it was before the training."""
        return self.session.model

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Positional inputs with a batch dimension."""
        return self.session.example


@dataclass(frozen=True)
class Learned:
    """A training that is done, before anything of it is written.

    Attributes:
        lesson: what it was.
        trained: what it left.
        meter: the energy that it took, or None.
    """

    lesson: Lesson
    trained: Trained
    meter: Meter | None


@dataclass(frozen=True)
class Outcome:
    """What compressing gives.

    Attributes:
        model: the shrunk network, a plain module in evaluation mode.
        plan: what it kept.
        scores: what that was chosen by.
        report: everything that was found out.
        groups: the groups of the dense network.
    """

    model: nn.Module
    plan: Plan
    scores: Scores
    report: Report
    groups: ChannelGroups
