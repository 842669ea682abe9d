"""What torch-pruning's own pruner makes of a network: one process, one JSON line.

    python -m benchmarks.torch_pruning_alone NAME NODES

Magnitude importance, global ranking, the layers that produce the outputs left out, all else by default.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import torch
from torch import nn

from structprune.cli.runs.network import read_network
from structprune.nn.layers import node_layers, out_width, weighted_layers


def run(name: str, nodes: float) -> dict[str, Any]:
    """Prune a network by torch-pruning alone and return what it reached, or how it failed."""
    network = read_network(name)
    model, example = network.model, network.example
    before = {key: out_width(layer) for key, layer in node_layers(model)}
    start = time.perf_counter()
    try:
        prune(model, example, nodes)
        with torch.no_grad():
            model(*example)
    except Exception as error:  # whatever it stumbles over is the result
        words = (str(error).splitlines() or [""])[0][:150]
        return {"failed": f"{type(error).__name__}: {words}", "seconds": time.perf_counter() - start}
    after = {key: out_width(layer) for key, layer in node_layers(model)}
    kept = {key for key, layer in weighted_layers(model) if after[key] == before[key]}
    outputs = _outputs(model)
    counted = {key: n for key, n in before.items() if key not in outputs}
    gone = sum(n - after[key] for key, n in counted.items())
    return {
        "nodes_removed": gone / sum(counted.values()),
        "untouched": len(kept - outputs),
        "seconds": time.perf_counter() - start,
    }


def prune(model: nn.Module, example: tuple[torch.Tensor, ...], nodes: float) -> None:
    """Prune in place as a user of torch-pruning would: magnitude, one ranking, the output layer kept."""
    import torch_pruning as tp

    outputs = _outputs(model)
    tp.pruner.BasePruner(
        model,
        example if len(example) > 1 else example[0],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=nodes,
        ignored_layers=[layer for key, layer in weighted_layers(model) if key in outputs],
        # the defaults are shared between calls
        pruning_ratio_dict={},
        unwrapped_parameters=[],
        customized_pruners={},
    ).step()


def _outputs(model: nn.Module) -> set[str]:
    """The last layer with weights, which is what a user of its pruner would protect."""
    return {[key for key, _ in weighted_layers(model)][-1]}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(run(sys.argv[1], float(sys.argv[2]))))
