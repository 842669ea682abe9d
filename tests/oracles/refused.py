"""Every way to wire layers that forbids to cut one of them, with a word of the reason."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tests.oracles.wiring import Layout, Refused, Wired, between, conv, pooled, through


def _tied() -> Wired:
    net = Wired(
        through("a", "b", "c"),
        a=conv(3, 8),
        b=conv(8, 8, padding=1),
        c=conv(8, 8, padding=1),
        head=nn.Linear(8, 3),
    )
    net.get_submodule("c").register_parameter("weight", net.get_parameter("b.weight"))
    return net


REFUSED: dict[str, Refused] = {
    "channels padded": Refused(between(lambda y: F.pad(y, (0, 0, 0, 0, 2, 2)), 12), "a", "pad"),
    "channels sliced": Refused(between(lambda y: y[:, :4], 4), "a", "sliced"),
    "channels selected": Refused(between(lambda y: y[:, 3:4], 1), "a", "sliced"),
    "channels to space": Refused(between(lambda y: F.pixel_shuffle(y, 2), 2), "a", "laid out in space"),
    "channels summed up": Refused(between(lambda y: y.cumsum(1)), "a", "cumsum"),
    "softmax over channels": Refused(between(lambda y: y.softmax(1)), "a", "softmax"),
    "mean over channels": Refused(between(lambda y: y * y.mean(1, keepdim=True)), "a", "mean"),
    "mean over everything": Refused(between(lambda y: y - y.mean()), "a", "mean"),
    "largest of everything": Refused(between(lambda y: y / y.max()), "a", "max"),
    "norm of everything": Refused(between(lambda y: y / y.norm()), "a", "norm"),
    "largest over channels": Refused(between(lambda y: y * y.amax(1, keepdim=True)), "a", "amax"),
    "channels and rows swapped": Refused(between(lambda y: y.transpose(1, 2), 6), "a", ""),
    "mean over the channels of a conv1d": Refused(
        Layout(
            lambda: Wired(
                lambda s, x: s.head(s.b((y := s.a(x)) * y.mean(1, keepdim=True)).flatten(1)),
                a=nn.Conv1d(3, 8, 3),
                b=nn.Conv1d(8, 6, 3),
                head=nn.Linear(24, 3),
            ),
            (3, 8),
        ),
        "a",
        "mean",
    ),
    "LayerNorm": Refused(
        Layout(
            lambda: Wired(
                lambda s, x: s.head(s.norm(torch.relu(s.a(x)))),
                a=nn.Linear(5, 8),
                norm=nn.LayerNorm(8),
                head=nn.Linear(8, 3),
            ),
            (5,),
        ),
        "a",
        "LayerNorm",
    ),
    "summed with the input": Refused(
        Layout(
            lambda: Wired(
                lambda s, x: s.head(pooled(s.b(s.a(x) + x))),
                a=conv(3, 3, padding=1),
                b=conv(3, 6),
                head=nn.Linear(6, 3),
            )
        ),
        "a",
        "",
    ),
    "broadcast over channels": Refused(
        Layout(
            lambda: Wired(
                lambda s, x: s.head(pooled(s.b((y := s.a(x)) * torch.sigmoid(s.one(y))))),
                a=conv(3, 8),
                one=conv(8, 1, 1),
                b=conv(8, 6),
                head=nn.Linear(6, 3),
            )
        ),
        "one",
        "",
    ),
    "grouped convolution of a concat": Refused(
        Layout(
            lambda: Wired(
                lambda s, x: s.head(pooled(s.c(torch.cat([s.a(x), s.b(x)], 1)))),
                a=conv(3, 4),
                b=conv(3, 4),
                c=conv(8, 8, groups=2),
                head=nn.Linear(8, 3),
            )
        ),
        "a",
        "grouped",
    ),
    "narrowing grouped convolution of a concat": Refused(
        Layout(
            lambda: Wired(
                lambda s, x: s.head(pooled(s.c(torch.cat([s.a(x), s.b(x)], 1)))),
                a=conv(3, 4),
                b=conv(3, 4),
                c=conv(8, 4, groups=2),
                head=nn.Linear(4, 3),
            )
        ),
        "a",
        "grouped",
    ),
    "shared weights": Refused(Layout(_tied), "b", ""),
    "weights computed from others": Refused(
        Layout(
            lambda: Wired(
                through("a", "b"),
                a=nn.utils.parametrizations.weight_norm(conv(3, 8)),
                b=conv(8, 6),
                head=nn.Linear(6, 3),
            )
        ),
        "a",
        "",
    ),
}
