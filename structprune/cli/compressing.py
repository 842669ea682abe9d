"""What ``compress`` does once torch may be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters.toolbox import Toolbox
from structprune import pipeline
from structprune.budget import Budget
from structprune.checkpoint import check_target, staged_folder
from structprune.choose import Scoring, is_trained
from structprune.cli import inputs
from structprune.environment import device_named
from structprune.report import Report

Say = Callable[[str], None]


def run(asked: Mapping[str, Any], say: Say) -> tuple[Report, Path]:
    """Compress a network as the options ask, and put the result folder in place."""
    budget = Budget(asked["nodes"], "nodes", asked["floor"], asked["align"])
    scoring = scoring_of(asked, trained=False)  # an unknown criterion is refused before anything is read
    device_named(asked["device"])
    folder = asked["output"] or Path(f"{_stem(asked['network'])}-nodes{asked['nodes']:g}")
    check_target(folder, asked["force"])
    learn, test = inputs.read_data(asked["data"], asked["test_data"]) if asked["data"] else (None, None)
    network = read(asked, say, learn)
    images = (
        None
        if learn is None
        else inputs.prepare(
            learn,
            test,
            network,
            **{name: asked[name] for name in ("mean", "std", "samples", "batch_size", "seed")},
        )
    )
    source = network.source
    trained, why = is_trained(network.model, source.from_checkpoint, source.pretrained, asked["trained"])
    scoring = scoring_of(asked, trained)
    request = pipeline.Request(
        model=network.model,
        example=network.example,
        budget=budget,
        samples=inputs.samples_for(network, images, asked["samples"], asked["seed"]),
        scoring=scoring,
        name=source.name,
        trained_why=why,
        architecture=source.architecture,
        judge=inputs.judge(images) if images else None,
        finetune=inputs.finetuner(images, asked["finetune"], asked["seed"], say)
        if images and asked["finetune"]
        else None,
        export=asked["export"],
        measure=asked["measure"],
        notes=(*network.notes, *(images.notes if images else ("scored on random inputs: no --data given",))),
    )
    with staged_folder(folder, asked["force"]) as stage:
        outcome = pipeline.compress(request, stage, _toolbox(asked), say)
    return outcome.report, folder


def read(asked: Mapping[str, Any], say: Say, learn: Any = None) -> inputs.Network:
    """Read the network that the options name."""
    names = ("arch", "pretrained", "trust_pickle", "classes", "input_size", "device", "seed")
    return inputs.read_network(
        asked["network"], **{name: asked[name] for name in names}, images=learn, say=say
    )


def _stem(spec: str) -> str:
    """A name for the result folder before the network is read: a file's stem or a zoo's name."""
    last = spec.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return last.rpartition(".")[0] or last if Path(spec).suffix else last


def scoring_of(asked: Mapping[str, Any], trained: bool) -> Scoring:
    """Return how the options ask to score."""
    names = ("score", "accumulate", "batch_norm", "draws", "chunk", "steps", "seed")
    return Scoring(trained=trained, **{name: asked[name] for name in names})


def _toolbox(asked: Mapping[str, Any]) -> Toolbox:
    return Toolbox(
        opset=asked["opset"],
        exporter=asked["exporter"],
        rtol=asked["rtol"],
        device=asked["device"],
        batches=tuple(asked["measure_batch"]),
        threads=asked["threads"],
        seconds=asked["energy_seconds"],
        country=asked["country"],
    )
