"""Networks in: from a file, a zoo, a factory of the user's own, or an earlier result."""

from structprune.models.architecture import Architecture, build
from structprune.models.read import Source, read

__all__ = ["Architecture", "Source", "build", "read"]
