"""Every way to wire layers whose channels can be cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.oracles.wiring import Layout, Wired, between, conv, pooled, through


def squeeze_excite(s: Any, x: Tensor) -> Tensor:
    maps = torch.relu(s.a(x))
    scale = torch.sigmoid(s.up(torch.relu(s.down(maps.mean((2, 3), keepdim=True)))))
    out: Tensor = s.head(pooled(s.b(maps * scale)))
    return out


def squeeze_excite_linear(s: Any, x: Tensor) -> Tensor:
    maps = torch.relu(s.a(x))
    scale = torch.sigmoid(s.up(torch.relu(s.down(pooled(maps)))))
    out: Tensor = s.head(pooled(s.b(maps * scale[:, :, None, None])))
    return out


CUTTABLE: dict[str, Layout] = {
    "chain": Layout(lambda: Wired(through("a", "b"), a=conv(3, 8), b=conv(8, 6), head=nn.Linear(6, 3))),
    "no bias": Layout(
        lambda: Wired(
            through("a", "b"), a=conv(3, 8, bias=False), b=conv(8, 6, bias=False), head=nn.Linear(6, 3)
        )
    ),
    "linear": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.b(torch.relu(s.a(x))))),
            a=nn.Linear(5, 8),
            b=nn.Linear(8, 6),
            head=nn.Linear(6, 3),
        ),
        (5,),
    ),
    "conv1d": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.b(torch.relu(s.a(x)))).flatten(1)),
            a=nn.Conv1d(3, 8, 3),
            b=nn.Conv1d(8, 6, 3),
            head=nn.Linear(6 * 4, 3),
        ),
        (3, 8),
    ),
    "conv3d": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.b(torch.relu(s.a(x)))).mean((2, 3, 4))),
            a=nn.Conv3d(3, 8, 3),
            b=nn.Conv3d(8, 6, 3),
            head=nn.Linear(6, 3),
        ),
        (3, 5, 5, 5),
    ),
    "batch norm": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(torch.relu(s.norm(s.a(x)))))),
            a=conv(3, 8),
            norm=nn.BatchNorm2d(8),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "batch norm without scales": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(torch.relu(s.norm(s.a(x)))))),
            a=conv(3, 8),
            norm=nn.BatchNorm2d(8, affine=False),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "flatten": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.a(x)).flatten(1)), a=conv(3, 8), head=nn.Linear(288, 3)
        )
    ),
    "view": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.a(x)).view(len(x), -1)), a=conv(3, 8), head=nn.Linear(288, 3)
        )
    ),
    "flatten, batch norm": Layout(
        lambda: Wired(
            lambda s, x: s.head(s.norm(torch.relu(s.a(x)).flatten(1))),
            a=conv(3, 8),
            norm=nn.BatchNorm1d(288),
            head=nn.Linear(288, 3),
        )
    ),
    "flatten, two linear": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.b(torch.relu(s.a(x)).flatten(1)))),
            a=conv(3, 8),
            b=nn.Linear(288, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "residual sum": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(torch.relu(s.a(x) + s.b(torch.relu(s.a(x)))))),
            a=conv(3, 8),
            b=conv(8, 8, padding=1),
            head=nn.Linear(8, 3),
        )
    ),
    "concat": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.c(torch.relu(torch.cat([s.a(x), s.b(x)], 1))))),
            a=conv(3, 8),
            b=conv(3, 4),
            c=conv(12, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "concat, batch norm": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.c(torch.relu(s.norm(torch.cat([s.a(x), s.b(x)], 1)))))),
            a=conv(3, 8),
            b=conv(3, 4),
            norm=nn.BatchNorm2d(12),
            c=conv(12, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "concat with the input": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(torch.cat([s.a(x), x], 1)))),
            a=conv(3, 8, padding=1),
            b=conv(11, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "concat with itself": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(torch.cat([torch.relu(y := s.a(x)), -y], 1)))),
            a=conv(3, 4),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "residual sum with a concat": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.d(torch.cat([s.a(x), s.b(x)], 1) + s.c(x)))),
            a=conv(3, 8),
            b=conv(3, 4),
            c=conv(3, 12),
            d=conv(12, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "depthwise": Layout(
        lambda: Wired(
            through("a", "b", "c"),
            a=conv(3, 8),
            b=conv(8, 8, groups=8),
            c=conv(8, 6, 1),
            head=nn.Linear(6, 3),
        )
    ),
    "depthwise of a concat": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(torch.relu(s.c(torch.cat([s.a(x), s.b(x)], 1))))),
            a=conv(3, 4),
            b=conv(3, 4),
            c=conv(8, 8, groups=8),
            head=nn.Linear(8, 3),
        )
    ),
    "grouped": Layout(
        lambda: Wired(
            through("a", "b", "c"),
            a=conv(3, 16),
            b=conv(16, 24, groups=4),
            c=conv(24, 6, 1),
            head=nn.Linear(6, 3),
        )
    ),
    "grouped after grouped": Layout(
        lambda: Wired(
            through("a", "b", "c"),
            a=conv(3, 24),
            b=conv(24, 24, groups=4),
            c=conv(24, 24, 1, groups=6),
            head=nn.Linear(24, 3),
        )
    ),
    "grouped residual": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(torch.relu((y := s.a(x)) + s.b(torch.relu(y))))),
            a=conv(3, 12),
            b=conv(12, 12, padding=1, groups=3),
            head=nn.Linear(12, 3),
        )
    ),
    "grouped into a flatten": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.b(torch.relu(s.a(x)))).flatten(1)),
            a=conv(3, 8),
            b=conv(8, 12, groups=2),
            head=nn.Linear(12 * 16, 3),
        )
    ),
    "transposed": Layout(
        lambda: Wired(
            through("a", "b", "c"),
            a=conv(3, 8),
            b=nn.ConvTranspose2d(8, 6, 3),
            c=conv(6, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "transposed depthwise": Layout(
        lambda: Wired(
            through("a", "b", "c"),
            a=conv(3, 8),
            b=nn.ConvTranspose2d(8, 8, 3, groups=8),
            c=conv(8, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "transposed grouped": Layout(
        lambda: Wired(
            through("a", "b", "c"),
            a=conv(3, 8),
            b=nn.ConvTranspose2d(8, 12, 3, groups=4),
            c=conv(12, 5),
            head=nn.Linear(5, 3),
        )
    ),
    "squeeze-excite": Layout(
        lambda: Wired(
            squeeze_excite,
            a=conv(3, 8),
            down=conv(8, 4, 1),
            up=conv(4, 8, 1),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "squeeze-excite of linear layers": Layout(
        lambda: Wired(
            squeeze_excite_linear,
            a=conv(3, 8),
            down=nn.Linear(8, 4),
            up=nn.Linear(4, 8),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "PReLU": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(s.act(s.a(x))))),
            a=conv(3, 8),
            act=nn.PReLU(8, init=0.1),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "PReLU with one slope": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(s.act(s.a(x))))),
            a=conv(3, 8),
            act=nn.PReLU(),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "used twice": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(torch.relu(s.b(torch.relu(s.b(s.a(x))))))),
            a=conv(3, 8),
            b=conv(8, 8, padding=1),
            head=nn.Linear(8, 3),
        )
    ),
    "padded in space": between(lambda y: F.pad(y, (1, 1, 2, 0))),
    "softmax over space": between(lambda y: y.softmax(-1)),
    "up-sampled": between(lambda y: F.interpolate(y, scale_factor=2, mode="bilinear")),
    "average and largest": between(lambda y: F.avg_pool2d(y, 2, 1) + F.max_pool2d(y, 2, 1)),
    "pooled and squeezed": Layout(
        lambda: Wired(
            lambda s, x: s.head(F.adaptive_avg_pool2d(torch.relu(s.a(x)), 1).squeeze(-1).squeeze(-1)),
            a=conv(3, 8),
            head=nn.Linear(8, 3),
        )
    ),
    "channels split": between(lambda y: torch.mul(*y.chunk(2, 1)), 4),
    "channels shuffled": between(
        lambda y: y.reshape(len(y), 2, y.shape[1] // 2, 6, 6).transpose(1, 2).reshape(len(y), -1, 6, 6)
    ),
    "channels flipped": between(lambda y: y.flip(1)),
    "concatenated in space": between(lambda y: torch.cat([y, -y], 2)),
    "channels behind space, flattened": Layout(
        lambda: Wired(
            lambda s, x: s.head(s.a(x).permute(0, 2, 3, 1).flatten(1)),
            a=conv(3, 8),
            head=nn.Linear(288, 3),
        )
    ),
    "tokens flattened": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.relu(s.a(x)).flatten(1)), a=nn.Linear(5, 8), head=nn.Linear(56, 3)
        ),
        (7, 5),
    ),
    "GroupNorm": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.norm(torch.relu(s.a(x))))),
            a=conv(3, 8),
            norm=nn.GroupNorm(4, 8),
            head=nn.Linear(8, 3),
        )
    ),
    "a loose parameter": Layout(
        lambda: Wired(
            lambda s, x: s.head(pooled(s.b(s.a(x) * s.scale))),
            a=conv(3, 8),
            scale=nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
    "concat of flattened maps": Layout(
        lambda: Wired(
            lambda s, x: s.head(torch.cat([s.a(x).flatten(1), s.b(x).flatten(1)], 1)),
            a=conv(3, 8),
            b=conv(3, 4),
            head=nn.Linear(12 * 36, 3),
        )
    ),
}
