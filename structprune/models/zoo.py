"""Networks by name: our own, torchvision's, timm's and transformers', and what each says about its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from structprune.errors import InputError, UsageError, argument
from structprune.models import optional_packages as extras
from structprune.models.definitions import MODELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# torchvision's two networks with auxiliary heads, and how their published weights want them built.
AUXILIARY: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "transform_input": True},
    "inception_v3": {"aux_logits": True, "transform_input": True},
}

# torchvision's networks with position tables for one image size.
FIXED_SIZE = frozenset({"vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14", "maxvit_t"})


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants to be fed with.

    Attributes:
        input_shape: of one input, (C, H, W).
        mean: subtracted from each channel of an image in [0, 1].
        std: divided by, after that.
        assumed: whether the image size is a habit of the zoo rather than a need of the network.
        ids: of a network that reads ids, of words say, how many there are; None where it reads numbers.
    """

    input_shape: tuple[int, ...] = (3, 224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    assumed: bool = True
    ids: int | None = None


@dataclass(frozen=True)
class Zoo:
    """A registry of networks that are built from a name and arguments, importing nothing else.

    Attributes:
        names: of all networks.
        build: (name, arguments, pretrained) -> network.
        preprocessing: name -> what it wants to be fed with.
        arguments: the keyword arguments that a stored plan may set; None: any number, truth value or list.
    """

    names: Callable[[], Sequence[str]]
    build: Callable[[str, Mapping[str, Any], bool], nn.Module]
    preprocessing: Callable[[str], Preprocessing]
    arguments: frozenset[str] | None


def _build_own(name: str, arguments: Mapping[str, Any], pretrained: bool) -> nn.Module:
    if pretrained:
        raise UsageError(
            f"structprune ships no weights of {name}; give a file of weights instead of "
            f"{argument('pretrained')}"
        )
    return MODELS[name](**arguments)


def _own_preprocessing(name: str) -> Preprocessing:
    if name == "mlp":
        return Preprocessing((1, 28, 28), (0.0,), (1.0,), assumed=False)
    return Preprocessing((3, 64, 64) if name == "earlycrop_vgg16" else (3, 32, 32), assumed=False)


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models) + _segmentation_names()
    return names


def _segmentation_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models.segmentation)
    return names


def _build_torchvision(name: str, arguments: Mapping[str, Any], pretrained: bool) -> nn.Module:
    from torchvision import models

    # Said, it warns no more of its coming default; True would draw from SciPy for minutes.
    quiet: dict[str, Any] = {"init_weights": False} if name in AUXILIARY and not pretrained else {}
    if name in _segmentation_names() and not pretrained:
        quiet = {"weights_backbone": None}  # else torchvision fetches those
    try:
        model: nn.Module = models.get_model(
            name, weights="DEFAULT" if pretrained else None, **{**quiet, **arguments}
        )
    except OSError as error:
        raise InputError(f"the weights of {name} can't be fetched: {error}") from error
    return model


def _torchvision_preprocessing(name: str) -> Preprocessing:
    from torchvision import models

    transforms = models.get_model_weights(name).DEFAULT.transforms()
    size = getattr(transforms, "crop_size", transforms.resize_size)[0]
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Preprocessing((3, size, size), mean, std, assumed=name not in FIXED_SIZE)


def _extra_preprocessing(find: Callable[[str], Mapping[str, Any]]) -> Callable[[str], Preprocessing]:
    return lambda name: Preprocessing(**find(name))


ZOOS: Mapping[str, Zoo] = {
    "structprune": Zoo(
        lambda: list(MODELS),
        _build_own,
        _own_preprocessing,
        frozenset({"num_classes", "shortcut", "input_shape", "hidden"}),
    ),
    "torchvision": Zoo(
        _torchvision_names,
        _build_torchvision,
        _torchvision_preprocessing,
        frozenset({"num_classes", "aux_logits", "transform_input"}),
    ),
    "timm": Zoo(
        extras.timm_names,
        extras.build_timm,
        _extra_preprocessing(extras.timm_preprocessing),
        frozenset({"num_classes", "in_chans", "img_size"}),
    ),
    "transformers": Zoo(
        extras.transformers_names,
        extras.build_transformers,
        _extra_preprocessing(extras.transformers_preprocessing),
        None,
    ),
}
