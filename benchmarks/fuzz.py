"""Networks drawn from a grammar of layers and traps, cut, and compared with the dense network.

    python -m benchmarks.fuzz [--against CHECKOUT] [--networks 500] [--only 137 ...] [--verbose]

The product finds the channels, tries cuts, cuts, and proves, as ``compress`` has it. What it lets pass is
compared by an oracle that shares nothing with its proofs (``benchmarks.fuzz_oracle``): the dense network in
which removed channels are zeroed where they are read, at other sizes, batches and scales, in training mode,
with gradients, several times in a row. A network is silently different where everything was proven and the
two are more than 1e-3 of the spread apart somewhere. To refuse or to protect is right.

``--against`` cuts the same networks with the structprune of another checkout, in a process of its own.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.elsewhere import call
from benchmarks.fuzz_networks import Network, network
from benchmarks.fuzz_oracle import differences, zeroed
from benchmarks.rows import Row, collect, print_table
from structprune.channels import ChannelGroups, channel_groups
from structprune.errors import InputError, ProofFailedError, StructpruneError
from structprune.proofs.closed_gates import closed_gates
from structprune.proofs.signature import signature
from structprune.proofs.trial_cut import TRIAL_INPUTS, verified_groups
from structprune.proofs.verdict import require
from structprune.pruning.budget import Budget, Plan, reachable, select
from structprune.pruning.surgery import shrink

NETWORKS = 500
BOUND = 1e-3
"""Largest difference, in spreads of the outputs, that is none."""
SHARES = (0.2, 0.4, 0.6)
"""Of the nodes that can go, how many do; a network's number says which."""
INPUTS, CLOSED_INPUTS = 8, 4


@dataclass(frozen=True)
class CutNetwork:
    """What the product made of a network, everything proven.

    Attributes:
        small: the network that was cut.
        groups: the groups that were trusted.
        plan: what they kept.
        held: layers with nodes that no cut may touch, those of the outputs aside.
    """

    small: nn.Module
    groups: ChannelGroups
    plan: Plan
    held: dict[str, str]


def cut(model: nn.Module, shape: tuple[int, ...], number: int, proving: bool = True) -> CutNetwork:
    """Cut a network as ``compress`` does, by random scores.

    Args:
        model: the network.
        shape: of one input.
        number: that of the network, which is the seed of scores and inputs.
        proving: whether cuts are tried and proven; without, what the trace offers is cut as it is.

    Raises:
        StructpruneError: it is refused, or a proof failed.
    """
    generator = torch.Generator().manual_seed(number)
    inputs = (torch.randn(INPUTS, *shape, generator=generator),)
    groups = channel_groups(model, inputs[0][:2])
    if proving:
        groups = verified_groups(model, groups, (inputs[0][:TRIAL_INPUTS],))
    if not len(groups):
        raise InputError("nothing can be cut")
    budget = Budget(SHARES[number % len(SHARES)] * reachable(groups, Budget(0.0)))
    scores = {group.name: torch.rand(group.size, generator=generator) for group in groups}
    plan = select(scores, groups, budget)
    small = shrink(model, groups, plan).eval()
    if proving:
        few = (inputs[0][:CLOSED_INPUTS],)
        require([closed_gates(model, small, groups, plan, few), signature(model, small, inputs)])
    held = {row.layer: row.reason for row in groups.protected if row.layer in groups.widths}
    return CutNetwork(small, groups, plan, held)


@dataclass(frozen=True)
class Finding:
    """What became of a network.

    Attributes:
        number: that it is made from.
        words: its sentence of the grammar.
        outcome: ``cut``, ``protected`` where some of its layers stay, ``refused``, ``unproven`` where a proof
            failed, or ``crashed``.
        why: reasons, of what was refused or protected.
        nodes: the fraction of nodes that can be cut.
        differences: setting -> distance to the dense network in spreads, of those above the bound.
    """

    number: int
    words: str
    outcome: str
    why: str = ""
    nodes: float = 0.0
    differences: dict[str, float] = field(default_factory=dict)

    @property
    def has_trap(self) -> bool:
        """Whether the grammar put a trap into it."""
        return any(f" {word} " in self.words for word in ("if", "asleep", "tail", "cache", "count", "always"))


def examined(number: int, proving: bool = True) -> Finding:
    """Cut the network of a number, and compare what came out with the dense one."""
    model, pristine = network(number), network(number)
    try:
        done = cut(model, model.input_shape, number, proving)
    except ProofFailedError as error:
        return Finding(number, pristine.words, "unproven", str(error))
    except StructpruneError as error:
        return Finding(number, pristine.words, "refused", str(error))
    except Exception as error:
        return Finding(number, pristine.words, "crashed", f"{type(error).__name__}: {error}")
    return Finding(
        number,
        pristine.words,
        "protected" if done.held else "cut",
        "; ".join(f"{layer}: {reason}" for layer, reason in done.held.items()),
        round(reachable(done.groups, Budget(0.0)), 4),
        _wrong(pristine, done, number),
    )


def _wrong(pristine: Network, done: CutNetwork, number: int) -> dict[str, float]:
    """Return where the cut network, as it was handed over or as it would be loaded again, is another one."""
    dense = zeroed(pristine, done.groups, done.plan.keep)
    results = {"": done.small}
    if pristine.remembers:
        results[", loaded"] = shrink(network(number), done.groups, done.plan).eval()
    wrong: dict[str, float] = {}
    for suffix, small in results.items():
        for name, distance in differences(pristine, dense, small, number).items():
            if distance is not None and not distance <= BOUND and name not in wrong:
                wrong[name + suffix] = distance
    return wrong


def count(found: Sequence[Finding]) -> dict[str, Any]:
    """Return the figures of a table's column."""
    outcomes = ("cut", "protected", "refused", "unproven", "crashed")
    plain = [finding.nodes for finding in found if not finding.has_trap]
    trapped = [finding.nodes for finding in found if finding.has_trap]
    return {
        "networks": len(found),
        "silently different": sum(bool(finding.differences) for finding in found),
        **{name: sum(finding.outcome == name for finding in found) for name in outcomes},
        "nodes that can go, no trap": round(sum(plain) / max(len(plain), 1), 4),
        "nodes that can go, traps": round(sum(trapped) / max(len(trapped), 1), 4),
    }


def examine(numbers: Iterable[int], verbose: bool = False) -> list[Finding]:
    """Examine networks one after the other."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            found.append(examined(number))
            if verbose:
                print(_sentence(found[-1]), flush=True)
    return found


def _sentence(finding: Finding) -> str:
    wrong = ", ".join(f"{name} {value:.1e}" for name, value in finding.differences.items())
    lines = [f"{finding.number} {finding.outcome} ({finding.nodes:.2f} of the nodes): {finding.words}"]
    lines += [f"    because {finding.why}"] if finding.why else []
    lines += [f"    SILENTLY DIFFERENT: {wrong}"] if wrong else []
    return "\n".join(lines)


def findings(numbers: Sequence[int], verbose: bool) -> list[dict[str, Any]]:
    """Examine networks, in what JSON holds."""
    return [asdict(finding) for finding in examine(numbers, verbose)]


def run(numbers: Sequence[int], against: Path | None, verbose: bool) -> Row:
    """Return the counts of this structprune, and of another one beside it."""
    row = {"this": _column(examine(numbers, verbose))}
    if against is not None:
        others = call(against, "benchmarks.fuzz:findings", list(numbers), verbose)
        row["against"] = _column([Finding(**finding) for finding in others])
    return row


def _column(found: Sequence[Finding]) -> dict[str, Any]:
    return {**count(found), "wrong": [asdict(finding) for finding in found if finding.differences]}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--networks", type=int, default=NETWORKS)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of networks; nothing is written")
    parser.add_argument("--verbose", action="store_true", help="a sentence for every network")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.only:
        row = run(asked.only, asked.against, asked.verbose)
    else:
        numbers = range(asked.networks)
        (row,) = collect("", ["fuzz"], lambda _: run(numbers, asked.against, asked.verbose), again=True)
    columns = [name for name in ("this", "against") if name in row]
    print_table(
        ("", *columns),
        [(name, *(str(row[c][name]) for c in columns)) for name in row["this"] if name != "wrong"],
    )
    for finding in row["this"]["wrong"]:
        print(_sentence(Finding(**finding)))


if __name__ == "__main__":
    main()
