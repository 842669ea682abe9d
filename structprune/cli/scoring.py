"""What ``score`` does once torch may be imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from structprune.channels import channel_groups
from structprune.choose import is_trained
from structprune.choose import score as score_channels
from structprune.cli import inputs, shell
from structprune.cli.compressing import read, scoring_of
from structprune.errors import OutputError
from structprune.scores import ranks

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 48


def run(asked: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Score a network as the options ask; returns the JSON document."""
    scoring_of(asked, trained=False)
    learn, test = inputs.read_data(asked["data"], None) if asked["data"] else (None, None)
    network = read(asked, say, learn)
    names = ("mean", "std", "samples", "batch_size", "seed")
    images = (
        None
        if learn is None
        else inputs.prepare(learn, test, network, **{name: asked[name] for name in names})
    )
    samples = inputs.samples_for(network, images, asked["samples"], asked["seed"])
    source = network.source
    trained, why = is_trained(network.model, source.from_checkpoint, source.pretrained, asked["trained"])
    say("finding coupled channels")
    groups = channel_groups(network.model, network.example)
    say("scoring")
    found = score_channels(network.model, groups, samples, scoring_of(asked, trained))
    return {
        "schema": 1,
        "model": source.name,
        "score": found.criterion,
        "data": samples.how,
        "trained": trained,
        "trained_why": why,
        "seed": asked["seed"],
        "scores": {name: values.tolist() for name, values in found.values.items()},
    }


def write(document: Mapping[str, Any], path: Path, force: bool) -> None:
    """Write the scores, all or nothing.

    Raises:
        OutputError: the file is there already, or can't be written.
    """
    if path.exists() and not force:
        raise OutputError(f"{path.name} exists; choose another name or replace it with --force")
    draft: Path | None = None
    try:
        with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            draft = Path(file.name)
            json.dump(document, file, indent=1)
        draft.replace(path)
    except OSError as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise OutputError(f"{path.name} can't be written: {error.strerror or error}") from error


def show(document: Mapping[str, Any]) -> None:
    """Draw a line a group: its channels sorted by rank over the whole network, from the worst on."""
    import torch
    from rich.table import Table

    values = {name: torch.tensor(row) for name, row in document["scores"].items()}
    picture = Table(title=f"{document['model']}: {document['score']}", title_justify="left")
    picture.add_column("group")
    picture.add_column("channels", justify="right")
    picture.add_column("mean rank", justify="right")
    picture.add_column("rank of each channel in the whole network, sorted")
    for name, rank in ranks(values).items():
        picture.add_row(name, str(len(rank)), f"{rank.mean():.2f}", sparkline(sorted(rank.tolist())))
    shell.console().print(picture)


def sparkline(heights: Sequence[float], columns: int = COLUMNS) -> str:
    """Draw heights in [0, 1] as bars; more heights than columns are averaged.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
    """
    count = min(columns, len(heights))
    edges = [round(i * len(heights) / count) for i in range(count + 1)]
    means = [sum(heights[a:b]) / (b - a) for a, b in pairwise(edges)]
    return "".join(BARS[min(int(mean * len(BARS)), len(BARS) - 1)] for mean in means)
