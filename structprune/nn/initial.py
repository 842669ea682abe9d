r"""Whether a tensor is as initialisers leave it: constant, or drawn entry by entry from one distribution.

Training adds matrices of low rank that know one channel from another. What is left then shows: the entries'
distribution is no longer uniform or normal, some rows or columns are larger than others or off zero, or one
direction is longer than any that chance gives. None of it depends on the initialiser's scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

FEWEST = 32
"""Entries below which a weight's distribution tells nothing."""
MOST = 4096
"""Entries that are looked at of a distribution: rounding to bfloat16 shows in more of them."""
ROWS, COLUMNS = 256, 512

LARGEST_GAP = 2.2
"""Of a distribution function, times the root of the number of entries: chance exceeds it once in 8,000."""
LARGEST_SCORE = 8.0
"""Standard deviations beyond which nothing is chance."""
FEW_VALUES = 16
"""Different values up to which a tensor was written and not drawn: identities, bilinear kernels, zeros."""
TINY = 1e-4
"""Size up to which a bias counts as zero: some are drawn with standard deviation 1e-6."""
ROUNDING = 1e-6

_SPREAD_OF_CUT = 0.8796256610342398
"""Standard deviation of a standard normal number cut off at two."""
_MASS_OF_CUT = 0.9544997361036416
"""Its probability to lie within two before it is cut off."""


def is_constant(x: Tensor) -> bool:
    """Tell whether all entries are the same, within rounding.

    Example:
        >>> is_constant(torch.ones(8)), is_constant(torch.tensor([1.0, 1.01]))
        (True, False)
    """
    values = x.detach()
    return bool(values.max() - values.min() <= ROUNDING * values.abs().max())


def is_bias_initial(bias: Tensor, bounds: Sequence[float]) -> bool:
    """Tell whether a bias is as initialisers leave it: constant, nearly zero, or uniform within a bound.

    Args:
        bias: (C,).
        bounds: of the uniform draws that the layer's own initialisation makes, 1 / sqrt(fan-in).
    """
    values = _some(bias, MOST)
    if values.abs().max() <= TINY or _different(values) <= max(1, min(len(values) // 2, FEW_VALUES)):
        return True
    return any(_is_uniform_within(values, bound) for bound in bounds)


def _is_uniform_within(values: Tensor, bound: float) -> bool:
    inside = bool(values.abs().max() <= bound * (1 + TINY))
    return inside and _gap(values, lambda x: (x / bound + 1) / 2) <= LARGEST_GAP


def is_weight_initial(weight: Tensor) -> bool | None:
    """Tell whether a weight's entries are drawn alike; None where that can't be told.

    It can't where entries are few, or written and not drawn.

    Args:
        weight: (O, I, ...), of any scale.
    """
    values = _some(weight, MOST)
    values = values[values != 0]
    if len(values) < FEWEST or _different(values) <= FEW_VALUES:
        return None
    if min(_gaps(values)) > LARGEST_GAP:
        return False
    w_OI = _corner(weight)
    if min(w_OI.shape) < 2 or (w_OI == 0).double().mean() > 0.1:
        return True
    return max(*_unevenness(w_OI), _longest(w_OI)) <= LARGEST_SCORE


def _different(values: Tensor) -> int:
    return len(torch.unique(values))


def _gaps(values: Tensor) -> Iterator[float]:
    """How far from uniform, normal and normal cut off at two standard deviations, each fitted."""
    low, high, mean, std = values.min(), values.max(), values.mean(), values.std()
    yield _gap(values, lambda x: (x - low) / (high - low))
    yield _gap(values, lambda x: _normal((x - mean) / std))
    yield _gap(values, lambda x: _cut_normal((x - mean) / std * _SPREAD_OF_CUT))


def _gap(values: Tensor, distribution: Callable[[Tensor], Tensor]) -> float:
    """Kolmogorov's statistic: the largest difference of distribution functions, times sqrt(n)."""
    expected = distribution(values.sort().values)
    n = len(values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * float(torch.maximum(steps[1:] - expected, expected - steps[:-1]).max())


def _normal(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def _cut_normal(z: Tensor) -> Tensor:
    return ((_normal(z) - (1 - _MASS_OF_CUT) / 2) / _MASS_OF_CUT).clamp(0, 1)


def _unevenness(w_OI: Tensor) -> list[float]:
    """By how many standard deviations rows, and columns, differ more than by chance.

    Of n rows of m independent entries, m times the variance of the rows' means over that of the entries is 1
    on average, with a standard deviation of sqrt(2 / (n - 1)); so it is with the squares of all entries.
    """
    scores = [0.0]
    for rows in (w_OI, w_OI.T):
        n, m = rows.shape
        if n < 4:
            continue
        for entries in (rows, rows.square()):
            ratio = m * entries.mean(1).var() / entries.var().clamp(min=1e-30)
            scores.append(float(ratio - 1) * math.sqrt((n - 1) / 2))
    return scores


def _longest(w_OI: Tensor) -> float:
    """How much longer the longest direction is than chance has it, in the scale of Tracy and Widom's law.

    Johnstone, Annals of Statistics 29 (2001): for n x m independent entries of variance 1 the largest squared
    singular value lies about (sqrt(n - 1) + sqrt(m))^2.
    """
    n, m = w_OI.shape
    edge = math.sqrt(n - 1) + math.sqrt(m)
    scale = edge * (1 / math.sqrt(n - 1) + 1 / math.sqrt(m)) ** (1 / 3)
    longest: float = float(torch.linalg.matrix_norm(w_OI / w_OI.std(), 2)) ** 2
    return (longest - edge**2) / float(scale)


def _some(x: Tensor, most: int) -> Tensor:
    """At most so many entries, evenly spread, as float64 on the CPU."""
    flat = x.detach().flatten()
    if len(flat) > most:
        flat = flat[torch.arange(most, device=flat.device) * len(flat) // most]
    return flat.double().cpu()


def _corner(weight: Tensor) -> Tensor:
    """(O, I k k) of a weight, evenly thinned to what is fast to decompose, around its mean."""
    w_OI = weight.detach().flatten(1)
    for axis, most in ((0, ROWS), (1, COLUMNS)):
        length = w_OI.shape[axis]
        if length > most:
            kept = torch.arange(most, device=w_OI.device) * length // most
            w_OI = w_OI.index_select(axis, kept)
    w_OI = w_OI.double().cpu()
    return w_OI - w_OI.mean()
