"""What ``compress`` does once torch may be imported."""

from __future__ import annotations

from pathlib import Path

from structprune.cli.commands.compress import CompressCommand
from structprune.cli.runs import network as inputs
from structprune.cli.runs.gather import Gathered, Say, Scored, check_early, gather, scope_of, stem
from structprune.cli.runs.profile import profile_of
from structprune.cli.runs.reconstruct import correction_of
from structprune.cli.runs.teacher import teacher_of
from structprune.cli.runs.tools import toolbox
from structprune.models.results import check_target, staged_folder
from structprune.report.data import Report
from structprune.scoring.score import about_loss
from structprune.workflows import compress as pipeline
from structprune.workflows.request import Request


def run(network: str, options: CompressCommand, say: Say) -> tuple[Report, Path]:
    """Compress a network as the options ask, and put the result folder in place."""
    scored = Scored(
        options.network,
        options.data,
        options.scoring,
        options.place,
        options.target.steps,
        options.correction.batch_size,
        options.finetuning.mirror,
    )
    check_early(scored)
    named = "-".join(f"{limit.name}{limit.written}" for limit in options.target.limits)
    folder = options.output or Path(f"{stem(network)}-{named}")
    check_target(folder, options.force)
    request = _request(options, gather(network, scored, say), say)
    tools = toolbox(options.onnx, options.measuring, options.place.device)
    with staged_folder(folder, options.force) as stage:
        outcome = pipeline.compress(request, stage, tools, say)
    return outcome.report, folder


def _request(options: CompressCommand, gathered: Gathered, say: Say) -> Request:
    profile = profile_of(options.widths, options.place.device, options.measuring.threads, say)
    network, images, finetuning = gathered.network, gathered.images, options.finetuning
    epochs, seed = finetuning.finetune, options.place.seed
    teacher, about_teacher = teacher_of(finetuning, gathered)
    about_data = images.notes if images else ("scored on random inputs: no --data given",)
    if images and epochs:
        about_data = (*about_data, *inputs.about_mirrors(images))
    return Request(
        model=network.model,
        example=network.example,
        limits=options.target.limits,
        floor=options.widths.floor,
        align=1 if profile else int(options.widths.alignment),
        samples=gathered.samples,
        scoring=gathered.scoring,
        name=network.source.name,
        trained_why=gathered.trained_why,
        architecture=network.source.architecture,
        judge=inputs.judge(images) if images else None,
        finetune=inputs.finetuner(images, epochs, seed, say, teacher) if images and epochs else None,
        export=options.onnx.export,
        measure=options.measuring.measure,
        notes=(*network.notes, *about_data, *about_teacher, *about_loss(gathered.samples, gathered.scoring)),
        scope=scope_of(options.scope),
        correction=correction_of(options.correction.correct, gathered),
        int8=options.int8,
        profile=profile,
    )
