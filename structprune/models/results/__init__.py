"""Result folders: a cut network's weights and its plan, written atomically and loaded without pickle."""

from structprune.models.results.loading import load
from structprune.models.results.plan_file import PLAN
from structprune.models.results.rebuild import WEIGHTS
from structprune.models.results.saving import save_weights_and_plan
from structprune.models.results.sealing import OUR_FILES
from structprune.models.results.staging import check_target, staged_folder, translated
from structprune.models.widths import widths_of

__all__ = [
    "OUR_FILES",
    "PLAN",
    "WEIGHTS",
    "check_target",
    "load",
    "save_weights_and_plan",
    "staged_folder",
    "translated",
    "widths_of",
]
