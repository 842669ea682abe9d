"""What ``compress`` gives to a Python caller."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.api.messages import called_from_python
from structprune.errors import UsageError
from structprune.models.results import WEIGHTS, staged_folder
from structprune.pruning.budget import Plan
from structprune.report.data import Report
from structprune.scoring.scores import Scores


@dataclass(frozen=True)
class Compressed:
    """A network that was compressed.

    Attributes:
        model: the shrunk network, a plain module in evaluation mode; it trains on like any other.
        plan: group -> channels that were kept.
        report: everything that was found out.
        scores: group -> scores that the plan was chosen by.
        example_inputs: inputs that the network takes.
        files: a folder with what :meth:`save` writes; it goes when this object does.
    """

    model: nn.Module
    plan: Plan
    report: Report
    scores: Scores
    example_inputs: tuple[Tensor, ...]
    files: Path

    @called_from_python
    def save(self, folder: str | Path, force: bool = False) -> None:
        """Write the result folder: weights, plan, ONNX file and reports, all of them or none.

        They are those of the network as it was compressed: what is trained afterwards was proven by nobody.

        Args:
            folder: where; it must not exist.
            force: replace a result folder of ours that is already there.

        Raises:
            OutputError: the folder can't be written, exists, or holds a file that isn't ours.
            UsageError: the network has changed since.
        """
        self._check_unchanged()
        with staged_folder(Path(folder), force) as stage:
            shutil.copytree(self.files, stage, dirs_exist_ok=True)

    def _check_unchanged(self) -> None:
        from safetensors.torch import load_file

        own, stored = self.model.state_dict(), load_file(self.files / WEIGHTS)
        if any(name not in own or not torch.equal(x, own[name].cpu()) for name, x in stored.items()):
            raise UsageError(
                "the network has been trained or changed since it was compressed, and its proofs and its "
                "ONNX file are no longer its own; pass finetune= to compress, or save its state dict"
            )
