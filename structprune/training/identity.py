"""What must be the same for a training to go on where another one stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from structprune.data import Batches
from structprune.scoring.samples import Samples
from structprune.training.checksums import images_digest, tensors_digest
from structprune.training.description import code_of, described, layers_of

if TYPE_CHECKING:
    from structprune.training.session import Session

Fingerprint = dict[str, Any]
NOTHING = "nothing"


def fingerprint(session: Session) -> Fingerprint:
    """Return what a training depends on: its settings, its network with the code of it, and its images.

    The device is not among them: a training may go on elsewhere, to nearly the same weights.
    """
    return {
        **_settings(session),
        "network": layers_of(session.model),
        "code": code_of(session.model),
        "initial weights": _weights_digest(session.model),
        "training images": _about_images(session.train),
        "validation images": None if session.validation is None else _about_images(session.validation),
        "scoring inputs": _about_samples(session.samples),
    }


def _settings(session: Session) -> Fingerprint:
    return {
        "method": session.name,
        "seed": session.seed,
        "sparsity": session.remove,
        "epochs": session.epochs,
        "recipe": {name: described(value) for name, value in asdict(session.recipe).items()},
        "draws": session.draws,
        "processes": session.crew.size,
        "steps": session.steps,
        "floor": session.floor,
        "align": session.align,
        "latest": session.latest,
        "published length": session.published_length,
        "published detector": session.published_detector,
        "precision": session.precision,
        "channels last": session.channels_last,
        "example": [f"{x.dtype} {tuple(x.shape)}" for x in session.example],
        "method in detail": {name: described(value) for name, value in asdict(session.method).items()},
    }


def _weights_digest(model: nn.Module) -> str:
    """Checksum of parameters and of all buffers, those too that no state dict has."""
    return tensors_digest(chain(model.parameters(), model.buffers()))


def _about_images(batches: Batches) -> Fingerprint:
    images = batches.images
    return {
        "name": images.name,
        "number": len(images),
        "mirrored": images.mirrors,
        "classes": described(images.classes),
        "size": list(batches.preprocessing.size),
        "mean": list(batches.preprocessing.mean),
        "std": list(batches.preprocessing.std),
        "batch size": batches.batch_size,
        "labels": tensors_digest([torch.from_numpy(images.labels)]),
        "checksum": images_digest(images),
    }


def _about_samples(samples: Samples) -> Fingerprint:
    return {
        "source": samples.how,
        "loss": described(samples.loss),
        "forward": described(samples.forward),
        "classes": samples.classes,
        "real": samples.real,
        "checksum": tensors_digest(_tensors_of([(x.inputs, x.target) for x in samples.batches])),
    }


def _tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (x for key in sorted(value) for x in _tensors_of(value[key]))
    elif isinstance(value, (list, tuple)):
        yield from (x for each in value for x in _tensors_of(each))


def difference(before: Any, now: Any, name: str = "") -> tuple[str, str, str] | None:
    """Find the first thing in which two fingerprints differ: its name, what it was, and what it is now."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = [*now, *(key for key in before if key not in now)]
        inside = (
            difference(before.get(key, NOTHING), now.get(key, NOTHING), _joined(name, key)) for key in names
        )
        return next((found for found in inside if found is not None), None)
    same = type(before) is type(now) and before == now
    return None if same else (name, _shown(before), _shown(now))


def _joined(name: str, key: str) -> str:
    return f"{name}, {key or 'itself'}" if name else key


def _shown(value: Any) -> str:
    return f"a table of {len(value)}" if isinstance(value, Mapping) else str(value)
