"""A network from whatever the user names: the one function behind every INPUT of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.errors import InputError, UsageError, argument
from structprune.models.architecture import FACTORY, Architecture, build, build_on_meta
from structprune.models.fitting import AnyKnown, OneNamed, fit
from structprune.models.identify import COUNTER, identify, shapes_of
from structprune.models.naming import architecture_named, is_zoo
from structprune.models.results.rebuild import PLAN, read_plan, rebuild
from structprune.models.tensors import INTEGERS, check_finite, check_memory, stored_as
from structprune.models.weight_files import State, read_file
from structprune.models.weight_sets import weight_sets
from structprune.models.zoo import ZOOS, Preprocessing


@dataclass(frozen=True)
class Source:
    """A network that was read, and all that is known of it.

    Attributes:
        model: on the CPU, float32, in the mode in which it was built.
        architecture: what it is built from, or None for a network that no registry and no factory names; of
            a result folder, the unpruned network's.
        name: for folder names and reports: a file's stem or a zoo's name, never a path.
        input_shape: of one input, (C, H, W), or (features,).
        input_shape_assumed: whether the image size is a guess that data may correct.
        from_checkpoint: whether the weights came from a file.
        pretrained: whether the weights came from the zoo.
        mean: the architecture's own normalisation, a number a channel, for images in [0, 1].
        std: likewise.
        ids: how many different ids the network reads, or None where it reads numbers.
        notes: what a reader of the report should know.
    """

    model: nn.Module
    architecture: Architecture | None
    name: str
    input_shape: tuple[int, ...]
    input_shape_assumed: bool
    from_checkpoint: bool
    pretrained: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ids: int | None = None
    notes: tuple[str, ...] = ()


def read(
    spec: str,
    *,
    arch: str | None = None,
    pretrained: bool = False,
    trust_pickle: bool = False,
    num_classes: int | None = None,
    no_ema: bool = False,
) -> Source:
    """Read a network.

    Args:
        spec: a file of weights, a pickled network, a result folder, a zoo's name (``resnet18``,
            ``torchvision:resnet18``, ``timm:...``, ``transformers:...``) or ``package.module:factory``.
        arch: the architecture of a state dict, as a zoo's name or a factory; None: found from its names.
        pretrained: fetch the zoo's weights.
        trust_pickle: the user's word that a pickle may run code.
        num_classes: outputs of a network from a zoo; None: the zoo's default, or what the weights say.
        no_ema: take the weights that were trained where a file holds their moving averages too.

    Raises:
        InputError: there is no such file, or it can't be used; one sentence says why and what to do.
        UnsafeCheckpointError: reading the file would run code.
        UsageError: options that do not go together; an unknown name; an extra that is not installed.
    """
    path = Path(spec)
    on_disk = os.path.lexists(path) and not (path.is_dir() and not (path / PLAN).exists() and is_zoo(spec))
    _check_options(spec, on_disk, arch, pretrained)
    if on_disk and path.is_dir():
        return _from_folder(path, arch)
    if on_disk:
        return _from_file(path, arch, trust_pickle, num_classes, no_ema)
    return _from_name(spec, pretrained, num_classes)


def _check_options(spec: str, on_disk: bool, arch: str | None, pretrained: bool) -> None:
    if on_disk and pretrained:
        raise UsageError(
            f"{argument('pretrained')} fetches a zoo's weights, but {Path(spec).name} brings its own"
        )
    if arch is not None and not on_disk and not _looks_like_path(spec):
        raise UsageError(f"{argument('arch')} says what a file's weights belong to, but {spec} is no file")


def _looks_like_path(spec: str) -> bool:
    return "/" in spec or os.sep in spec or bool(Path(spec).suffix)


# Names ----------------------------------------------------------------------------------------------------


def _from_name(spec: str, pretrained: bool, classes: int | None) -> Source:
    if ":" not in spec and _looks_like_path(spec) and not is_zoo(spec):
        raise InputError(f"there is no file {spec}")
    architecture = architecture_named(spec, classes)
    if pretrained and (architecture.zoo == FACTORY or classes is not None):
        raise UsageError(f"{argument('pretrained')} goes with a zoo's name and its own number of classes")
    model = build(architecture, trust_factory=True, pretrained=pretrained)
    return _source(model, architecture, architecture.name, pretrained=pretrained)


# Files ----------------------------------------------------------------------------------------------------


def _from_file(path: Path, arch: str | None, trust_pickle: bool, classes: int | None, no_ema: bool) -> Source:
    content = read_file(path, trust_pickle=trust_pickle)
    finder = AnyKnown() if arch is None else OneNamed(arch, classes)
    sets = weight_sets(content, path.name, no_ema)
    check_memory((x for each in sets for x in each.tensors), path)
    chosen = fit(sets, finder, path.name)
    weights, architecture, notes = chosen.content, chosen.architecture, chosen.notes
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    check_finite(state, path.name)
    notes = (*_precision_notes(state), *notes)
    if isinstance(weights, nn.Module):
        model, architecture = weights.float().cpu(), _architecture_of(weights)
    else:
        assert architecture is not None
        model = _with_weights(architecture, weights, path.name)
        notes += () if arch else (f"the names and shapes of its weights are those of {architecture.source}",)
    return replace(_source(model, architecture, path.stem, notes=notes), from_checkpoint=True)


def _precision_notes(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} - {torch.float32}
    return tuple(
        f"weights stored as {str(kind).removeprefix('torch.')} were read as float32" for kind in kinds
    )


def _with_weights(architecture: Architecture, state: State, name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        model = build(architecture, trust_factory=True)
    names = model.state_dict()
    for key, tensor in state.items():
        if key in names and names[key].is_floating_point() and tensor.dtype in INTEGERS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(stored_as(name, key, kind))
    weights = {**_counters(model, state), **state}
    model.load_state_dict({key: weights[key] for key in names if key in weights})
    return model.float()


def _counters(model: nn.Module, state: State) -> State:
    """Batch counters that the file lacks: 1 where the statistics have moved from their start, else 0.

    Files without counters may hold trained statistics, which a counter of 0 would call untrained.
    """
    counters = [name for name in model.state_dict() if name.endswith(COUNTER)]
    return {name: torch.tensor(int(_moved(state, name.removesuffix(COUNTER)))) for name in counters}


def _moved(state: State, prefix: str) -> bool:
    mean, variance = state.get(prefix + "running_mean"), state.get(prefix + "running_var")
    if mean is None or variance is None:
        return False
    return bool((mean != 0).any() or (variance != 1).any())


def _architecture_of(model: nn.Module) -> Architecture | None:
    """What rebuilds a network that was pickled whole: same names, shapes, class and printed structure."""
    architecture = identify(shapes_of(model.state_dict()))
    if architecture is None:
        return None
    twin = build_on_meta(architecture)
    return architecture if type(twin) is type(model) and repr(twin) == repr(model) else None


# Result folders -------------------------------------------------------------------------------------------


def _from_folder(folder: Path, arch: str | None) -> Source:
    if not (folder / PLAN).is_file():
        raise InputError(f"{folder.name or folder} is a folder without a {PLAN}, so no result of structprune")
    plan = read_plan(folder)
    dense = None if arch is None else build(architecture_named(arch), trust_factory=True)
    model = rebuild(folder, plan, dense)
    source = _source(model, plan.architecture, plan.name or folder.resolve().name)
    note = f"already cut by structprune: {plan.reached:.1%} of its {plan.unit} removed"
    return replace(
        source,
        input_shape=plan.input_shape,
        input_shape_assumed=False,
        from_checkpoint=True,
        notes=(note,),
    )


# What it wants to be fed with -----------------------------------------------------------------------------


def _source(
    model: nn.Module,
    architecture: Architecture | None,
    name: str,
    *,
    pretrained: bool = False,
    notes: tuple[str, ...] = (),
) -> Source:
    wants = _preprocessing(model, architecture)
    return Source(
        model=model,
        architecture=architecture,
        name=name,
        input_shape=wants.input_shape,
        input_shape_assumed=wants.assumed,
        from_checkpoint=False,
        pretrained=pretrained,
        mean=wants.mean,
        std=wants.std,
        ids=wants.ids,
        notes=notes,
    )


def _preprocessing(model: nn.Module, architecture: Architecture | None) -> Preprocessing:
    if architecture is None or architecture.zoo == FACTORY:
        return _guess(model)
    wants = ZOOS[architecture.zoo].preprocessing(architecture.name)
    shape = architecture.arguments.get("input_shape")
    if isinstance(shape, (list, tuple)):
        shape = tuple(int(size) for size in shape)
        channels = shape[0] if len(shape) == 3 else 1
        return Preprocessing(shape, (0.0,) * channels, (1.0,) * channels, assumed=False)
    return wants


def _guess(model: nn.Module) -> Preprocessing:
    """The first layer with weights tells the channels; nothing tells the image size.

    A network may say for itself: by an attribute ``input_shape``, of one input without its batch dimension,
    and ``input_ids``, how many different ids there are where it reads these.
    """
    own = getattr(model, "input_shape", None)
    if isinstance(own, tuple) and own and all(isinstance(size, int) for size in own):
        channels = own[0] if len(own) == 3 else 1
        ids = getattr(model, "input_ids", None)
        return Preprocessing(own, (0.0,) * channels, (1.0,) * channels, assumed=False, ids=ids)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            channels = module.in_channels
            if channels == 3:
                return Preprocessing()
            return Preprocessing((channels, 224, 224), (0.0,) * channels, (1.0,) * channels)
        if isinstance(module, nn.Linear):
            return Preprocessing((module.in_features,), (0.0,), (1.0,), assumed=False)
    return Preprocessing()
