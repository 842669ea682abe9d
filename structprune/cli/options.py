"""Options of the command line, each once: name, type, default and help, in the dataclass of its panel.

Names are those that users know from their other tools.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from structprune.choices import listed

# A flag takes no value, so its help shows no type.
flag = partial(typer.Option, metavar="")

Spec = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A file of weights (.pt, .pth, .safetensors, .npz), a pickled network, a result folder, a zoo's "
        "name (resnet18, torchvision:resnet18, timm:NAME, transformers:NAME) or package.module:factory.",
    ),
]
InputSize = Annotated[
    tuple[int, int, int] | None,
    typer.Option(
        metavar="C H W", help="Size of one input. Default: the data's, else the architecture's own."
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(help="Images for accuracy alone. Default: the data's own test part, or 20 % of --data."),
]
Mean = Annotated[
    tuple[float, float, float] | None, typer.Option(metavar="R G B", help="Of images in [0, 1].")
]
Std = Annotated[tuple[float, float, float] | None, typer.Option(metavar="R G B", help="Of images in [0, 1].")]
Samples = Annotated[
    int | None,
    typer.Option(help="Inputs that score. Default: 64 without data; 10 a class, 256 to 2,048, with data."),
]
Draws = Annotated[int, typer.Option(help="Weight draws of NTK-SAP, at least.")]
Mirror = Annotated[
    bool | None,
    flag("--mirror/--no-mirror", help="Train on mirrored images too. Default: yes, but not of digits."),
]
Floor = Annotated[
    float,
    typer.Option(help="The fraction of its width that every group keeps at least.", rich_help_panel="Widths"),
]
Threads = Annotated[
    int, typer.Option(help="CPU threads inside an operator while measuring.", rich_help_panel="Measuring")
]
Seconds = Annotated[
    float,
    typer.Option(
        "--energy-seconds",
        help="Time in which the energy of each network is taken.",
        rich_help_panel="Measuring",
    ),
]
Country = Annotated[
    str | None,
    typer.Option(
        "--country-iso-code",
        help="Whose electricity: a three-letter code. Default: the world's average.",
        rich_help_panel="Measuring",
    ),
]
Force = Annotated[
    bool,
    flag("--force", help="Replace a result folder of ours that is already there.", rich_help_panel="Run"),
]
Rtol = Annotated[
    float, typer.Option(help="Bound of the ONNX proof, of the largest output.", rich_help_panel="Export")
]
Batches = Annotated[
    list[int],
    typer.Option("--measure-batch", help="Batch size to time; may be repeated.", rich_help_panel="Measuring"),
]
Json = Annotated[bool, flag("--json", help="Print one JSON document on stdout.")]
Debug = Annotated[bool, flag("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class NetworkOptions:
    """How a network and its example input are read."""

    PANEL: ClassVar[str] = "Network"
    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture of a state dict: a zoo's name or a factory. Default: found from its keys."
        ),
    ] = None
    pretrained: Annotated[bool, flag("--pretrained", help="Fetch the zoo's trained weights.")] = False
    trust_pickle: Annotated[bool, flag("--trust-pickle", help="Your word that a pickle may run code.")] = (
        False
    )
    no_ema: Annotated[
        bool,
        flag("--no-ema", help="Take trained weights where a file holds their moving averages (EMA) too."),
    ] = False
    classes: Annotated[int | None, typer.Option("--classes", help="Outputs of a network from a zoo.")] = None
    input_size: InputSize = None
    input: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Example inputs with their batch dimension: an .npy array, or an .npz of one for each "
            "argument.",
        ),
    ] = None


@dataclass(frozen=True)
class DataOptions:
    """Images that score, train and judge."""

    PANEL: ClassVar[str] = "Data"
    data: Annotated[
        str | None,
        typer.Option(
            help="Images that score and fine-tune: a folder of class folders, an .npz of uint8 images and "
            "labels, digits, or cifar10:ROOT, cifar100:ROOT, mnist:ROOT, fashion-mnist:ROOT."
        ),
    ] = None
    test_data: TestData = None
    mean: Mean = None
    std: Std = None


@dataclass(frozen=True)
class ScoreOptions:
    """How channels are scored."""

    PANEL: ClassVar[str] = "Scoring"
    score: Annotated[str, typer.Option(help="A criterion, or a fusion of several joined by '+'.")] = (
        "ntk_sap+crop"
    )
    trained: Annotated[
        bool | None,
        flag("--trained/--untrained", help="Whether the network counts as trained. Default: found out."),
    ] = None
    loss: Annotated[
        str | None,
        typer.Option(help=f"Loss that scores: {listed('loss')}. Default: the one that fits the output."),
    ] = None
    accumulate: Annotated[
        str | None,
        typer.Option(
            help=f"How derivatives of mini-batches are summed: {listed('accumulate')}. Default: by --trained."
        ),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labels while scoring: given, or drawn from the network's own prediction. Default: drawn "
            "where it is trained."
        ),
    ] = None
    mini_batch: Annotated[
        int | None,
        typer.Option(
            help="Inputs whose derivatives are summed first. Default: 4 where it is trained, else 16."
        ),
    ] = None
    batch_norm: Annotated[
        str, typer.Option(help="Statistics while scoring: fixed, or batch for each mini-batch's own.")
    ] = "fixed"
    samples: Samples = None
    draws: Draws = 5
    chunk: Annotated[
        int | None,
        typer.Option(help="Samples per pass: memory, never the score. Default: by the network's size."),
    ] = None


@dataclass(frozen=True)
class ScopeOptions:
    """What of a network may be cut."""

    PANEL: ClassVar[str] = "Scope"
    skip: Annotated[
        list[str],
        typer.Option(metavar="PATTERN", help="Leave layers whole, 'layer4.*' say; may be repeated."),
    ] = field(default_factory=list)
    only: Annotated[
        list[str],
        typer.Option(metavar="PATTERN", help="Cut only what these layers write; may be repeated."),
    ] = field(default_factory=list)
    cut_padded: Annotated[
        bool,
        flag("--cut-padded", help="Cut along what a shortcut without parameters pads with zeros."),
    ] = False
    embedding: Annotated[
        bool,
        flag("--embedding", help="Cut along what LayerNorms normalise together; the proof says how far off."),
    ] = False


@dataclass(frozen=True)
class CorrectionOptions:
    """What is done after a cut without labels, and how many images at once."""

    PANEL: ClassVar[str] = "Recovery"
    correct: Annotated[
        str | None,
        typer.Option(
            help="After the cut, on images of --data without their labels: least-squares refits every layer "
            "behind it, batch-norm takes statistics anew, none. Default: least-squares where there are data "
            "and the network is trained."
        ),
    ] = None
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Of training and evaluation.")] = 128


@dataclass(frozen=True)
class FinetuneOptions:
    """What is done after a cut with labels."""

    PANEL: ClassVar[str] = "Recovery"
    finetune: Annotated[int, typer.Option(metavar="EPOCHS", help="Epochs on --data after the cut.")] = 0
    distill: Annotated[
        bool | None,
        flag(
            "--distill/--no-distill",
            help="Let the dense network teach while fine-tuning, beside the labels. Default: where it is "
            "trained and right on half of the scoring images.",
        ),
    ] = None
    mirror: Mirror = None


@dataclass(frozen=True)
class ExporterOptions:
    """How ONNX files are written."""

    PANEL: ClassVar[str] = "Export"
    opset: Annotated[int | None, typer.Option(help="ONNX operator set. Default: the exporter's own.")] = None
    exporter: Annotated[str, typer.Option(help=f"ONNX exporter: {listed('exporter')}.")] = "auto"


@dataclass(frozen=True)
class OnnxOptions:
    """Whether an ONNX file is written, and how near it must come."""

    PANEL: ClassVar[str] = "Export"
    export: Annotated[bool, flag("--export/--no-export", help="Write and prove ONNX.")] = True
    form: ExporterOptions = field(default_factory=ExporterOptions)
    rtol: Rtol = 1e-4


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured of a result."""

    PANEL: ClassVar[str] = "Measuring"
    measure: Annotated[bool, flag("--measure/--no-measure", help="Measure what it bought.")] = True
    measure_batch: Batches = field(default_factory=lambda: [1, 8])
    threads: Threads = 1
    energy_seconds: Seconds = 5.0
    country: Country = None


@dataclass(frozen=True)
class PlaceOptions:
    """Where everything runs, and from which seed."""

    PANEL: ClassVar[str] = "Run"
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")] = "cpu"
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0


@dataclass(frozen=True)
class OutputOptions:
    """What is printed."""

    PANEL: ClassVar[str] = "Run"
    json: Json = False
    quiet: Annotated[bool, flag("--quiet", "-q", help="Say nothing on stderr but errors.")] = False
    debug: Debug = False
