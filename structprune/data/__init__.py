"""What a network is used for: its examples, batches, loss and metric. Image classification, so far."""

from structprune.data.batches import Batches, Preprocessing, to_batches
from structprune.data.classification import check_labels
from structprune.data.folders import without
from structprune.data.images import ImageSet
from structprune.data.read_images import check_same_classes, has_test_split, read_images, same_place
from structprune.data.splits import hold_out, scoring_sample

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
