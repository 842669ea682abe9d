"""What was written comes back, and answers in the form in which the dense network did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from structprune.errors import ProofFailedError
from structprune.models.results import save_weights_and_plan, widths_of
from structprune.proofs.reloaded import reloaded
from structprune.proofs.signature import signature
from structprune.proofs.verdict import require
from tests.cuts import FAULTS, Cut, Deep, constant_output, like_trained
from tests.networks import TinyConvBN, TinyResidualConcat, example
from tests.oracles.state import changed, snapshot


@pytest.fixture
def cut() -> Cut:
    return Cut(like_trained(TinyResidualConcat()), (example(TinyResidualConcat, 8),))


@pytest.fixture
def collapsed() -> Cut:
    return Cut(Deep(), (torch.randn(8, 3, 8, 8),))


# ---- written and read back


@pytest.fixture
def written(cut: Cut, tmp_path: Path) -> Path:
    return write(cut, cut.small, tmp_path / "result")


def write(cut: Cut, small: nn.Module, folder: Path) -> Path:
    folder.mkdir()
    widths = widths_of(cut.dense)
    save_weights_and_plan(folder, small, cut.plan, None, (3, 8, 8), dense_widths=widths)
    return folder


def test_what_was_written_comes_back_in_a_fresh_process(cut: Cut, written: Path) -> None:
    before = snapshot(cut.small)
    proof = reloaded(cut.small, written, cut.inputs, cut.dense)
    assert (proof.passed, proof.error) == (True, 0.0)
    assert "fresh process" in proof.how
    assert changed(before, snapshot(cut.small)) == []


def locally_defined(model: nn.Module) -> nn.Module:
    """The same network in a class that no other process can import, which is loaded right here."""

    class Local(TinyResidualConcat):
        pass

    local = Local()
    local.load_state_dict(model.state_dict())
    return local


def test_a_class_that_can_not_be_imported_is_loaded_right_here(cut: Cut, written: Path) -> None:
    proof = reloaded(cut.small, written, cut.inputs, locally_defined(cut.dense))
    assert (proof.passed, proof.error) == (True, 0.0)
    assert "in this process" in proof.how


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f is not constant_output], ids=lambda fault: fault.__name__
)
def test_a_wrong_tensor_in_the_file_fails(
    cut: Cut, tmp_path: Path, fault: Callable[[nn.Module], None]
) -> None:
    wrong = copy.deepcopy(cut.small)
    fault(wrong)
    folder = write(cut, wrong, tmp_path / "wrong")
    proof = reloaded(cut.small, folder, cut.inputs, locally_defined(cut.dense))
    assert not proof.passed
    with pytest.raises(ProofFailedError, match="reloaded failed"):
        require([proof])


def test_a_wrong_statistic_in_the_file_fails_where_outputs_collapse(collapsed: Cut, tmp_path: Path) -> None:
    """There the networks are compared with the inputs' statistics, which must not hide their own."""
    wrong = copy.deepcopy(collapsed.small)
    wrong.get_buffer("norms.4.running_mean").fill_(-3.0)
    folder = write(collapsed, wrong, tmp_path / "wrong")

    class Local(Deep):
        pass

    local = Local()
    local.load_state_dict(collapsed.dense.state_dict())
    assert not reloaded(collapsed.small, folder, collapsed.inputs, local).passed


def test_a_result_that_can_not_be_loaded_fails_with_the_reason(cut: Cut, written: Path) -> None:
    weights = written / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1  # in the last tensor
    weights.write_bytes(content)
    with pytest.raises(ProofFailedError, match=r"can't be loaded in a fresh process: .+") as caught:
        reloaded(cut.small, written, cut.inputs, cut.dense)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the signature


class Changed(nn.Module):
    """Another network around the small one, which answers in another form."""

    def __init__(self, small: nn.Module, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.small, self.change = small, change

    def forward(self, x: Tensor) -> object:
        return self.change(self.small(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda y: (y,),
        lambda y: {"out": y},
        lambda y: y[:, :2],
        lambda y: y[None],
        lambda y: y.double(),
        lambda y: y[:3],
        lambda y: (y, 1),
    ],
    ids=["tuple", "dict", "narrower", "one more dimension", "precision", "batch fixed", "one more"],
)
def test_another_output_structure_fails(cut: Cut, change: Callable[[Tensor], object]) -> None:
    assert signature(cut.dense, cut.small, cut.inputs).passed
    proof = signature(cut.dense, Changed(cut.small, change), cut.inputs)
    assert not proof.passed
    assert proof.error > 0
    with pytest.raises(ProofFailedError, match=r"signature failed: error .*batch sizes 2 and 5"):
        require([proof])


def test_the_signature_leaves_no_trace() -> None:
    dense = TinyConvBN().train()
    before = snapshot(dense)
    signature(dense, dense, (example(TinyConvBN, 8),))
    assert changed(before, snapshot(dense)) == []
