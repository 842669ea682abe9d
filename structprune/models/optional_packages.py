"""timm and transformers, where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from structprune.errors import InputError, UsageError

WORDS = 16
"""Length of the texts that language models are tried on."""

# transformers' heads in the order in which they are tried.
HEADS = ("AutoModelForImageClassification", "AutoModelForSequenceClassification", "AutoModel")


def _need(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{package} is not installed; pip install 'structprune[{package}]' brings it"
        ) from error


def timm_names() -> list[str]:
    """Every network that timm knows."""
    names: list[str] = _need("timm").list_models()
    return names


def build_timm(name: str, arguments: Mapping[str, Any], pretrained: bool) -> nn.Module:
    """Build one of timm's networks from its own registry."""
    model: nn.Module = _need("timm").create_model(name, pretrained=pretrained, **arguments)
    return model


def timm_preprocessing(name: str) -> Mapping[str, Any]:
    """Input shape, mean and std of timm's default configuration."""
    config = _need("timm").get_pretrained_cfg(name)
    if config is None:
        return {}
    return {
        "input_shape": tuple(config.input_size),
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "assumed": not config.fixed_input_size,
    }


def transformers_names() -> list[str]:
    """Every model type that transformers has a configuration for."""
    _need("transformers")
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    return sorted(auto.CONFIG_MAPPING_NAMES)


def build_transformers(name: str, arguments: Mapping[str, Any], pretrained: bool) -> nn.Module:
    """Build a model type from its default configuration, with some numbers of it changed."""
    if pretrained:
        raise UsageError(
            f"transformers:{name} is a model type, which has no weights of its own; load the weights"
            " in a factory of yours and give package.module:factory"
        )
    transformers = _need("transformers")
    # The command line and the reports call it num_classes everywhere.
    numbers = {"num_labels" if key == "num_classes" else key: value for key, value in arguments.items()}
    config = transformers.AutoConfig.for_model(name, **numbers)
    for head in HEADS:
        auto = getattr(transformers, head)
        if type(config) in auto._model_mapping:
            model: nn.Module = auto.from_config(config)
            return model
    raise InputError(f"transformers has no network for the model type {name!r}")


def transformers_preprocessing(name: str) -> Mapping[str, Any]:
    """Image size and channels of a model type's default configuration, and 0.5 for mean and std.

    A model type with a vocabulary and no channels reads ids of words.
    """
    config = _need("transformers").AutoConfig.for_model(name)
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary and not hasattr(config, "num_channels"):
        return {"input_shape": (WORDS,), "mean": (0.0,), "std": (1.0,), "assumed": True, "ids": vocabulary}
    channels, size = getattr(config, "num_channels", 3), getattr(config, "image_size", None)
    half = (0.5,) * channels
    shape = (channels, size or 224, size or 224)
    return {"input_shape": shape, "mean": half, "std": half, "assumed": size is None}
