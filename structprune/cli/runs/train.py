"""What ``train`` does once torch may be imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structprune import training as trainer
from structprune.cli.checks import fraction
from structprune.cli.commands.train import TrainCommand
from structprune.cli.runs import network as inputs
from structprune.cli.runs.gather import Say, stem
from structprune.cli.runs.tools import toolbox
from structprune.data import ImageSet, hold_out
from structprune.data.datasets import read_task
from structprune.distributed import ProcessGroup, process_group_of_torchrun
from structprune.environment import device_named
from structprune.errors import InputError, UnknownNameError, UsageError
from structprune.models.architecture import FACTORY, factory_takes
from structprune.models.naming import architecture_named
from structprune.models.results import check_target, staged_folder, translated
from structprune.models.results.drafts import sweep
from structprune.report.data import Report
from structprune.training import RECIPES, Recipe, Session
from structprune.training.methods import METHODS, Method
from structprune.workflows import train as lessons
from structprune.workflows.request import TrainRequest

DEFAULT_REMOVE = 0.9


@dataclass(frozen=True)
class _Course:
    """What a training is, once its options have been looked up."""

    options: TrainCommand
    method: Method
    recipe: Recipe
    remove: float
    folder: Path
    crew: ProcessGroup
    device: str

    @property
    def checkpoint(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.training.pt")


def run(options: TrainCommand, say: Say) -> tuple[Report, Path] | None:
    """Train as the options ask, and put the result folder in place.

    Of several processes the first writes and reports; the others return None.
    """
    method = _known(METHODS, options.method, "method")
    recipe = _recipe(options)
    remove = removal(options, method)
    folder = options.output or Path(_folder_name(options, method, remove))
    with process_group_of_torchrun(options.place.device) as (crew, device):
        device_named(device)
        course = _Course(options, method, recipe, remove, folder, crew, device)
        if crew.rank:
            crew.wait()  # until the first has read, and perhaps fetched, the data
            trainer.train(_lesson(course, say).session, options.resume)
            return None
        return _led(course, say)


def _led(course: _Course, say: Say) -> tuple[Report, Path]:
    """What the first process does."""
    options, folder = course.options, course.folder
    check_target(folder, options.force)
    checkpoint = course.checkpoint
    _check_checkpoint(checkpoint, options)
    with translated(folder):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lesson = _lesson(course, say)
    trainer.check(lesson.session)
    if not options.resume:
        trainer.remove_checkpoint(checkpoint)
    course.crew.wait()
    tools = toolbox(options.onnx, options.measuring, course.device)
    try:
        learned = lessons.train(lesson, tools, say)
    except KeyboardInterrupt as stop:
        if checkpoint.exists():
            stop.add_note(f"{checkpoint.name} holds what was trained; the same with --resume goes on")
        raise
    with staged_folder(folder, options.force) as stage:
        outcome = lessons.deliver(learned, stage, tools, say)
    trainer.remove_checkpoint(checkpoint)
    return outcome.report, folder


def removal(options: TrainCommand, method: Method) -> float:
    """Return the fraction of the method's own unit that is to go.

    Raises:
        UsageError: it is given in the other unit, twice, or not at all.
    """
    name = options.method
    named = {"nodes": options.nodes, "weights": options.weights, "sparsity": options.sparsity}
    given = {key: value for key, value in named.items() if value is not None}
    if method.unit is None:
        if given:
            raise UsageError(f"--{next(iter(given))}: the method {name} removes nothing; leave it out")
        return 0.0
    wrong = "weights" if method.unit == "nodes" else "nodes"
    if wrong in given:
        raise UsageError(
            f"--{wrong} {given[wrong]}: the method {name} removes {method.unit}; "
            f"give --{method.unit} {given[wrong]}"
        )
    if len(given) != 1:
        raise UsageError(f"say once how much to remove: --{method.unit} {DEFAULT_REMOVE}")
    return fraction(next(iter(given.values())), f"--{next(iter(given))}")


def _known(table: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise UnknownNameError(f"unknown {kind} {name!r}; known: {', '.join(table)}")
    return table[name]


def _recipe(options: TrainCommand) -> Recipe:
    recipe: Recipe = _known(RECIPES, options.recipe, "recipe")
    return replace(
        recipe,
        lr=recipe.lr if options.lr is None else options.lr,
        batch_size=options.batch_size or recipe.batch_size,
        epochs=options.epochs or recipe.epochs,
    )


def _folder_name(options: TrainCommand, method: Method, remove: float) -> str:
    gone = f"-{method.unit}{remove:g}" if method.unit else ""
    return f"{stem(options.arch)}-{options.method}{gone}"


def _check_checkpoint(checkpoint: Path, options: TrainCommand) -> None:
    """Refuse a checkpoint that would be lost, and a file of its name that is none."""
    sweep(checkpoint)
    if options.resume and checkpoint.is_file():
        return  # what is in it is held against the training once that is known
    trainer.check_replaceable(checkpoint)
    if checkpoint.exists() and not options.force:
        raise UsageError(
            f"{checkpoint.name} is of a training that was not finished; --resume goes on, --force starts anew"
        )


def _lesson(course: _Course, say: Say) -> TrainRequest:
    options = course.options
    fetch = options.download and not course.crew.rank
    task = read_task(options.task, options.root, fetch, options.test_data, options.place.seed)
    if len(task.learn.classes) < 2:
        raise InputError(f"{task.learn.name} has a single class; expected two or more to tell apart")
    network = inputs.read_network(
        options.arch,
        classes=_classes_to_build(options.arch, len(task.learn.classes)),
        input_size=options.input_size,
        device=course.device,
        seed=options.place.seed,
        images=task.learn,
        say=say,
    )
    task = replace(task, learn=inputs.mirrored(task.learn, options.mirror))
    learn, held = _split(task.learn, options.validation, options.place.seed)
    images = inputs.prepare(
        learn,
        task.test,
        network,
        mean=options.mean,
        std=options.std,
        samples=options.samples,
        batch_size=course.recipe.batch_size,
        seed=options.place.seed,
    )
    return TrainRequest(
        session=_session(course, network, images, held),
        task=learn.name,
        recipe=options.recipe,
        name=network.source.name,
        judge=replace(inputs.judge(images), how=task.how),
        architecture=network.source.architecture,
        resume=options.resume,
        export=options.onnx.export,
        measure=options.measuring.measure,
        notes=(*network.notes, *images.notes, *inputs.about_mirrors(images)),
    )


def _classes_to_build(arch: str, classes: int) -> int | None:
    """Return the number of classes that the network is built for; a factory may have one of its own."""
    own = architecture_named(arch)
    fixed = own.zoo == FACTORY and not factory_takes(own.source.removeprefix(FACTORY + ":"), "num_classes")
    return None if fixed else classes


def _split(learn: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Return what trains and what is held out of it for every choice, if anything is."""
    if fraction <= 0:
        return learn, None
    kept, held = hold_out(learn.labels, fraction, seed=seed)
    return learn.take(kept), learn.take(held)


def _session(
    course: _Course, network: inputs.Network, images: inputs.Images, held: ImageSet | None
) -> Session:
    options = course.options
    return Session(
        model=network.model,
        example=network.example,
        name=options.method,
        method=course.method,
        remove=course.remove,
        epochs=course.recipe.epochs,
        recipe=course.recipe,
        train=images.train,
        validation=None if held is None else replace(images.train, images=held),
        samples=inputs.samples_for(network, images, None, options.place.seed),
        device=device_named(course.device),
        checkpoint=course.checkpoint,
        crew=course.crew,
        steps=options.steps,
        floor=options.floor,
        align=options.align,
        latest=options.latest,
        published_length=options.published_length,
        published_detector=options.published_detector,
        draws=options.draws,
        seed=options.place.seed,
        precision=options.precision,  # type: ignore[arg-type]  # checked by the parser's rules
        channels_last=options.channels_last,
    )
