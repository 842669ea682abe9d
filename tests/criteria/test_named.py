from __future__ import annotations

import pytest

from structprune.errors import UnknownNameError
from structprune.scoring import criteria


def test_a_fusion_is_the_names_joined_by_plus() -> None:
    assert criteria.named("ntk_sap+crop") == [criteria.ntk_sap, criteria.crop]


def test_dashes_and_spaces_are_forgiven() -> None:
    assert criteria.named("ntk-sap + crop-gradflow") == [criteria.ntk_sap, criteria.crop_gradflow]


def test_the_default_is_known() -> None:
    assert len(criteria.named(criteria.DEFAULT)) == 2


@pytest.mark.parametrize("name", ["snap", "", "crop+", "crop+snap"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        UnknownNameError,
        match="known: bn_scale, crop, crop_gradflow, filter_norm, force, gate_taylor, grasp, magnitude, "
        "ntk_sap, ntk_sap_kept, ntk_sap_redrawn, random, snip, synflow",
    ):
        criteria.named(name)
