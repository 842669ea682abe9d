"""Files before anything is read from them: what they are, and how large what is in them can become.

A named pipe blocks whoever opens it, and a few megabytes of zip unpack to gigabytes, so both are looked at
first, by what the system and the file's own directory say.
"""

from structprune.files.archives import (
    ALLOWANCE,
    Member,
    check_archive,
    check_members,
    largest_unpacked,
    members_of,
)
from structprune.files.arrays import UNREADABLE, array_names, read_arrays
from structprune.files.regular import check_regular, read_text
from structprune.files.words import counted, shown

__all__ = [
    "ALLOWANCE",
    "UNREADABLE",
    "Member",
    "array_names",
    "check_archive",
    "check_members",
    "check_regular",
    "counted",
    "largest_unpacked",
    "members_of",
    "read_arrays",
    "read_text",
    "shown",
]
