"""Which channels may go, said in the shell: the same answer from every verb."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import Command

NETWORK = """
from torch import nn

class Divides(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.mean, self.plain, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, num_classes)

    def forward(self, x):
        y = self.mean(x).relu()
        y = self.plain(y / y.shape[1]).relu()
        return self.head(y.mean((2, 3)))
"""


def test_the_shell_offers_what_compress_cuts(cli: Command, here: Path) -> None:
    (here / "divides.py").write_text(NETWORK)
    run = ("divides:Divides", "--input-size", 3, 8, 8)
    inspected = cli("inspect", *run, "--json").done().document
    assert [group["name"] for group in inspected["groups"]] == ["plain"]
    scored = cli("score", *run, "--score", "magnitude", "--json").done().document
    assert set(scored["scores"]) == {"plain"}


def test_score_knows_the_scope(cli: Command) -> None:
    run = ("score", "structprune:mlp", "--score", "magnitude", "--json")
    every = set(cli(*run).done().document["scores"])
    first, *others = sorted(every)
    assert set(cli(*run, "--skip", first).done().document["scores"]) == set(others)
    assert set(cli(*run, "--only", first).done().document["scores"]) == {first}
    cli(*run, "--only", "nowhere").refused(2, "nowhere")
