"""From the options of a verb to the network, its inputs and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structprune.channels.picking import Scope
from structprune.choose import Scoring, check_loss
from structprune.cli import inputs
from structprune.environment import device_named
from structprune.folding import folded
from structprune.samples import Samples
from structprune.tasks import ImageSet
from structprune.trained import is_trained

Say = Callable[[str], None]
Asked = Mapping[str, Any]


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


def gather(asked: Asked, say: Say) -> Gathered:
    """Read the network and the data that the options name."""
    learn, test = inputs.read_data(asked["data"], asked["test_data"]) if asked["data"] else (None, None)
    learn = learn and inputs.mirrored(learn, asked.get("mirror"))
    network = read(asked, say, learn)
    images = None
    if learn is not None:
        names = ("mean", "std", "samples", "batch_size", "seed")
        images = inputs.prepare(learn, test, network, **_chosen(asked, names))
    samples = inputs.samples_for(network, images, asked["samples"], asked["seed"], asked["loss"])
    source = network.source
    trained, why = is_trained(network.model, source.from_checkpoint, source.pretrained, asked["trained"])
    scoring = scoring_of(asked, trained)
    check_loss(samples, scoring)
    return Gathered(network, images, samples, scoring, why)


def read(asked: Asked, say: Say, images: ImageSet | None = None) -> inputs.Network:
    """Read the network that the options name."""
    names = ("arch", "pretrained", "trust_pickle", "no_ema", "classes", "input_size", "device", "seed")
    chosen = _chosen(asked, names)
    given = asked.get("input")
    network = inputs.read_network(asked["network"], **chosen, given=given, images=images, say=say)
    model, notes = folded(network.model)
    return replace(network, model=model, notes=(*network.notes, *notes))


def scope_of(asked: Asked) -> Scope:
    """Return what the options let be cut."""
    return Scope(tuple(asked["skip"]), tuple(asked["only"]), asked["cut_padded"], asked["embedding"])


def check_early(asked: Asked) -> None:
    """Refuse a criterion or a device that is not there, before anything is read."""
    scoring_of(asked, trained=False)
    device_named(asked["device"])


def scoring_of(asked: Asked, trained: bool) -> Scoring:
    """Return how the options ask to score."""
    names = ("score", "accumulate", "labels", "mini_batch", "batch_norm", "draws", "chunk", "steps", "seed")
    return Scoring(trained=trained, **_chosen(asked, names))


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


def _chosen(asked: Asked, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: asked[name] for name in names}
