"""Functions of these benchmarks run in a process of its own, with the structprune of any checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
"""This checkout."""

# The other structprune is imported first, and then stays the one that this checkout's benchmarks call.
_CODE = """
import importlib, json, sys, warnings
import structprune, torch
root, here, module, function, arguments = sys.argv[1:]
assert structprune.__file__.startswith(root), structprune.__file__
sys.path.insert(0, here)
torch.set_num_threads(1)
warnings.simplefilter("ignore")
importlib.import_module("benchmarks.moved_names").alias()
found = getattr(importlib.import_module(module), function)(*json.loads(arguments))
print("FOUND" + json.dumps(found))
"""


def call(checkout: Path, function: str, *arguments: Any, seconds: float | None = None) -> Any:
    """Call a function with the structprune of a checkout, and print what it prints.

    Args:
        checkout: the root of one; this one's is ``HERE``.
        function: ``"benchmarks.fuzz:findings"``; it returns what JSON can hold.
        arguments: what JSON can hold.
        seconds: that it may take.

    Raises:
        RuntimeError: it fails or takes longer; its last line of errors.
    """
    root, (module, _, name) = str(checkout.resolve()), function.partition(":")
    command = [sys.executable, "-P", "-c", _CODE, root, str(HERE), module, name, json.dumps(arguments)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env={**os.environ, "PYTHONPATH": root},
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {seconds:g} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["killed"])[-1])
    said, _, found = done.stdout.rpartition("FOUND")
    print(said, end="", flush=True)
    return json.loads(found)
