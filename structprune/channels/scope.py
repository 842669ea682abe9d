"""What of a network a user lets be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from structprune.channels.groups import ChannelGroup, ChannelGroups
from structprune.errors import UsageError, argument


@dataclass(frozen=True)
class Scope:
    """What may be cut.

    Attributes:
        skip: patterns over layer names: what these write stays.
        only: patterns over layer names: nothing else is cut; none for all.
        cut_padded: cut channels along that a shortcut without parameters pads with zeros.
        embedding: cut channels along that a LayerNorm normalises together.
    """

    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    cut_padded: bool = False
    embedding: bool = False


EVERYTHING = Scope()


def picked(groups: ChannelGroups, skip: Sequence[str] = (), only: Sequence[str] = ()) -> ChannelGroups:
    """Protect groups by the names of the layers that write their channels.

    Args:
        groups: the groups of a network.
        skip: patterns as of a shell, ``layer4.*``: whatever a matching layer writes stays.
        only: patterns, or none: whatever no matching layer writes stays.

    Raises:
        UsageError: a pattern matches no layer.

    Example:
        >>> from structprune.channels import Coupling
        >>> group = ChannelGroup("conv", 2, (Coupling("conv", (0, 1), (0, 1)),), ())
        >>> network = ChannelGroups((group,), (), {"conv": 2}, ("fc",))
        >>> picked(network, skip=["con*"]).protected
        (Protected(layer='conv', reason='it was left out by skip con*'),)
    """
    for option, patterns in (("skip", skip), ("only", only)):
        for pattern in patterns:
            if not any(fnmatchcase(layer, pattern) for layer in (*groups.widths, *groups.outputs)):
                layers = ", ".join([*groups.widths][:5])
                raise UsageError(
                    f"{argument(option, pattern)} matches no layer; there are {layers} and so on"
                )
    reasons = {}
    for group in groups:
        skipped = next((p for p in skip if _writes(group, p)), None)
        if skipped is not None:
            reasons[group.name] = f"it was left out by skip {skipped}"
        elif only and not any(_writes(group, p) for p in only):
            reasons[group.name] = f"it was left out by only {' '.join(only)}"
    return groups.without(reasons)


def _writes(group: ChannelGroup, pattern: str) -> bool:
    return any(fnmatchcase(c.layer, pattern) for c in group.producers)
