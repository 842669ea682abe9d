"""What functions of the Python interface have around them: gradients are on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def called_from_python(function: Callable[P, R]) -> Callable[P, R]:
    """Switch gradients on: whoever evaluates networks under ``no_grad`` may well call from there."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return run
