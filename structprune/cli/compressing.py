"""What ``compress`` does once torch may be imported."""

from __future__ import annotations

from pathlib import Path

from structprune import pipeline
from structprune.checkpoint import check_target, staged_folder
from structprune.choose import about_loss
from structprune.cli import inputs
from structprune.cli.gathering import Asked, Gathered, Say, check_early, gather, scope_of, stem
from structprune.cli.mending import correction_of
from structprune.cli.profiling import profile_of
from structprune.cli.teaching import teacher_of
from structprune.cli.tools import toolbox
from structprune.device_profile import DeviceProfile
from structprune.report import Report
from structprune.request import Request


def run(asked: Asked, say: Say) -> tuple[Report, Path]:
    """Compress a network as the options ask, and put the result folder in place."""
    check_early(asked)
    budget = "-".join(f"{limit.name}{limit.written}" for limit in asked["limits"])
    folder = asked["output"] or Path(f"{stem(asked['network'])}-{budget}")
    check_target(folder, asked["force"])
    found = gather(asked, say)
    request = _request(asked, found, profile_of(asked, say), say)
    with staged_folder(folder, asked["force"]) as stage:
        outcome = pipeline.compress(request, stage, toolbox(asked), say)
    return outcome.report, folder


def _request(asked: Asked, found: Gathered, profile: DeviceProfile | None, say: Say) -> Request:
    network, images = found.network, found.images
    epochs, seed = asked["finetune"], asked["seed"]
    teacher, about_teacher = teacher_of(asked, found)
    about_data = images.notes if images else ("scored on random inputs: no --data given",)
    if images and epochs:
        about_data = (*about_data, *inputs.about_mirrors(images))
    return Request(
        model=network.model,
        example=network.example,
        limits=asked["limits"],
        floor=asked["floor"],
        align=1 if profile else asked["align"],
        samples=found.samples,
        scoring=found.scoring,
        name=network.source.name,
        trained_why=found.trained_why,
        architecture=network.source.architecture,
        judge=inputs.judge(images) if images else None,
        finetune=inputs.finetuner(images, epochs, seed, say, teacher) if images and epochs else None,
        export=asked["export"],
        measure=asked["measure"],
        notes=(*network.notes, *about_data, *about_teacher, *about_loss(found.samples, found.scoring)),
        scope=scope_of(asked),
        correction=correction_of(asked, found),
        int8=asked["int8"],
        profile=profile,
    )
