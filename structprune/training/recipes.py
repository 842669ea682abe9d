"""Recipes: how a network is trained from scratch, by name, as the papers' codes have it."""

from __future__ import annotations

from collections.abc import Mapping

from structprune.training.optimiser import Recipe

RECIPES: Mapping[str, Recipe] = {
    # Ours: short and the same for every method; at 0.1 a dense resnet18 on digits fails for some seeds.
    "default": Recipe(lr=0.05, epochs=30, batch_size=128, steady=0.5),
    # arXiv 2206.10451: the phase before an early cut runs at the constant full rate.
    "earlycrop": Recipe(
        lr=2e-3,
        weight_decay=5e-5,
        kind="adam",
        decays_all=True,
        clip=10.0,
        epochs=80,
        batch_size=256,
        cycles_momentum=True,
    ),
    # arXiv 2304.02840, from the authors' scripts and a public reproduction.
    "ntk-sap-cifar10": Recipe(
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        decays_all=True,
        drops=(0.5, 0.75),
        epochs=160,
        batch_size=128,
    ),
    "ntk-sap-cifar100": Recipe(
        lr=0.1, weight_decay=5e-4, decays_all=True, drops=(0.375, 0.75), epochs=160, batch_size=128
    ),
    "ntk-sap-tiny-imagenet": Recipe(
        lr=0.2,
        weight_decay=5e-4,
        nesterov=False,
        decays_all=True,
        drops=(0.5, 0.75),
        epochs=200,
        batch_size=256,
    ),
    # arXiv 1909.11957
    "earlybird": Recipe(
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        decays_all=True,
        drops=(0.5, 0.75),
        epochs=160,
        batch_size=256,
    ),
}
"""Name -> recipe."""
