"""Result folders: a cut network's weights and its plan, written atomically and loaded without pickle."""

from structprune.checkpoint.loading import load
from structprune.checkpoint.saving import save_weights_and_plan
from structprune.checkpoint.sealing import OUR_FILES
from structprune.checkpoint.staging import check_target, staged_folder, translated
from structprune.sources.plan_file import PLAN
from structprune.sources.result_folder import WEIGHTS
from structprune.sources.widths import widths_of

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
