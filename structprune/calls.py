"""What functions of the Python interface have around them: gradients are on, errors name arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from structprune.errors import StructpruneError

P = ParamSpec("P")
R = TypeVar("R")

OPTION = re.compile(r"(?<![\w/\\'-])(?<!command line )--([a-z][a-z-]*)")

ARGUMENTS = {"input-size": "example_input", "device": "the device of example_input"}
"""Arguments that have another name than the option."""


def called_from_python(function: Callable[P, R]) -> Callable[P, R]:
    """Switch gradients on, and let an error name arguments where the command line has options.

    Whoever evaluates networks under ``no_grad`` may well call from there.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            try:
                return function(*args, **kwargs)
            except StructpruneError as error:
                error.args = (in_python(str(error)),)
                raise

    return run


def in_python(words: str) -> str:
    """Return a message with arguments in the place of options.

    Example:
        >>> in_python("--cut-padded lets them leave")
        'cut_padded lets them leave'
        >>> in_python("my--weights.pt is no checkpoint")
        'my--weights.pt is no checkpoint'
        >>> in_python("runs/--old exists")
        'runs/--old exists'
    """
    return OPTION.sub(lambda found: ARGUMENTS.get(found[1], found[1].replace("-", "_")), words)
