"""Options that make no sense: a sentence with what was got and what was expected, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.command import Command, contents

COMPRESS = ("compress", "structprune:mlp")
HALF = (*COMPRESS, "--nodes", "0.5")

MISUSED: dict[tuple[str, ...], tuple[str, ...]] = {
    COMPRESS: (
        "--nodes 0.89",
        *("--weights", "--params", "--flops", "--disk", "--memory", "--latency", "--speedup"),
    ),
    (*COMPRESS, "--nodes", "1.5"): ("--nodes 1.5", "0 to below 1"),
    (*COMPRESS, "--nodes", "1"): ("--nodes 1", "0 to below 1"),
    (*COMPRESS, "--nodes=-0.1"): ("--nodes -0.1", "0 to below 1"),
    (*COMPRESS, "--nodes", "nan"): ("--nodes nan", "0 to below 1"),
    (*COMPRESS, "--nodes", "abc"): ("--nodes abc", "0 to below 1"),
    (*COMPRESS, "--weights", "IMAGENET1K_V1"): ("IMAGENET1K_V1", "--pretrained"),
    (*HALF, "--weights", "DEFAULT"): ("DEFAULT", "0.9 or 2M", "--pretrained"),
    (*COMPRESS, "--weights", "3"): ("--weights 3", "90%", "2M"),
    (*COMPRESS, "--params", "3"): ("--params 3", "90%", "2M"),
    (*COMPRESS, "--params", "2MB"): ("--params 2MB", "2M"),
    (*COMPRESS, "--params", "100%"): ("--params 100%", "90%"),
    (*COMPRESS, "--flops", "abc"): ("--flops abc", "90%", "2M"),
    (*COMPRESS, "--flops", "0M"): ("--flops 0M", "2M"),
    (*COMPRESS, "--disk", "5"): ("--disk 5", "5MB"),
    (*COMPRESS, "--memory", "2M"): ("--memory 2M", "60MB"),
    (*COMPRESS, "--latency", "2"): ("--latency 2", "2ms"),
    (*COMPRESS, "--latency", "50%"): ("--latency 50%", "2ms"),
    (*COMPRESS, "--latency=-2ms"): ("--latency -2ms", "2ms"),
    (*COMPRESS, "--speedup", "0.5"): ("--speedup 0.5", "above 1"),
    (*COMPRESS, "--speedup", "1"): ("--speedup 1", "above 1"),
    (*COMPRESS, "--speedup", "inf"): ("--speedup inf", "above 1"),
    (*HALF, "--speedup", "fast"): ("--speedup fast", "4x"),
    (*HALF, "--score", "taylor"): ("'taylor'", "crop", "magnitude", "ntk_sap", "random", "snip"),
    (*HALF, "--score", "snip+taylor"): ("'taylor'", "ntk_sap"),
    (*HALF, "--device", "tpu"): ("'tpu'", "cpu", "cuda"),
    (*HALF, "--mean", "0", "0", "0"): ("--mean", "--data"),
    (*HALF, "--std", "1", "1", "1"): ("--std", "--data"),
    (*HALF, "--test-data", "digits"): ("--test-data", "--data"),
    (*HALF, "--finetune", "1"): ("--finetune", "--data"),
    (*HALF, "--finetune", "-1"): ("--finetune -1", "0 or more"),
    (*HALF, "--accumulate", "mean"): ("--accumulate mean", "total, abs or square"),
    (*HALF, "--labels", "guessed"): ("--labels guessed", "given or drawn"),
    (*HALF, "--mini-batch", "1"): ("--mini-batch 1", "2 or more"),
    (*HALF, "--batch-norm", "train"): ("--batch-norm train", "fixed or batch"),
    (*HALF, "--exporter", "tf"): ("--exporter tf", "auto, dynamo or legacy"),
    (*HALF, "--opset", "6"): ("--opset 6", "7 to 23"),
    (*HALF, "--opset", "24"): ("--opset 24", "7 to 23"),
    (*HALF, "--samples", "2"): ("--samples 2", "4 or more"),
    (*HALF, "--steps", "0"): ("--steps 0", "1 or more"),
    (*HALF, "--draws", "0"): ("--draws 0", "1 or more"),
    (*HALF, "--chunk", "0"): ("--chunk 0", "1 or more"),
    (*HALF, "--align", "0"): ("--align 0", "1 or more"),
    (*HALF, "--floor", "1"): ("--floor 1.0", "0 to below 1"),
    (*HALF, "--input-size", "1", "0", "28"): ("--input-size 1 0 28", "1 or more"),
    (*HALF, "--measure-batch", "0"): ("--measure-batch 0", "1 or more"),
    (*HALF, "--threads", "0"): ("--threads 0", "1 or more"),
    (*HALF, "--energy-seconds", "nan"): ("--energy-seconds nan", "above 0"),
    (*HALF, "--rtol", "-1"): ("--rtol -1.0", "above 0"),
    (*HALF, "--seed", "-1"): ("--seed -1", "from 0"),
    (*HALF, "--batch-size", "1"): ("--batch-size 1", "2 or more"),
    (*HALF, "--country-iso-code", "Atlantis"): ("Atlantis", "three-letter"),
    (*HALF, "--pretrained"): ("--pretrained", "mlp"),
    (*HALF, "--arch", "resnet18"): ("--arch", "structprune:mlp"),
    (*HALF, "--nodess", "0.5"): ("--nodess", "--nodes", "structprune compress --help"),
    (*HALF, "--steps", "many"): ("--steps", "structprune compress --help"),
    (*HALF, "--input-size", "1", "28"): ("--input-size", "3 arguments"),
    ("compress", "--nodes", "0.5"): ("INPUT", "structprune compress --help"),
    (*HALF, "another"): ("another", "structprune compress --help"),
    ("compres", "structprune:mlp"): ("compres", "compress", "structprune --help"),
    ("score", "structprune:mlp", "--score", "taylor"): ("'taylor'", "ntk_sap"),
    ("score", "structprune:mlp", "--samples", "1"): ("--samples 1", "4 or more"),
    ("pareto", "structprune:mlp", "--points", "1"): ("--points 1", "2 or more"),
    ("pareto", "structprune:mlp", "--by", "time"): ("--by time", "nodes, weights, params or flops"),
    ("inspect", "structprune:mlp", "--floor", "2"): ("--floor 2.0", "0 to below 1"),
    ("export", "structprune:mlp", "--exporter", "tf"): ("--exporter tf", "dynamo"),
    ("measure", "structprune:mlp", "--measure-batch", "-3"): ("--measure-batch -3", "1 or more"),
    ("measure", "structprune:mlp", "tiny:network"): ("(1, 28, 28)", "(3, 224, 224)", "--input-size"),
}


@pytest.mark.parametrize("arguments", MISUSED, ids=" ".join)
def test_a_misused_option(arguments: tuple[str, ...], cli: Command, here: Path) -> None:
    before = contents(here)
    cli(*arguments).refused(2, *MISUSED[arguments])
    assert contents(here) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
@pytest.mark.parametrize("verb", ["compress --nodes 0.5", "inspect", "score", "export", "measure"])
def test_a_device_that_is_not_there(device: str, verb: str, cli: Command, here: Path) -> None:
    before = contents(here)
    name, *options = verb.split()
    cli(name, "structprune:mlp", *options, "--device", device).refused(6, f"'{device}'", "use cpu")
    assert contents(here) == before


def test_nothing_at_all_shows_the_help(cli: Command) -> None:
    finished = cli()
    assert finished.code == 2
    assert "compress" in finished.out
    assert finished.err == ""


@pytest.mark.parametrize(
    ("options", "reachable"),
    [(("--nodes", "0.95"), "0 to 0.900"), (("--nodes", "0.9", "--align", "8"), "0 to 0.200")],
)
def test_a_target_out_of_reach_names_the_range(
    options: tuple[str, ...], reachable: str, cli: Command, here: Path
) -> None:
    before = contents(here)
    cli("compress", "tiny:network", *options, "--input-size", 3, 8, 8).refused(3, options[1], reachable)
    assert contents(here) == before
