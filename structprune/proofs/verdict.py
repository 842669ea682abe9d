"""What a proof that failed says, and the end of the run that it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from structprune.errors import ProofFailedError
from structprune.proofs.comparison.gap import LEAST_SPREAD
from structprune.report.data import Proof


def require(proofs: Sequence[Proof]) -> None:
    """Raise if a proof failed.

    Raises:
        ProofFailedError: with the figures of every proof that failed.
    """
    failed = [proof for proof in proofs if not proof.passed]
    if failed:
        raise ProofFailedError("; ".join(_failure(proof) for proof in failed))


def _failure(proof: Proof) -> str:
    if proof.dead:
        why = (
            "the cut network is dead: its outputs are the same whatever goes in, though the dense network's "
            "vary; remove fewer nodes, or keep more of each layer (floor)"
        )
    elif is_constant(proof):
        why = (
            f"the outputs vary by {proof.spread:.1e} of their size, too little to compare (inputs that are "
            "all alike make them so: give varied ones as the example, or data)"
        )
    else:
        of_shape = "" if math.isfinite(proof.error) else ", since shapes differ or numbers overflow"
        figures = [f"error {proof.error:.1e} (allowed {proof.tolerance}){of_shape}"]
        if proof.error_of_spread is not None:
            figures.append(f"{proof.error_of_spread:.1e} of the spread (allowed {proof.tolerance_of_spread})")
        why = ", ".join(figures)
    return f"proof {proof.name} failed: {why}; {proof.how}"


def is_constant(proof: Proof) -> bool:
    """Whether outputs were too much alike to compare."""
    return proof.spread is not None and proof.spread <= LEAST_SPREAD and math.isfinite(proof.error)
