"""What the pipeline is asked for, what it may use, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.channels.scope import Scope
from structprune.hardware.profile import DeviceProfile
from structprune.limits.parse import Limit
from structprune.models.architecture import Architecture
from structprune.pruning.budget import Budget, Plan
from structprune.reconstruction import Reconstruction
from structprune.report.data import Report
from structprune.report.protocols import Meter
from structprune.scoring.samples import Samples
from structprune.scoring.score import Scoring
from structprune.scoring.scores import Scores
from structprune.training import Session, Trained


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
    correction: Reconstruction | None = None
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
class TrainRequest:
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
class TrainResult:
    """A training that is done, before anything of it is written.

    Attributes:
        lesson: what it was.
        trained: what it left.
        meter: the energy that it took, or None.
    """

    lesson: TrainRequest
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
