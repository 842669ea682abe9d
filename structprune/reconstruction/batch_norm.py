"""The cheaper correction: batch-norm statistics taken anew, weights as they were cut."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.func import functional_call

from structprune.nn.batch_norm import collect_statistics
from structprune.nn.layers import batch_norms

BATCH = 128


def recalibrate(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Take batch-norm statistics of some inputs, in place; return the names of the norms.

    Means and variances are those over batches of about 128, so that inputs of any number fit into memory.
    """
    norms = [name for name, _ in batch_norms(model)]
    parts = max(1, math.ceil(len(inputs[0]) / BATCH))
    batches = list(zip(*(x.chunk(parts) for x in inputs), strict=True))
    statistics = collect_statistics(
        model, lambda buffers, batch: functional_call(model, dict(buffers), batch), batches
    )
    model.load_state_dict(statistics, strict=False)
    return norms
