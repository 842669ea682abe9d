"""The VGG16 of EarlyCroP, which is not torchvision's.

Known (read in the authors' code, or fixed by their counts): 13 convolutions of which the last is 1,024 wide,
no fifth pooling layer, a 2x2 pool in front of two hidden layers of 4,096, orthogonal initialisation; 12,928
nodes, of which 4,736 are channels of convolutions and 8,192 hidden units.

Inferred: the first hidden layer reads 1,024 x 2 x 2 = 4,096 features, since with 200 classes the network then
has the 51.48 million entries that the poster's memory column implies; with a batch norm behind every biased
convolution they are 51,475,464, its running statistics included. Pooling to a 2 x 2 map, whatever the image
size, equals a pool with window 2 at 64 px. Not known, and left out: dropout.
"""

from __future__ import annotations

from torch import Tensor, nn

# Output channels of each convolution; "pool" halves the image.
LAYOUT: tuple[int | str, ...] = (
    *(64, 64, "pool"),
    *(128, 128, "pool"),
    *(256, 256, 256, "pool"),
    *(512, 512, 512, "pool"),
    *(512, 512, 1024),
)


class EarlyCropVGG16(nn.Module):
    """VGG16 as EarlyCroP prunes it.

    Args:
        num_classes: outputs.
        hidden: units of each of the two hidden layers.
    """

    def __init__(self, num_classes: int = 200, hidden: int = 4096) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(1024 * 2 * 2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map images (B, 3, H, W), at least 32 px wide, to logits (B, num_classes)."""
        h_BCHW = self.pool(self.features(x_BCHW))
        logits_BK: Tensor = self.classifier(h_BCHW.flatten(1))
        return logits_BK


def _features() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for entry in LAYOUT:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU(inplace=True)]
        inputs = entry
    return layers


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        # Without data there is nothing to draw, and a QR decomposition has no meta kernel everywhere.
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
            nn.init.orthogonal_(module.weight)


def earlycrop_vgg16(num_classes: int = 200) -> EarlyCropVGG16:
    """EarlyCroP's VGG16: 12,928 nodes; 200 classes as in its poster's table."""
    return EarlyCropVGG16(num_classes)
