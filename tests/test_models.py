from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from structprune.errors import UnknownNameError, UsageError
from structprune.models.definitions import MODELS, EarlyCropVGG16, cifar_resnet20, earlycrop_vgg16, mlp
from structprune.models.definitions.cifar_resnet import PadShortcut

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


def _normalised(images_NHWC: np.ndarray) -> Tensor:
    return ((torch.from_numpy(images_NHWC).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def _nodes(model: nn.Module, kind: type[nn.Module]) -> list[int]:
    return [
        p.shape[0]
        for m in model.modules()
        if isinstance(m, kind)
        for n, p in m.named_parameters()
        if n == "weight"
    ]


# Right answers on the 256 test images of the small file, counted once with the published weights.
@pytest.mark.parametrize(
    ("name", "blocks", "published"), [("20", 3, 0.9173), ("32", 5, 0.9263), ("44", 7, 0.9310)]
)
def test_published_weights_reach_their_accuracy(
    shared_data: Path, name: str, blocks: int, published: float
) -> None:
    model = MODELS[f"cifar_resnet{name}"](num_classes=10)
    model.load_state_dict(load_file(shared_data / f"cifar10_resnet{name}.safetensors"))
    with np.load(shared_data / "cifar10_mini.npz") as data:
        images, labels = _normalised(data["test_images"]), torch.from_numpy(data["test_labels"]).long()
    with torch.no_grad():
        right = (model.eval()(images).argmax(1) == labels).float().mean().item()
    # 256 images: three standard errors of a binomial proportion are 0.05.
    assert abs(right - published) < 0.05
    assert len(model.get_submodule("layer1")._modules) == blocks


def test_test5k_accuracy_of_resnet20(shared_data: Path) -> None:
    with np.load(shared_data / "cifar10_test5k.npz") as data:
        resid, labels = data["resid"][:, :600], torch.from_numpy(data["labels"][:600]).long()
    p = resid.cumsum(-1, dtype="u1").cumsum(-2, dtype="u1")
    images = _normalised(np.stack([p[1] + p[0], p[0], p[2] + p[0]], -1))
    model = cifar_resnet20()
    model.load_state_dict(load_file(shared_data / "cifar10_resnet20.safetensors"))
    with torch.no_grad():
        right = (model.eval()(images).argmax(1) == labels).float().mean().item()
    assert abs(right - 0.917) < 0.035


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar_resnet20", 269_722),
        ("cifar_resnet32", 464_154),
        ("cifar_resnet44", 658_586),
        ("cifar_resnet56", 853_018),
    ],
)
def test_parameter_counts_of_he_et_al(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in MODELS[name]().parameters()) == parameters


def test_pad_shortcut_places_channels_in_the_middle() -> None:
    x = torch.arange(1.0, 1 + 2 * 4 * 4).reshape(1, 2, 4, 4)
    y = PadShortcut(2, 4)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, 0].any()
    assert not y[:, 3].any()


def test_projection_shortcut_adds_one_conv_a_growing_stage() -> None:
    pad, projection = cifar_resnet20(shortcut="pad"), cifar_resnet20(shortcut="projection")
    extra = set(projection.state_dict()) - set(pad.state_dict())
    assert {key.rsplit(".", 1)[0] for key in extra} == {
        f"layer{stage}.0.shortcut.{part}" for stage in (2, 3) for part in (0, 1)
    }
    assert projection(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_unknown_shortcut_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="pad, projection"):
        cifar_resnet20(shortcut="identity")  # type: ignore[arg-type]


def test_vgg16_has_the_nodes_and_entries_of_the_reference() -> None:
    with torch.device("meta"):
        model = earlycrop_vgg16()
    convs, linears = _nodes(model, nn.Conv2d), _nodes(model, nn.Linear)[:-1]
    assert (len(convs), convs[-1], sum(convs), sum(linears)) == (13, 1024, 4_736, 8_192)
    entries = sum(t.numel() for name, t in model.state_dict().items() if "num_batches" not in name)
    assert entries == 51_475_464
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == 4


def test_vgg16_is_orthogonal_and_runs_at_32_and_64_px() -> None:
    model = EarlyCropVGG16(num_classes=5, hidden=8).eval()  # 33 million orthogonal weights take long
    rows = model.get_parameter("features.0.weight").detach().flatten(1)
    assert torch.allclose(rows.T @ rows, torch.eye(27), atol=1e-5)
    for size in (32, 64):
        assert model(torch.randn(1, 3, size, size)).shape == (1, 5)


def test_mlp_flattens_its_input() -> None:
    model = mlp(num_classes=3, input_shape=(2, 4, 4), hidden=(7, 5))
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [(7, 32), (5, 7), (3, 5)]
    x = torch.randn(4, 2, 4, 4)
    assert torch.equal(model(x), model(x.flatten(1)))


def test_registry_lists_the_models() -> None:
    assert {"cifar_resnet20", "earlycrop_vgg16", "mlp"} <= set(MODELS)
    with pytest.raises(UnknownNameError, match="cifar_resnet20"):
        MODELS["cifar_resnet21"]
