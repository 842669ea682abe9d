"""Reading what ``torch.save`` wrote without running what is in it.

A pickle is a program. None is executed here: ``torch.load(weights_only=True)`` interprets it with an
allow-list. Plain state dicts need no more than its defaults. For a network pickled whole, the list is
extended by exact classes, and even these are not handed to the pickle: it sees **records**, inert stand-ins
that keep what they are given. Only when the whole file has been read are modules made from them, by
``cls.__new__`` and ``__setstate__``, each judged first; no constructor runs on arguments from the file.

An allowed class is an ``nn.Module`` subclass defined in torch.nn, torchvision, timm or structprune, found by
walking what these packages define, never by importing what the file names and never by a prefix of a name.
Functions are refused.
"""

from structprune.models.unpickle.allowed import module_classes
from structprune.models.unpickle.loading import load
from structprune.models.unpickle.names import first_line, globals_of
from structprune.models.unpickle.records import KeptPartial

__all__ = ["KeptPartial", "first_line", "globals_of", "load", "module_classes"]
