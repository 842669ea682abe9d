"""The ResNets for CIFAR of He et al. 2016, section 4.2: depth 6n + 2 for 32 x 32 images.

A 3x3 stem of 16 channels, three stages of n basic blocks with 16, 32 and 64 channels, a global mean and
one linear layer. Parameter names: ``conv1 bn1 layer1.0.conv1 bn1 conv2 bn2 [shortcut.0 shortcut.1] linear``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from structprune.errors import UsageError

Shortcut = Literal["pad", "projection"]
WIDTHS = (16, 32, 64)


class PadShortcut(nn.Module):
    """Option A: every second pixel, zero channels in front and behind, no parameters.

    Args:
        inputs: channels that come in.
        outputs: channels that go out; half of the growth is padded on either side.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.growth = (outputs - inputs) // 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H/2, W/2)."""
        return pad(x_BCHW[:, :, ::2, ::2], (0, 0, 0, 0, self.growth, self.growth))


def _projection(inputs: int, outputs: int) -> nn.Module:
    """Option B: a 1x1 convolution of stride 2 with its batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))


SHORTCUTS: dict[str, Callable[[int, int], nn.Module]] = {"pad": PadShortcut, "projection": _projection}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; where the width grows, the image is halved."""

    def __init__(self, inputs: int, outputs: int, shortcut: Shortcut) -> None:
        super().__init__()
        grows = inputs != outputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if grows else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = SHORTCUTS[shortcut](inputs, outputs) if grows else nn.Sequential()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return relu(residual(x) + shortcut(x))."""
        h_BCHW = relu(self.bn1(self.conv1(x_BCHW)))
        return relu(self.bn2(self.conv2(h_BCHW)) + self.shortcut(x_BCHW))


class CifarResNet(nn.Module):
    """A ResNet of depth 6n + 2.

    Args:
        blocks: n, the basic blocks of each of the three stages.
        num_classes: outputs.
        shortcut: ``"pad"`` (option A, no parameters) or ``"projection"`` (option B, 1x1 convolutions).

    Raises:
        UsageError: the shortcut is neither.
    """

    def __init__(self, blocks: int, num_classes: int = 10, shortcut: Shortcut = "pad") -> None:
        super().__init__()
        if shortcut not in get_args(Shortcut):
            raise UsageError(f"shortcut {shortcut!r} is unknown; known: {', '.join(get_args(Shortcut))}")
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, shortcut)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, shortcut)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, shortcut)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, num_classes)."""
        h_BCHW = relu(self.bn1(self.conv1(x_BCHW)))
        h_BCHW = self.layer3(self.layer2(self.layer1(h_BCHW)))
        logits_BK: Tensor = self.linear(h_BCHW.mean((2, 3)))
        return logits_BK


def _stage(inputs: int, outputs: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, shortcut) for _ in range(blocks - 1)))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)


def cifar_resnet20(num_classes: int = 10, shortcut: Shortcut = "pad") -> CifarResNet:
    """ResNet-20: n = 3, 0.27 million parameters."""
    return CifarResNet(3, num_classes, shortcut)


def cifar_resnet32(num_classes: int = 10, shortcut: Shortcut = "pad") -> CifarResNet:
    """ResNet-32: n = 5, 0.46 million parameters."""
    return CifarResNet(5, num_classes, shortcut)


def cifar_resnet44(num_classes: int = 10, shortcut: Shortcut = "pad") -> CifarResNet:
    """ResNet-44: n = 7, 0.66 million parameters."""
    return CifarResNet(7, num_classes, shortcut)


def cifar_resnet56(num_classes: int = 10, shortcut: Shortcut = "pad") -> CifarResNet:
    """ResNet-56: n = 9, 0.85 million parameters."""
    return CifarResNet(9, num_classes, shortcut)
