"""What ``train`` does once torch may be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporters.toolbox import Toolbox
from structprune import pipeline, trainer
from structprune.checkpoint import check_target, staged_folder
from structprune.cli import inputs
from structprune.cli.checks import fraction
from structprune.cli.gathering import stem
from structprune.crew import Crew, crew_of_torchrun
from structprune.environment import device_named
from structprune.errors import UnknownNameError, UsageError
from structprune.methods import METHODS, Method
from structprune.report import Report
from structprune.request import Lesson
from structprune.tasks import ImageSet, hold_out, to_batches
from structprune.tasks.named import read_task
from structprune.trainer import Session
from structprune.training import RECIPES, Recipe

Asked = Mapping[str, Any]
Say = Callable[[str], None]
DEFAULT_REMOVE = 0.9


def run(asked: Asked, say: Say) -> tuple[Report, Path] | None:
    """Train as the options ask, and put the result folder in place.

    Of several processes the first writes and reports; the others return None.
    """
    method = _known(METHODS, asked["method"], "method")
    recipe = _recipe(asked)
    remove = removal(asked, method)
    with crew_of_torchrun(asked["device"]) as (crew, device):
        device_named(device)
        return _run({**asked, "device": device}, method, recipe, remove, crew, say)


def _run(
    asked: Asked, method: Method, recipe: Recipe, remove: float, crew: Crew, say: Say
) -> tuple[Report, Path] | None:
    folder = asked["output"] or Path(_folder_name(asked, method, remove))
    if not crew.rank:
        check_target(folder, asked["force"])
    checkpoint = folder.with_name(f"{folder.name}.training.pt")
    if crew.rank:
        asked = {**asked, "download": False}
        crew.wait()  # until the first has read, and perhaps fetched, the data
        trainer.train(_lesson(asked, method, recipe, remove, checkpoint, crew, say).session, asked["resume"])
        return None
    _check_checkpoint(checkpoint, asked)
    lesson = _lesson(asked, method, recipe, remove, checkpoint, crew, say)
    trainer.check(lesson.session)
    if not asked["resume"]:
        checkpoint.unlink(missing_ok=True)
    crew.wait()
    tools = _toolbox(asked)
    learned = pipeline.train(lesson, tools, say)
    with staged_folder(folder, asked["force"]) as stage:
        outcome = pipeline.deliver(learned, stage, tools, say)
    checkpoint.unlink(missing_ok=True)
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
    if checkpoint.exists() and not asked["resume"] and not asked["force"]:
        raise UsageError(
            f"{checkpoint.name} is of a training that was not finished; --resume goes on, --force starts anew"
        )


def _lesson(
    asked: Asked, method: Method, recipe: Recipe, remove: float, checkpoint: Path, crew: Crew, say: Say
) -> Lesson:
    task = read_task(asked["task"], asked["root"], asked["download"], asked["test_data"], asked["seed"])
    learn, test = task.learn, task.test
    network = inputs.read_network(
        asked["arch"],
        arch=None,
        pretrained=False,
        trust_pickle=False,
        classes=len(learn.classes),
        input_size=asked["input_size"],
        device=asked["device"],
        seed=asked["seed"],
        images=learn,
        say=say,
    )
    names = ("mean", "std", "samples", "seed")
    settings = {name: asked[name] for name in names}
    validation, notes = None, []
    if asked["validation"] > 0:
        kept, held = hold_out(learn.labels, asked["validation"], seed=asked["seed"])
        learn, validation = learn.take(kept), learn.take(held)
    images = inputs.prepare(learn, test, network, batch_size=recipe.batch_size, **settings)
    session = Session(
        model=network.model,
        example=network.example,
        name=asked["method"],
        method=method,
        remove=remove,
        epochs=recipe.epochs,
        recipe=recipe,
        train=images.train,
        validation=None if validation is None else _like(images.train, validation),
        samples=inputs.samples_for(network, images, None, asked["seed"]),
        steps=asked["steps"],
        floor=asked["floor"],
        align=asked["align"],
        latest=asked["latest"],
        published_length=asked["published_length"],
        published_detector=asked["published_detector"],
        draws=asked["draws"],
        seed=asked["seed"],
        device=device_named(asked["device"]),
        precision=asked["precision"],
        channels_last=asked["channels_last"],
        checkpoint=checkpoint,
        crew=crew,
    )
    notes += [*network.notes, *images.notes]
    return Lesson(
        session=session,
        task=learn.name,
        recipe=asked["recipe"],
        network=network.source.name,
        judge=replace(inputs.judge(images), how=task.how),
        architecture=network.source.architecture,
        resume=asked["resume"],
        export=asked["export"],
        measure=asked["measure"],
        notes=tuple(notes),
    )


def _like(batches: Any, images: ImageSet) -> Any:
    p = batches.preprocessing
    return to_batches(images, size=p.size, mean=p.mean, std=p.std, batch_size=batches.batch_size)


def _toolbox(asked: Asked) -> Toolbox:
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
