"""Every criterion by brute force: whole Hessians, loops over samples, nothing shared with the package.

Scores come as one vector over all gates, in the order of ``Setting.gates``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from tests.oracles.forward import Forward, Normalise, Recorder, Values, by_statistics, of_the_batch

Samples = tuple[Tensor, Tensor]
"""Inputs (N, ...) and labels (N,)."""
Scalar = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """What is scored, and on what.

    Attributes:
        forward: the network as a plain function.
        values: its parameters, in their own order.
        channels: channel gate -> size.
        gates: name -> shape of the gates that are scored: of channels, or of weights.
        batches: mini-batches.
        statistics: running statistics, or None where every mini-batch normalises with its own.
        masks: gate name -> 0/1 tensor, where not all gates are open.
    """

    forward: Forward
    values: Values
    channels: Mapping[str, int]
    gates: Mapping[str, torch.Size]
    batches: Sequence[Samples]
    statistics: Values | None
    masks: Values = field(default_factory=dict)

    @property
    def c(self) -> Tensor:
        """The gates as they stand, end to end, (n,)."""
        gates = {name: self.masks.get(name, torch.ones(shape)) for name, shape in self.gates.items()}
        return torch.cat([gate.flatten() for gate in gates.values()]).double()

    @property
    def x(self) -> Tensor:
        """What the gradient flow is of, (n,): the gates of channels, the effective weights of weights."""
        if not self.of_weights:
            return self.c
        return torch.cat([self.values[name].flatten() for name in self.gates]) * self.c

    @property
    def of_weights(self) -> bool:
        return set(self.gates) <= set(self.values)

    def output(self, flat: Tensor, values: Values, x: Tensor, norm: Normalise) -> Tensor:
        """Run the network with gates that lie end to end."""
        gates = split(flat, self.gates)
        closed = {name: torch.ones(size, dtype=torch.float64) for name, size in self.channels.items()}
        scaled = {name: value * gates[name] if name in gates else value for name, value in values.items()}
        return self.forward(scaled, {**closed, **{k: v for k, v in gates.items() if k in closed}}, x, norm)


def split(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    pieces, start = {}, 0
    for name, shape in shapes.items():
        pieces[name] = flat[start : start + shape.numel()].reshape(shape)
        start += shape.numel()
    return pieces


def weights(values: Values) -> dict[str, Tensor]:
    """Conv and linear weights: the parameters with more than one dimension."""
    return {name: value for name, value in values.items() if value.dim() > 1}


def mean_loss(
    setting: Setting, batches: Sequence[Samples], flat: Tensor, values: Values, temperature: float = 1.0
) -> Tensor:
    """Cross entropy, averaged over the samples of all batches one by one."""
    losses = []
    for x, labels in batches:
        if setting.statistics is None:
            scores = setting.output(flat, values, x, of_the_batch)
        else:
            norm = by_statistics(setting.statistics)
            scores = torch.cat([setting.output(flat, values, one[None], norm) for one in x])
        scores = scores / temperature
        losses += [row.exp().sum().log() - row[label] for row, label in zip(scores, labels, strict=True)]
    return torch.stack(losses).mean()


def snip(setting: Setting, how: str) -> Tensor:
    """|c dL/dc|."""
    return summed(setting, how, lambda loss: setting.c * derivative(loss, setting.c))


def force(setting: Setting, how: str) -> Tensor:
    """|dL/dc|, of closed gates too."""
    return summed(setting, how, lambda loss: derivative(loss, setting.c))


def gate_taylor(setting: Setting, how: str) -> Tensor:
    """|c dL/dc| of every mini-batch, summed, whatever is asked for."""
    return snip(setting, "abs")


def crop(setting: Setting, how: str) -> Tensor:
    """|x (H g)|, x the gates of channels or the effective weights, with the whole Hessian."""
    return strength([flow_change(setting, unit) for unit in units(setting, how)], how)


def grasp(setting: Setting, how: str) -> Tensor:
    """The same with its sign, at temperature 200, of the total whatever is asked for."""
    return flow_change(setting, setting.batches, temperature=200.0)


def flow_change(setting: Setting, unit: Sequence[Samples], temperature: float = 1.0) -> Tensor:
    x, loss = setting.x, loss_of_x(setting, unit, temperature)
    g = derivative(loss, x)
    g[setting.c == 0] = 0
    return x * (second_derivative(loss, x) @ g)


def loss_of_x(setting: Setting, unit: Sequence[Samples], temperature: float = 1.0) -> Scalar:
    def loss(x: Tensor) -> Tensor:
        if not setting.of_weights:
            return mean_loss(setting, unit, x, setting.values, temperature)
        weights_now = {**setting.values, **split(x, setting.gates)}
        return mean_loss(setting, unit, torch.ones_like(x), weights_now, temperature)

    return loss


def synflow(setting: Setting, buffers: Values) -> Tensor:
    """|c dR/dc|, R the sum of the outputs for ones, all values and running statistics made positive."""
    values, norm = absolute(setting.values), by_statistics(absolute(buffers))
    x = torch.ones_like(setting.batches[0][0][:1])
    return (setting.c * derivative(lambda c: setting.output(c, values, x, norm).sum(), setting.c)).abs()


def absolute(values: Values) -> dict[str, Tensor]:
    return {name: value.abs() for name, value in values.items()}


def crop_gradflow(setting: Setting, how: str) -> Tensor:
    """|H_ca g_a|: the block gates by weights of the Hessian of both, times the weights' gradient."""
    a = weights(setting.values)
    shapes = {name: value.shape for name, value in a.items()}
    both = torch.cat([setting.c, *(value.flatten() for value in a.values())])
    C = len(setting.c)
    scores = []
    for unit in units(setting, how):

        def loss(joint: Tensor, unit: Sequence[Samples] = unit) -> Tensor:
            return mean_loss(setting, unit, joint[:C], {**setting.values, **split(joint[C:], shapes)})

        scores.append(second_derivative(loss, both)[:C, C:] @ derivative(loss, both)[C:])
    return strength(scores, how)


def units(setting: Setting, how: str) -> list[Sequence[Samples]]:
    return [setting.batches] if how == "total" else [[batch] for batch in setting.batches]


def summed(setting: Setting, how: str, signed: Callable[[Scalar], Tensor]) -> Tensor:
    scores = []
    for unit in units(setting, how):

        def loss(flat: Tensor, unit: Sequence[Samples] = unit) -> Tensor:
            return mean_loss(setting, unit, flat, setting.values)

        scores.append(signed(loss))
    return strength(scores, how)


def strength(scores: Sequence[Tensor], how: str) -> Tensor:
    return torch.stack([s * s if how == "square" else s.abs() for s in scores]).sum(0)


def derivative(scalar: Scalar, at: Tensor) -> Tensor:
    """The gradient, (n,)."""
    gradient: Tensor = jacobian(scalar, at)  # type: ignore[no-untyped-call]
    return gradient


def second_derivative(scalar: Scalar, at: Tensor) -> Tensor:
    """The whole Hessian, (n, n)."""
    matrix: Tensor = hessian(scalar, at)  # type: ignore[no-untyped-call]
    return matrix


def central_difference(scalar: Scalar, at: Tensor, step: float = 1e-5) -> Tensor:
    """The derivative, one coordinate at a time."""
    rows = torch.eye(len(at), dtype=at.dtype) * step
    return torch.stack([(scalar(at + row) - scalar(at - row)) / (2 * step) for row in rows])


def snip_by_difference(setting: Setting) -> Tensor:
    """|c dL/dc| of the total, from closing every gate by a little."""

    def loss(flat: Tensor) -> Tensor:
        return mean_loss(setting, setting.batches, flat, setting.values)

    return (setting.c * central_difference(loss, setting.c)).abs()


def crop_by_difference(setting: Setting) -> Tensor:
    """|x d/dx of half the squared gradient norm|, from closing every gate by a little."""
    return flow_change_by_difference(setting, 1.0).abs()


def grasp_by_difference(setting: Setting) -> Tensor:
    """The same with its sign, at temperature 200."""
    return flow_change_by_difference(setting, 200.0)


def flow_change_by_difference(setting: Setting, temperature: float) -> Tensor:
    loss, x, there = loss_of_x(setting, setting.batches, temperature), setting.x, setting.c == 1
    return x * central_difference(lambda at: (derivative(loss, at)[there] ** 2).sum() / 2, x)


def ntk_sap(
    setting: Setting,
    draws: Sequence[Tensor],
    seed: int,
    *,
    redraw: bool,
    noise: bool,
    epsilon: float = 0.01,
    drawn_in: torch.dtype = torch.float64,
) -> Tensor:
    """|c dJ/dc|, J the squared distance that a small step of the weights moves the outputs.

    Random numbers are drawn in the order inputs, weights, steps; weights in the order of the network.

    Args:
        setting: the network; with statistics, kept weights normalise with these.
        draws: the inputs of each draw, (N, ...); with noise only their shapes count.
        seed: of all that is random.
        redraw: whether every draw has weights of its own.
        noise: whether inputs are standard normal.
        epsilon: standard deviation of the step.
        drawn_in: precision of the random numbers; those of float32 are not the rounded ones of float64.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=drawn_in).double()

    total = torch.zeros_like(setting.c)
    for inputs in draws:
        z = normal(inputs) if noise else inputs
        start = {**setting.values, **(kaiming(setting.values, normal) if redraw else {})}
        end = {**start, **{k: w + epsilon * normal(w) for k, w in weights(start).items()}}
        given = None if redraw else setting.statistics
        norm = by_statistics(taken(setting, start, z) if given is None else given)
        total += derivative(distance(setting, start, end, z, norm), setting.c)
    return (setting.c * total).abs()


def distance(setting: Setting, start: Values, end: Values, z: Tensor, norm: Normalise) -> Scalar:
    def J(c: Tensor) -> Tensor:  # noqa: N802
        squares = []
        for one in z:
            apart = setting.output(c, start, one[None], norm) - setting.output(c, end, one[None], norm)
            squares += [difference**2 for difference in apart.flatten()]
        return torch.stack(squares).sum()

    return J


def taken(setting: Setting, values: Values, z: Tensor) -> Values:
    recorder = Recorder()
    setting.output(setting.c, values, z, recorder)
    return recorder.statistics


def kaiming(values: Values, normal: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """New weights of variance 2 / fan-in, batch norms at (1, 0), biases of other layers as they are."""
    new = {name: torch.ones_like(value) for name, value in values.items() if is_scale(name, values)}
    new |= {name.replace("weight", "bias"): torch.zeros_like(value) for name, value in new.items()}
    for name, w in weights(values).items():
        fan_in = w[0].numel()
        new[name] = normal(w) * (2.0 / fan_in) ** 0.5
    return new


def is_scale(name: str, values: Values) -> bool:
    return name.endswith("weight") and values[name].dim() == 1
