"""From options to a network, its example input and its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from structprune.data import (
    Batches,
    ImageSet,
    check_labels,
    check_same_classes,
    has_test_split,
    hold_out,
    read_images,
    same_place,
    scoring_sample,
    to_batches,
    without,
)
from structprune.data.classification import logits, loss
from structprune.environment import device_named
from structprune.errors import InputError, UsageError
from structprune.files import UNREADABLE, read_arrays
from structprune.models import Source, read
from structprune.reconstruction import FITTED, HELD_OUT
from structprune.scoring.samples import DEFAULT_SAMPLES, Samples, fitted, random_samples
from structprune.scoring.sampling import MINI_BATCH, Batch, mini_batches_of
from structprune.training import evaluate, finetune
from structprune.workflows.request import Judge

Say = Callable[[str], None]
EXAMPLES = 3


@dataclass(frozen=True)
class Network:
    """A network on its device, ready to run.

    Attributes:
        source: where it came from.
        model: in evaluation mode.
        size: (C, H, W) of one input, or (features,).
        example: inputs that it takes.
        notes: what a reader of the report must know.
    """

    source: Source
    model: nn.Module
    size: tuple[int, ...]
    example: tuple[Tensor, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Images:
    """Images in the parts that must not mix.

    Attributes:
        score: what scores.
        train: what fine-tunes; it holds what scores.
        test: what accuracy is taken on.
        how: which images these are, in words.
        notes: what a reader of the report must know.
    """

    score: Batches
    train: Batches
    test: Batches
    how: str
    notes: tuple[str, ...]


def read_network(
    spec: str,
    *,
    arch: str | None = None,
    pretrained: bool = False,
    trust_pickle: bool = False,
    no_ema: bool = False,
    classes: int | None = None,
    input_size: tuple[int, int, int] | None = None,
    device: str = "cpu",
    seed: int = 0,
    given: Path | None = None,
    images: ImageSet | None = None,
    say: Say = lambda _: None,
) -> Network:
    """Read a network and settle the size of its input: the option's, else the data's, else its own."""
    place = device_named(device)
    torch.manual_seed(seed)  # zoos draw fresh weights from the global generator
    say(f"reading {spec.rstrip('/').rpartition('/')[2]}")
    source = read(
        spec,
        arch=arch,
        pretrained=pretrained,
        trust_pickle=trust_pickle,
        num_classes=classes,
        no_ema=no_ema,
    )
    size, notes = _size(source, input_size, images)
    for note in notes:
        say(note)
    model = source.model.to(place).eval()
    generator = torch.Generator().manual_seed(seed)
    drawn = (_example(source, size, generator),) if given is None else read_inputs(given)
    example = tuple(x.to(place) for x in drawn)
    if given is not None:
        size, notes = tuple(example[0].shape[1:]), ()
    _try(model, example, size)
    return Network(source, model, size, example, (*source.notes, *notes))


def read_inputs(path: Path) -> tuple[Tensor, ...]:
    """Read example inputs: the array of an ``.npy``, or those of an ``.npz`` in their order.

    Raises:
        InputError: it is no such file, or the arrays are no inputs of one batch.
    """
    try:
        arrays = read_arrays(path).values()
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path.name} can't be read as inputs: {reason}; give an .npy array or an .npz of them"
        ) from error
    lengths = {len(x) if x.dim() else 0 for x in tensors}
    if len(lengths) != 1 or min(lengths) < 2:
        shapes = [tuple(x.shape) for x in tensors]
        raise InputError(f"{path.name} holds arrays of shapes {shapes}; expected 2 inputs or more in each")
    return tuple(x.float() if x.dtype == torch.float64 else x for x in tensors)


def _size(
    source: Source, asked: tuple[int, int, int] | None, images: ImageSet | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    if asked is not None:
        return asked, ()
    own = source.input_shape
    if not source.input_shape_assumed or len(own) != 3:
        return own, ()
    if images is not None and images.shape is not None:
        size = (own[0], *images.shape[1:])
        words = " x ".join(map(str, size))
        return size, (f"input size {words}, that of the images; --input-size says otherwise",)
    words = " x ".join(map(str, own))
    return own, (f"input size assumed {words}: the weights don't tell it, --input-size says otherwise",)


def _example(source: Source, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if source.ids is None:
        return torch.randn((EXAMPLES, *size), generator=generator)
    return torch.randint(0, source.ids, (EXAMPLES, *size), generator=generator)


def _try(model: nn.Module, example: tuple[Tensor, ...], size: tuple[int, ...]) -> None:
    try:
        with torch.no_grad():
            model(*example)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        raise InputError(
            f"the network can't run on inputs of size {size}: {reason}; "
            "give the size it takes with --input-size"
        ) from error


def read_data(data: str, test_data: str | None) -> tuple[ImageSet, ImageSet | None]:
    """Read the images to learn from, and those to judge on where there are any of their own."""
    learn = read_images(data, split="train")
    if test_data is not None and not has_test_split(data) and same_place(data, test_data):
        raise UsageError("--data and --test-data are the same images; leave --test-data out to hold 20 % out")
    if test_data is not None:
        test = read_images(test_data, split="test" if has_test_split(test_data) else "train")
    elif has_test_split(data):
        test = read_images(data, split="test")
    else:
        return learn, None
    return without(learn, test), test


def prepare(
    learn: ImageSet,
    test: ImageSet | None,
    network: Network,
    *,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    samples: int | None,
    batch_size: int,
    seed: int,
) -> Images:
    """Split and normalise images for a network."""
    if len(network.size) != 3:
        raise InputError(
            f"the network takes inputs of size {network.size} and --data are images; "
            "say how large it wants them with --input-size C H W"
        )
    notes = [*learn.notes, *(() if test is None else test.notes)]
    if test is None:
        kept, held = hold_out(learn.labels, seed=seed)
        learn, test = learn.take(kept), learn.take(held)
        notes.append(f"no test data: {len(test)} of the images of --data were held out before scoring")
    check_same_classes(learn, test)
    for images in (learn, test):
        check_labels(images, _outputs(network))
    wanted = {"least": samples, "most": samples} if samples else {}
    scoring = scoring_sample(learn.labels, seed=seed, **wanted)
    channels = network.size[0]
    mean = _for_channels(network.source.mean if mean is None else mean, channels)
    std = _for_channels(network.source.std if std is None else std, channels)
    notes.append(f"images in [0, 1] normalised with mean {_listed(mean)}, standard deviation {_listed(std)}")
    for images in {(each.name, each.shape): each for each in (learn, test)}.values():
        notes += _resized(images, network.size)
    how = f"{test.name}, images that neither scored nor trained"

    def batches(images: ImageSet, size: int) -> Batches:
        return to_batches(images, size=network.size, mean=mean, std=std, batch_size=size)  # type: ignore[arg-type]

    return Images(
        batches(learn.take(scoring), MINI_BATCH),
        batches(learn, batch_size),
        batches(test, batch_size),
        how,
        tuple(notes),
    )


def _resized(images: ImageSet, size: tuple[int, ...]) -> Iterator[str]:
    """Say so where images don't come in the size that the network takes."""
    own = None if images.shape is None else images.shape[1:]
    if own != size[1:]:
        came = "images of several sizes" if own is None else f"images of {own[0]} x {own[1]}"
        yield f"{images.name}: {came} are resized to {size[1]} x {size[2]}"


def mirrored(images: ImageSet, mirror: bool | None) -> ImageSet:
    """Return images that are mirrored in training or not, as the option says, else as the data do."""
    return images if mirror is None else replace(images, mirrors=mirror)


def about_mirrors(images: Images) -> tuple[str, ...]:
    """Say so where images are mirrored in training."""
    mirrors = images.train.images.mirrors
    return ("training images are mirrored at random, --no-mirror says otherwise",) if mirrors else ()


def _outputs(network: Network) -> int:
    with torch.no_grad():
        output = network.model(*network.example)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise InputError(
            "--data needs a classifier, whose output is (N, classes); use the Python interface for others"
        )
    return int(output.shape[1])


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) != channels and channels == 1:
        return (sum(values) / len(values),)  # grey images under colour statistics
    return values * channels if len(values) == 1 else values


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def samples_for(
    network: Network, images: Images | None, count: int | None, seed: int, asked: str | None = None
) -> Samples:
    """Return what scores a network: images, or random inputs where there are none.

    Args:
        network: what is scored.
        images: what scores.
        count: how many random inputs.
        seed: of these.
        asked: the name of the loss, or None for the one that fits.
    """
    if images is None:
        return random_samples(network.model, network.example, count or DEFAULT_SAMPLES, seed, asked)
    place = network.example[0].device
    batches = mini_batches_of([Batch((x.to(place),), y.to(place)) for x, y in images.score])
    how = f"{sum(map(len, batches))} images of {images.train.images.name}"
    found = Samples(batches, loss, lambda net, x: logits(net(*x)), real=True, how=how, classes=True)
    if asked in (None, "cross-entropy"):
        return found
    few = tuple(x[:EXAMPLES] for x in batches[0].inputs)
    return replace(fitted(found, logits(network.model(*few)), asked), classes=False)


def judge(images: Images) -> Judge:
    """Return how accuracy is taken on the test images."""
    return Judge(lambda model: evaluate(model, images.test), len(images.test.images), images.how)


def unlabelled(images: Images, network: Network, seed: int) -> tuple[Tensor, ...]:
    """Return training images that a cut network is mended and judged on."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images.train.images), generator=generator)[: FITTED + HELD_OUT]
    chosen, _ = images.train.batch(order.numpy())
    return (chosen.to(network.example[0].device),)


def finetuner(
    images: Images, epochs: int, seed: int, say: Say, teacher: nn.Module | None = None
) -> Callable[[nn.Module], None]:
    """Return what trains a shrunk network in place; a teacher counts beside the labels."""

    def progress(done: int, total: int, value: float) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            say(f"fine-tuning, step {done} of {total}, loss {value:.3f}")

    return lambda model: finetune(model, images.train, epochs, seed=seed, progress=progress, teacher=teacher)
