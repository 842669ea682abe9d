"""From the options of a verb to the network, its inputs and how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from structprune.channels.scope import Scope
from structprune.cli.options import DataOptions, NetworkOptions, PlaceOptions, ScopeOptions, ScoreOptions
from structprune.cli.runs import network as inputs
from structprune.data import ImageSet
from structprune.environment import device_named
from structprune.nn.folding import folded
from structprune.nn.trained import is_trained
from structprune.scoring.samples import Samples
from structprune.scoring.score import Scoring, check_loss

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scored:
    """Options of a verb that scores a network.

    Attributes:
        network: how it is read.
        data: images.
        scoring: how it is scored.
        place: where, and from which seed.
        steps: cuts, rescored in between.
        batch_size: images at once in training and evaluation.
        mirror: whether training images are mirrored; None as the data have it.
    """

    network: NetworkOptions
    data: DataOptions
    scoring: ScoreOptions
    place: PlaceOptions
    steps: int = 1
    batch_size: int = 128
    mirror: bool | None = None


@dataclass(frozen=True)
class Gathered:
    """All that scoring needs.

    Attributes:
        network: what is scored.
        images: the data in their parts, or None without data.
        samples: what scores.
        scoring: how.
        trained_why: how it was decided whether the network counts as trained.
    """

    network: inputs.Network
    images: inputs.Images | None
    samples: Samples
    scoring: Scoring
    trained_why: str


def gather(spec: str, options: Scored, say: Say) -> Gathered:
    """Read the network and the data that the options name."""
    data, seed = options.data, options.place.seed
    learn, test = inputs.read_data(data.data, data.test_data) if data.data else (None, None)
    learn = learn and inputs.mirrored(learn, options.mirror)
    network = read(spec, options.network, options.place, say, learn)
    images = None
    if learn is not None:
        count = options.scoring.samples
        images = inputs.prepare(
            learn,
            test,
            network,
            mean=data.mean,
            std=data.std,
            samples=count,
            batch_size=options.batch_size,
            seed=seed,
        )
    samples = inputs.samples_for(network, images, options.scoring.samples, seed, options.scoring.loss)
    source = network.source
    trained, why = is_trained(
        network.model, source.from_checkpoint, source.pretrained, options.scoring.trained
    )
    scoring = scoring_of(options, trained)
    check_loss(samples, scoring)
    return Gathered(network, images, samples, scoring, why)


def read(
    spec: str, options: NetworkOptions, place: PlaceOptions, say: Say, images: ImageSet | None = None
) -> inputs.Network:
    """Read a network, its folded form where weights are computed from others."""
    network = inputs.read_network(
        spec,
        arch=options.arch,
        pretrained=options.pretrained,
        trust_pickle=options.trust_pickle,
        no_ema=options.no_ema,
        classes=options.classes,
        input_size=options.input_size,
        device=place.device,
        seed=place.seed,
        given=options.input,
        images=images,
        say=say,
    )
    model, notes = folded(network.model)
    return replace(network, model=model, notes=(*network.notes, *notes))


def scope_of(options: ScopeOptions) -> Scope:
    """What the options let be cut."""
    return Scope(tuple(options.skip), tuple(options.only), options.cut_padded, options.embedding)


def check_early(options: Scored) -> None:
    """Refuse a criterion or a device that is not there, before anything is read."""
    scoring_of(options, trained=False)
    device_named(options.place.device)


def scoring_of(options: Scored, trained: bool) -> Scoring:
    """How the options ask to score."""
    chosen = options.scoring
    return Scoring(
        score=chosen.score,
        trained=trained,
        accumulate=chosen.accumulate,  # type: ignore[arg-type]  # checked by its own class
        batch_norm=chosen.batch_norm,
        draws=chosen.draws,
        chunk=chosen.chunk,
        steps=options.steps,
        seed=options.place.seed,
        mini_batch=chosen.mini_batch,
        labels=chosen.labels,  # type: ignore[arg-type]
    )


def stem(spec: str) -> str:
    """Name a network before it is read, for files and columns: by its file, folder, zoo or factory.

    Example:
        >>> stem("torchvision:resnet18"), stem("resnet18.pt")
        ('resnet18', 'resnet18')
    """
    path = Path(spec)
    if path.is_dir():
        return path.resolve().name
    return spec.rpartition(":")[2] if ":" in spec and not path.exists() else path.stem
