"""The proof that what was written is what was made, in a process that holds nothing of this one."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.errors import ProofFailedError
from structprune.models.results import load
from structprune.nn.outputs import outputs_of
from structprune.nn.reinit import reinitialised
from structprune.proofs.comparison.gap import Bounds, Inputs, gap
from structprune.proofs.fresh_process import call_fresh
from structprune.proofs.modes import MODES, Mode, in_mode, proof_of, statistics_words, varies, where_it_counts
from structprune.report.data import Proof


def reloaded(small: nn.Module, folder: Path, inputs: Inputs, unpruned: nn.Module | None = None) -> Proof:
    """Prove that what was written is what was made, by loading it in a fresh process.

    Args:
        small: the network in memory.
        folder: a result folder with its weights and plan.
        inputs: at least 4 inputs.
        unpruned: for a network that no registry can rebuild, the dense one, which a user would hand to
            ``load``; it is sent along by pickle, or, where its class can't be imported, loaded right here.
    """
    if unpruned is not None and not _can_travel(unpruned):
        where = "in this process, since the network can't be pickled for another"
        again = _run_in_modes(load(folder, model=unpruned), inputs)
    else:
        where = "in a fresh process"
        again = _run_elsewhere(folder, inputs, unpruned)
    here = _run_in_modes(copy.deepcopy(small).cpu(), inputs)
    found, mode = where_it_counts(lambda mode: gap(again[mode], here[mode]))
    return proof_of("reloaded", found, Bounds(1e-6, None), f"loaded {where}{statistics_words(small, mode)}")


def _can_travel(model: nn.Module) -> bool:
    """Tell whether a fresh process could unpickle the network: no class of a script or of a function."""
    try:
        pickle.dumps(copy.deepcopy(model).to("meta"))
    except Exception:  # whatever a module of the user's own raises where it is pickled
        return False
    return all(
        type(m).__module__ != "__main__" and "<locals>" not in type(m).__qualname__ for m in model.modules()
    )


def _run_in_modes(model: nn.Module, inputs: Inputs) -> dict[Mode, list[Tensor]]:
    """Run in every mode; the model's statistics are not used afterwards."""
    outputs: dict[Mode, list[Tensor]] = {}
    for mode in MODES:
        net = reinitialised(model, lambda net: varies(net, inputs)) if mode == "redrawn" else model
        with torch.no_grad(), in_mode(net, mode):
            found = outputs_of(net(*(x.cpu() for x in inputs)))
            outputs[mode] = [*found.tensors, *found.states.values()]
    return outputs


def _run_elsewhere(folder: Path, inputs: Inputs, unpruned: nn.Module | None) -> dict[Mode, list[Tensor]]:
    with tempfile.TemporaryDirectory(prefix="structprune-") as scratch:
        task, answer = Path(scratch, "task.pt"), Path(scratch, "answer.pt")
        # Clones, since a view would be saved with all that it is a view of; a file of Python's own, whose
        # errors say what is wrong.
        with task.open("wb") as file:
            torch.save({"inputs": [x.cpu().clone() for x in inputs], "unpruned": unpruned}, file)
        # Only a network of the user's own may need modules that lie in the current folder.
        paths = [str(folder.resolve()), str(task), str(answer)]
        wrong = call_fresh(
            "structprune.proofs.reloaded:_reload", paths, torch.get_num_threads(), unpruned is not None
        )
        if wrong is not None:
            raise ProofFailedError(f"the result can't be loaded in a fresh process: {wrong}")
        answers: dict[Mode, list[Tensor]] = torch.load(answer, weights_only=True)
        return answers


def _reload(folder: str, task: str, answer: str) -> None:
    # The task was pickled by our own parent process a moment ago.
    sent = torch.load(task, weights_only=False)
    model = load(Path(folder), model=sent["unpruned"])
    torch.save(_run_in_modes(model, tuple(sent["inputs"])), answer)
