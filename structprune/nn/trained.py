"""Whether a network was trained, and how that was decided: by the caller's word, else by its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from structprune.nn.batch_norm import were_trained
from structprune.nn.initial import is_bias_initial, is_constant, is_weight_initial

FEWEST_MOVED: Mapping[str, float] = {"weights": 1 / 4, "norms": 1 / 2, "biases": 2 / 3}
"""Share of a kind that training leaves changed, at least. Fresh networks of zoos stay below half of it."""

WORDS: Mapping[str, str] = {
    "weights": "weights are no longer drawn alike",
    "norms": "norms and scales have left their initial constants",
    "biases": "biases have left what they began with",
}
FEWEST_ENTRIES = 512
"""Entries of weights below which what they show is no more than a guess."""


@dataclass(frozen=True)
class Evidence:
    """What the weights of a network show.

    Attributes:
        moved: kind -> (how many are no longer as initialisers leave them, how many could be told).
        entries: of all weights that could be told.
    """

    moved: Mapping[str, tuple[int, int]]
    entries: int

    @property
    def votes(self) -> dict[str, bool]:
        """Kind -> whether it looks trained; kinds that tell nothing are not among them."""
        return {
            kind: some >= FEWEST_MOVED[kind] * all_of_them
            for kind, (some, all_of_them) in self.moved.items()
            if all_of_them
        }

    @property
    def trained(self) -> bool:
        """Whether any kind looks trained: all look untrained where nothing has happened."""
        return any(self.votes.values())

    @property
    def clear(self) -> bool:
        """Whether it is more than a guess: weights agree, or several other signs are against them."""
        votes = self.votes
        signs = sum(votes.values()) + (self.moved["weights"][0] > 0)
        return self.entries >= FEWEST_ENTRIES and (votes.get("weights") is self.trained or signs > 1)

    def __str__(self) -> str:
        parts = [f"{some} of {n} {WORDS[kind]}" for kind, (some, n) in self.moved.items() if n]
        if not parts:
            return "nothing in it could tell"
        whole = "its weights have moved" if self.trained else "its weights are as initialisers leave them"
        return f"{whole}: {', '.join(parts)}"


def is_trained(
    model: nn.Module, from_checkpoint: bool, pretrained: bool, word: bool | None
) -> tuple[bool, str]:
    """Decide whether a network counts as trained, and say why.

    Args:
        model: the network.
        from_checkpoint: whether its weights were read from a file.
        pretrained: whether a zoo trained them.
        word: the caller's, which overrules everything else; None where nothing was said.
    """
    if word is not None:
        return word, "you said so"
    if pretrained:
        return True, "pretrained weights"
    seen = were_trained(model)
    if seen:
        return True, "its batch norms have seen data"
    evidence = evidence_of(model)
    if seen is False:
        if evidence.trained and evidence.clear:
            return True, f"{evidence}, though its batch norms have seen nothing"
        return False, "its batch norms have seen nothing yet"
    if evidence.clear:
        return evidence.trained, str(evidence)
    trained = evidence.trained or from_checkpoint
    origin = "read from a file" if from_checkpoint else "not read from a file"
    return trained, f"a guess, since little tells: {origin}, {evidence}; say so if that is wrong"


def evidence_of(model: nn.Module) -> Evidence:
    """Look at every parameter of a network, one that is shared once."""
    told: dict[str, list[bool]] = {kind: [] for kind in FEWEST_MOVED}
    entries, seen = 0, set[int]()
    for module in model.modules():
        mine = {n: p for n, p in module.named_parameters(recurse=False) if id(p) not in seen and p.numel()}
        seen |= set(map(id, mine.values()))
        for kind, size, initial in _signs(mine):
            told[kind].append(not initial)
            entries += size
    return Evidence({kind: (sum(signs), len(signs)) for kind, signs in told.items()}, entries)


Sign = tuple[str, int, bool]
"""A kind, its entries where it is a weight, and whether it is as initialisers leave it."""


def _signs(parameters: Mapping[str, Tensor]) -> Iterator[Sign]:
    """Look at a module's own parameters; a norm tells once, by all that it has."""
    weights = [p for p in parameters.values() if p.dim() > 1 and p.is_floating_point()]
    vectors = [p for p in parameters.values() if p.dim() == 1 and len(p) > 1 and p.is_floating_point()]
    for weight in weights:
        initial = is_weight_initial(weight)
        if initial is not None:
            yield "weights", weight.numel(), initial
    if weights:
        bounds = [weight[0].numel() ** -0.5 for weight in weights]
        yield from (("biases", 0, is_bias_initial(vector, bounds)) for vector in vectors)
    elif vectors:  # some draw a norm's scales, none its shifts
        yield "norms", 0, any(map(is_constant, vectors))


__all__ = ["Evidence", "evidence_of", "is_trained"]
