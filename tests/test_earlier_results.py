"""A result that an earlier version wrote (51492a1): it loads, computes what it did, and is known as ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import structprune
from structprune.files import read_text
from structprune.models.results import check_target
from structprune.models.results.sealing import foreign
from structprune.report.serialise import from_json, to_json

EARLIER = Path(__file__).parent / "fixtures" / "mlp-nodes0.95"


def test_a_result_loads_and_computes_what_its_onnx_file_does() -> None:
    network = structprune.load(EARLIER)
    x = torch.randn(3, 1, 28, 28)
    session = onnxruntime.InferenceSession(EARLIER / "model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(network(x).numpy(), expected, atol=1e-6)
    assert [layer.out_features for layer in network.modules() if isinstance(layer, torch.nn.Linear)] == [
        3,
        10,
        10,
    ]


def test_its_report_reads_and_keeps_its_fields() -> None:
    text = read_text(EARLIER / "report.json")
    report = from_json(text)
    assert (report.model, report.nodes.asked) == ("mlp", 0.95)
    assert all(proof.passed for proof in report.proofs)
    assert from_json(to_json(report)) == report


def test_it_is_ours_to_replace(tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER, tmp_path / "result")
    assert foreign(folder) is None
    check_target(folder, force=True)
