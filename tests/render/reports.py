"""Reports with a number of their own in every field, so that each can be looked for."""

from __future__ import annotations

from dataclasses import replace

from structprune.report.data import (
    Accuracy,
    Count,
    LimitResult,
    Measurement,
    Proof,
    Protected,
    Ratio,
    Report,
    Series,
)
from structprune.report.training import Detection, Epoch, Event, Training


def timed(runtime: str, batch: int, dense: float, pruned: float) -> Measurement:
    ratio = Ratio(dense / pruned, dense / pruned - 0.11, dense / pruned + 0.13)
    series = Series(dense, (dense,)), Series(pruned, (pruned,))
    name = f"{runtime} in warmed blocks of {batch}"
    return Measurement("batch_time", runtime, batch, 1, "ms", *series, ratio, name, "faster")  # type: ignore[arg-type]


FULL = Report(
    method="ntk_sap+crop",
    model="resnet18",
    seed=4711,
    nodes=Count(4800, 528, 0.8901, asked=0.89),
    weights=Count(11_167_851, 123_456, 0.98894),
    parameters=Count(11_689_512, 130_001, 0.98887),
    flops=Count(1_814_073_344, 28_885_566, 0.98407),
    widths={"conv1": (64, 7), "layer1.0.conv1": (66, 9), "fc": (10, 10)},
    protected=(Protected("fc", "it produces the network's outputs"),),
    samples=1536,
    draws=29,
    trained=True,
    trained_why="its batch norms have seen data",
    data="1,536 images of digits",
    proofs=(
        Proof("closed_gates", True, 1.2e-14, None, 3.5e-13, 1e-9, 0.2, "8 inputs, float64"),
        Proof("onnx", False, 4.5e-2, 1e-4, 6.5e-1, 1e-2, 0.31, "batches of 1, 2 and 7"),
        Proof("signature", True, 0.0, 0.0, None, None, None, "at two batch sizes"),
    ),
    accuracy=Accuracy(0.9171, 0.1032, 0.8543, 4096, "the test set"),
    measurements=(
        timed("onnxruntime", 1, 2.125, 0.125),
        timed("onnxruntime", 8, 17.25, 1.375),
        timed("torch", 1, 5.5, 3.25),
        Measurement(
            "disk", "none", None, None, "MB", Series(44.75, (44.75,)), Series(0.625, (0.625,)), None, "bytes"
        ),
        Measurement(
            "energy", "onnxruntime", 1, 1, "J", Series(57.5, (57.5,)), Series(2.375, (2.375,)),
            Ratio(24.2, 23.7, 24.9), "estimated", "less", {"watts": 31.5},
        ),
        Measurement(
            "flops", "none", None, None, "GFLOP", Series(1.814, (1.814,)), Series(0.0289, (0.0289,)),
            Ratio(62.8, 62.8, 62.8), "counted",
        ),
    ),
    seconds={"score": 11.5, "cut": 0.375, "finetune": 33.5},
    break_even=1_234_567.0,
    limits=(
        LimitResult("nodes", "89 % removed", 0.89, 0.8902, "", "fraction of nodes"),
        LimitResult("params", "at most 131k", 131_000.0, 130_001.0, "", "counted by hand"),
        LimitResult("speedup", "16.5x faster", 16.5, 16.75, "x", "timed alone"),
    ),
    notes=("ONNX written by the legacy exporter | see above",),
    software={"torch": "2.15.0"},
    hardware={"processor": "AMD EPYC", "cores": "2"},
)  # fmt: skip

BARE = replace(FULL, flops=None, draws=None, accuracy=None, measurements=(), break_even=None, notes=())

TRAINED = replace(
    FULL,
    method="earlycrop-u",
    accuracy=None,
    weights=Count(1000, 19, 0.981, asked=0.98),
    training=Training(
        task="digits",
        recipe="earlycrop",
        epochs=2,
        test=0.632,
        test_images=1234,
        test_how="its test part",
        best_epoch=2,
        best_validation=0.619,
        validation_images=99,
        log=(Epoch(1, 2.1234, 0.31, 0.05, 11.5), Epoch(2, 0.4321, 0.619, 0.0025, 12.5)),
        events=(Event(1, "cut", 0.5123),),
        detection=Detection("lazy_regime", "it moves less", (0.5, 0.25), 1, 3),
        seconds=24.75,
        collapsed=("layer1.0.conv1",),
        masked=True,
    ),
)
