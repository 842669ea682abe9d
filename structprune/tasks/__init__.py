"""What a network is used for: its examples, batches, loss and metric. Image classification, so far."""

from structprune.tasks.batches import Batches, Preprocessing, to_batches
from structprune.tasks.classification import check_labels
from structprune.tasks.folders import without
from structprune.tasks.images import ImageSet
from structprune.tasks.read import check_same_classes, has_test_split, read_images, same_place
from structprune.tasks.splits import hold_out, scoring_sample

__all__ = [
    "Batches",
    "ImageSet",
    "Preprocessing",
    "check_labels",
    "check_same_classes",
    "has_test_split",
    "hold_out",
    "read_images",
    "same_place",
    "scoring_sample",
    "to_batches",
    "without",
]
