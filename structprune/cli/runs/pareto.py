"""What ``pareto`` does once torch may be imported."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from exporters.toolbox import Toolbox
from structprune.cli.commands.pareto import ParetoCommand
from structprune.cli.output_file import check_file, staged_file
from structprune.cli.runs import network as inputs
from structprune.cli.runs.gather import Gathered, Say, Scored, check_early, gather, scope_of
from structprune.cli.runs.profile import profile_of
from structprune.cli.runs.reconstruct import correction_of
from structprune.errors import OutputError
from structprune.report import front_svg
from structprune.report.sweep import ParetoSweep, to_json
from structprune.scoring.score import about_loss
from structprune.workflows.pareto import sweep
from structprune.workflows.request import Request


def run(network: str, options: ParetoCommand, say: Say) -> ParetoSweep:
    """Sweep as the options ask, and write the result where it is wanted."""
    scored = Scored(
        options.network,
        options.data,
        options.scoring,
        options.place,
        batch_size=options.correction.batch_size,
    )
    check_early(scored)
    folder = options.output
    if folder is not None:
        _check_folder(folder, options.force)
    form = options.form
    tools = Toolbox(form.opset, form.exporter, batches=(options.measure_batch,), threads=options.threads)  # type: ignore[arg-type]
    request = _request(options, gather(network, scored, say), say)
    front = sweep(request, options.points, options.by, tools, say)
    if folder is not None:
        _write(front, folder)
    return front


def _request(options: ParetoCommand, gathered: Gathered, say: Say) -> Request:
    profile = profile_of(options.widths, options.place.device, options.threads, say)
    network, images = gathered.network, gathered.images
    about_data = images.notes if images else ("scored on random inputs: no --data given",)
    return Request(
        model=network.model,
        example=network.example,
        limits=(),
        floor=options.widths.floor,
        align=1 if profile else int(options.widths.alignment),
        samples=gathered.samples,
        scoring=gathered.scoring,
        name=network.source.name,
        trained_why=gathered.trained_why,
        judge=inputs.judge(images) if images else None,
        notes=(*network.notes, *about_data, *about_loss(gathered.samples, gathered.scoring)),
        scope=scope_of(options.scope),
        correction=correction_of(options.correction.correct, gathered),
        profile=profile,
    )


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "pareto.json", folder / "pareto.svg"


def _check_folder(folder: Path, force: bool) -> None:
    """Refuse a place that could not be written in the end; what else lies in the folder stays there."""
    if not folder.exists():
        check_file(folder, force)
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; give the name of a folder")
    for path in _files(folder):
        check_file(path, force)


def _write(front: ParetoSweep, folder: Path) -> None:
    if not folder.exists():
        folder.mkdir()
    texts = (to_json(front), front_svg(front))
    with ExitStack() as stack:
        for path, text in zip(_files(folder), texts, strict=True):
            stack.enter_context(staged_file(path)).write_text(text, encoding="utf-8")
