"""What a network is used for: its examples, batches, loss and metric. Image classification, so far."""

from structprune.tasks.batches import Batches, Preprocessing, to_batches
from structprune.tasks.classification import check_labels
from structprune.tasks.images import ImageSet
from structprune.tasks.read import has_test_split, read_images
from structprune.tasks.splits import hold_out, scoring_sample

__all__ = [
    "Batches",
    "ImageSet",
    "Preprocessing",
    "check_labels",
    "has_test_split",
    "hold_out",
    "read_images",
    "scoring_sample",
    "to_batches",
]
