"""The Python interface. Read functions first; arguments are checked before any work is done."""

from structprune.api.compressed import Compressed
from structprune.api.functions import channel_groups, compress, score

__all__ = ["Compressed", "channel_groups", "compress", "score"]
