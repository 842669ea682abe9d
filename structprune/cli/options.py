"""Options that several verbs share, each under the name that users know from their other tools."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from structprune.choices import listed

# A flag takes no value, so its help shows no type.
flag = partial(typer.Option, metavar="")

Network = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A file of weights (.pt, .pth, .safetensors, .npz), a pickled network, a result folder, a zoo's "
        "name (resnet18, torchvision:resnet18, timm:NAME, transformers:NAME) or package.module:factory.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Architecture of a state dict: a zoo's name or a factory. Default: found from its keys."
    ),
]
Pretrained = Annotated[bool, flag("--pretrained", help="Fetch the zoo's trained weights.")]
TrustPickle = Annotated[bool, flag("--trust-pickle", help="Your word that a pickle may run code.")]
NoEma = Annotated[
    bool,
    flag("--no-ema", help="Take trained weights where a file holds their moving averages (EMA) too."),
]
Classes = Annotated[int | None, typer.Option("--classes", help="Outputs of a network from a zoo.")]
InputSize = Annotated[
    tuple[int, int, int] | None,
    typer.Option(
        metavar="C H W", help="Size of one input. Default: the data's, else the architecture's own."
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="Example inputs with their batch dimension: an .npy array, or an .npz of one for each argument.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Json = Annotated[bool, flag("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, flag("--quiet", "-q", help="Say nothing on stderr but errors.")]
Debug = Annotated[bool, flag("--debug", help="Show the traceback of an error.")]

Data = Annotated[
    str | None,
    typer.Option(
        help="Images that score and fine-tune: a folder of class folders, an .npz of uint8 images and "
        "labels, digits, or cifar10:ROOT, cifar100:ROOT, mnist:ROOT, fashion-mnist:ROOT."
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(
        help="Images that accuracy is reported on. Default: the data's own test part, else 20 % of --data."
    ),
]
Mean = Annotated[
    tuple[float, float, float] | None, typer.Option(metavar="R G B", help="Of images in [0, 1].")
]
Std = Annotated[tuple[float, float, float] | None, typer.Option(metavar="R G B", help="Of images in [0, 1].")]
Score = Annotated[str, typer.Option(help="A criterion, or a fusion of several joined by '+'.")]
Trained = Annotated[
    bool | None,
    flag("--trained/--untrained", help="Whether the network counts as trained. Default: found out."),
]
Accumulate = Annotated[
    str | None,
    typer.Option(
        help=f"How derivatives of mini-batches are summed: {listed('accumulate')}. Default: by --trained."
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(help=f"Loss that scores: {listed('loss')}. Default: the one that fits the output."),
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Labels while scoring: given, or drawn from the network's own prediction. Default: drawn where "
        "it is trained."
    ),
]
MiniBatch = Annotated[
    int | None,
    typer.Option(help="Inputs whose derivatives are summed first. Default: 4 where it is trained, else 16."),
]
Samples = Annotated[
    int | None,
    typer.Option(help="Inputs that score. Default: 64 without data; 10 a class, 256 to 2,048, with data."),
]
Draws = Annotated[int, typer.Option(help="Weight draws of NTK-SAP, at least.")]
Chunk = Annotated[
    int | None,
    typer.Option(help="Samples per pass: memory, never the score. Default: by the network's size."),
]
BatchNorm = Annotated[
    str, typer.Option(help="Statistics while scoring: fixed, or batch for each mini-batch's own.")
]
Floor = Annotated[float, typer.Option(help="The fraction of its width that every group keeps at least.")]
Align = Annotated[int, typer.Option(help="Widths become multiples of it, or stay.")]
AlignAuto = Annotated[
    str,
    typer.Option(
        metavar="INTEGER|auto",
        help="Widths become multiples of it, or stay; auto: those that a device likes, by its profile.",
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Of structprune profile, on the device that will run the network."),
]
Skip = Annotated[
    list[str],
    typer.Option(metavar="PATTERN", help="Leave layers whole, 'layer4.*' say; may be repeated."),
]
Only = Annotated[
    list[str],
    typer.Option(metavar="PATTERN", help="Cut only what these layers write; may be repeated."),
]
CutPadded = Annotated[
    bool,
    flag("--cut-padded", help="Cut along what a shortcut without parameters pads with zeros."),
]
Embedding = Annotated[
    bool,
    flag("--embedding", help="Cut along what LayerNorms normalise together; the proof says how far off."),
]
Mirror = Annotated[
    bool | None,
    flag("--mirror/--no-mirror", help="Train on mirrored images too. Default: yes, but not of digits."),
]
Correct = Annotated[
    str | None,
    typer.Option(
        help="After the cut, on images of --data without their labels: least-squares refits every layer "
        "behind it, batch-norm takes statistics anew, none. Default: least-squares where there are data and "
        "the network is trained."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="Of training and evaluation.")]
Opset = Annotated[int | None, typer.Option(help="ONNX operator set. Default: the exporter's own.")]
Exporter = Annotated[str, typer.Option(help=f"ONNX exporter: {listed('exporter')}.")]
Rtol = Annotated[float, typer.Option(help="Bound of the ONNX proof, of the largest output.")]
Int8 = Annotated[bool, flag("--int8", help="Also an int8 file, calibrated on the data, compared and timed.")]
Country = Annotated[
    str | None,
    typer.Option(
        "--country-iso-code", help="Whose electricity: a three-letter code. Default: the world's average."
    ),
]
Threads = Annotated[int, typer.Option(help="CPU threads inside an operator while measuring.")]
ThreadCounts = Annotated[
    list[int], typer.Option("--threads", help="CPU threads inside an operator; may be repeated.")
]
Runtimes = Annotated[
    list[str],
    typer.Option(
        "--runtime",
        help=f"What runs them while they are timed: {listed('runtime')}; may be repeated.",
    ),
]
Batches = Annotated[list[int], typer.Option("--measure-batch", help="Batch size to time; may be repeated.")]
Seconds = Annotated[
    float, typer.Option("--energy-seconds", help="Time in which the energy of each network is taken.")
]
Force = Annotated[bool, flag("--force", help="Replace a result folder of ours that is already there.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Result folder. Default: NAME-nodes0.89 here."),
]
