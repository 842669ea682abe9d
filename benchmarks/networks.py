"""Networks that no zoo has, as people write them: factories for ``python -m benchmarks.zoo``.

Each says by its ``input_shape`` what one input looks like.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """A U-Net of three levels, with transposed convolutions on the way up and a concat a level."""

    input_shape = (3, 64, 64)

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        sizes = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(_two_convs(a, b) for a, b in zip((3, *sizes), sizes, strict=False))
        self.bottom = _two_convs(sizes[-1], 8 * width)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, 2) for n in reversed(sizes))
        self.merge = nn.ModuleList(_two_convs(2 * n, n) for n in reversed(sizes))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, classes, H, W)."""
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        scores: Tensor = self.head(x)
        return scores


def _two_convs(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (inputs, outputs):
        layers += [nn.Conv2d(n, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Recurrent(nn.Module):
    """A recurrent network over 12 steps of 8 numbers, with a linear layer before and behind."""

    input_shape = (12, 8)

    def __init__(self, kind: type[nn.LSTM | nn.GRU], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 24)
        self.rnn = kind(24, 32, batch_first=True, **options)
        width = 64 if options.get("bidirectional") else 32
        self.hidden = nn.Linear(width, 48)
        self.head = nn.Linear(48, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, 6)."""
        states, _ = self.rnn(torch.relu(self.embed(x)))
        scores: Tensor = self.head(torch.relu(self.hidden(states[:, -1])))
        return scores


class GroupNormResNet(nn.Module):
    """Three residual blocks with group norms."""

    input_shape = (3, 32, 32)

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(16, width)
        self.blocks = nn.ModuleList(_GroupNormBlock(width) for _ in range(3))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, 10)."""
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class _GroupNormBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(16, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(16, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + y)


class RetinaNetHeads(nn.Module):
    """torchvision's RetinaNet without the part that makes boxes of its outputs."""

    input_shape = (3, 128, 128)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.detection import retinanet_resnet50_fpn

        detector = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=11)
        self.backbone, self.heads = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return class logits (N, anchors, 11) and box offsets (N, anchors, 4)."""
        found: dict[str, Tensor] = self.heads(list(self.backbone(x).values()))
        return found


def unet() -> nn.Module:
    """A U-Net."""
    return UNet()


def lstm() -> nn.Module:
    """One LSTM."""
    return Recurrent(nn.LSTM)


def bilstm() -> nn.Module:
    """Two layers of LSTM in both directions."""
    return Recurrent(nn.LSTM, num_layers=2, bidirectional=True)


def gru() -> nn.Module:
    """One GRU."""
    return Recurrent(nn.GRU)


def groupnorm_resnet() -> nn.Module:
    """Residual blocks with group norms."""
    return GroupNormResNet()


def retinanet() -> nn.Module:
    """A detector's backbone and heads."""
    return RetinaNetHeads()


def bert() -> nn.Module:
    """A small BERT classifier of transformers', built from its configuration."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=1000,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
    )
    return _shaped(BertForSequenceClassification(config), (16,), config.vocab_size)


def cifar_resnet20_projected() -> nn.Module:
    """A CIFAR ResNet whose shortcuts are 1x1 convolutions."""
    from structprune.models.definitions import MODELS

    return _shaped(MODELS["cifar_resnet20"](shortcut="projection"), (3, 32, 32))


def conv1d() -> nn.Module:
    """Convolutions over a signal."""
    return _shaped(_conv_net(nn.Conv1d, nn.BatchNorm1d, 3), (4, 64))


def conv3d() -> nn.Module:
    """Convolutions over a volume."""
    return _shaped(_conv_net(nn.Conv3d, nn.BatchNorm3d, 3), (2, 12, 12, 12))


def _conv_net(conv: Any, norm: Any, levels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 4 if conv is nn.Conv1d else 2
    for level in range(levels):
        outputs = 16 << level
        layers += [conv(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, _Mean(), nn.Linear(inputs, 7))


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def _shaped(model: nn.Module, shape: tuple[int, ...], ids: int | None = None) -> nn.Module:
    model.input_shape = shape  # type: ignore[assignment]
    if ids is not None:
        model.input_ids = ids  # type: ignore[assignment]
    return model
