"""What ``train`` does once torch may be imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structprune import lessons, trainer
from structprune.checkpoint import check_target, staged_folder, translated
from structprune.checkpoint.drafts import sweep
from structprune.cli import inputs
from structprune.cli.checks import fraction
from structprune.cli.gathering import Asked, Say, stem
from structprune.cli.tools import toolbox
from structprune.crew import Crew, crew_of_torchrun
from structprune.environment import device_named
from structprune.errors import InputError, UnknownNameError, UsageError
from structprune.methods import METHODS, Method
from structprune.report import Report
from structprune.request import Lesson
from structprune.sources.architecture import FACTORY, factory_takes
from structprune.sources.naming import architecture_named
from structprune.tasks import ImageSet, hold_out
from structprune.tasks.named import read_task
from structprune.trainer import Session
from structprune.training import RECIPES, Recipe

DEFAULT_REMOVE = 0.9


# Options that a session takes as they are.
_OPTIONS = (
    "steps",
    "floor",
    "align",
    "latest",
    "published_length",
    "published_detector",
    "draws",
    "seed",
    "precision",
    "channels_last",
)


@dataclass(frozen=True)
class _Course:
    """What a training is, once its options have been looked up."""

    asked: Asked
    method: Method
    recipe: Recipe
    remove: float
    folder: Path
    crew: Crew
    device: str

    @property
    def checkpoint(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.training.pt")


def run(asked: Asked, say: Say) -> tuple[Report, Path] | None:
    """Train as the options ask, and put the result folder in place.

    Of several processes the first writes and reports; the others return None.
    """
    method = _known(METHODS, asked["method"], "method")
    recipe = _recipe(asked)
    remove = removal(asked, method)
    folder = asked["output"] or Path(_folder_name(asked, method, remove))
    with crew_of_torchrun(asked["device"]) as (crew, device):
        device_named(device)
        course = _Course(asked, method, recipe, remove, folder, crew, device)
        if crew.rank:
            crew.wait()  # until the first has read, and perhaps fetched, the data
            trainer.train(_lesson(course, say).session, asked["resume"])
            return None
        return _led(course, say)


def _led(course: _Course, say: Say) -> tuple[Report, Path]:
    """What the first process does."""
    asked, folder = course.asked, course.folder
    check_target(folder, asked["force"])
    checkpoint = course.checkpoint
    _check_checkpoint(checkpoint, asked)
    with translated(folder):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lesson = _lesson(course, say)
    trainer.check(lesson.session)
    if not asked["resume"]:
        trainer.remove_checkpoint(checkpoint)
    course.crew.wait()
    tools = toolbox({**asked, "device": course.device})
    try:
        learned = lessons.train(lesson, tools, say)
    except KeyboardInterrupt as stop:
        if checkpoint.exists():
            stop.add_note(f"{checkpoint.name} holds what was trained; the same with --resume goes on")
        raise
    with staged_folder(folder, asked["force"]) as stage:
        outcome = lessons.deliver(learned, stage, tools, say)
    trainer.remove_checkpoint(checkpoint)
    return outcome.report, folder


def removal(asked: Asked, method: Method) -> float:
    """Return the fraction of the method's own unit that is to go.

    Raises:
        UsageError: it is given in the other unit, twice, or not at all.
    """
    name = asked["method"]
    given = {key: asked[key] for key in ("nodes", "weights", "sparsity") if asked[key] is not None}
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


def _recipe(asked: Asked) -> Recipe:
    recipe: Recipe = _known(RECIPES, asked["recipe"], "recipe")
    chosen = {"lr": asked["lr"], "batch_size": asked["batch_size"], "epochs": asked["epochs"]}
    return replace(recipe, **{key: value for key, value in chosen.items() if value is not None})


def _folder_name(asked: Asked, method: Method, remove: float) -> str:
    gone = f"-{method.unit}{remove:g}" if method.unit else ""
    return f"{stem(asked['arch'])}-{asked['method']}{gone}"


def _check_checkpoint(checkpoint: Path, asked: Asked) -> None:
    """Refuse a checkpoint that would be lost, and a file of its name that is none."""
    sweep(checkpoint)
    if asked["resume"] and checkpoint.is_file():
        return  # what is in it is held against the training once that is known
    trainer.check_replaceable(checkpoint)
    if checkpoint.exists() and not asked["force"]:
        raise UsageError(
            f"{checkpoint.name} is of a training that was not finished; --resume goes on, --force starts anew"
        )


def _lesson(course: _Course, say: Say) -> Lesson:
    asked = course.asked
    fetch = asked["download"] and not course.crew.rank
    task = read_task(asked["task"], asked["root"], fetch, asked["test_data"], asked["seed"])
    if len(task.learn.classes) < 2:
        raise InputError(f"{task.learn.name} has a single class; expected two or more to tell apart")
    network = inputs.read_network(
        asked["arch"],
        classes=_classes_to_build(asked["arch"], len(task.learn.classes)),
        input_size=asked["input_size"],
        device=course.device,
        seed=asked["seed"],
        images=task.learn,
        say=say,
    )
    task = replace(task, learn=inputs.mirrored(task.learn, asked["mirror"]))
    learn, held = _split(task.learn, asked["validation"], asked["seed"])
    settings = {name: asked[name] for name in ("mean", "std", "samples", "seed")}
    images = inputs.prepare(learn, task.test, network, batch_size=course.recipe.batch_size, **settings)
    return Lesson(
        session=_session(course, network, images, held),
        task=learn.name,
        recipe=asked["recipe"],
        name=network.source.name,
        judge=replace(inputs.judge(images), how=task.how),
        architecture=network.source.architecture,
        resume=asked["resume"],
        export=asked["export"],
        measure=asked["measure"],
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
    return Session(
        model=network.model,
        example=network.example,
        name=course.asked["method"],
        method=course.method,
        remove=course.remove,
        epochs=course.recipe.epochs,
        recipe=course.recipe,
        train=images.train,
        validation=None if held is None else replace(images.train, images=held),
        samples=inputs.samples_for(network, images, None, course.asked["seed"]),
        device=device_named(course.device),
        checkpoint=course.checkpoint,
        crew=course.crew,
        **{name: course.asked[name] for name in _OPTIONS},
    )
