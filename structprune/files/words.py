"""Names and sizes from files in one line of a message."""

from __future__ import annotations

LONGEST = 80
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def shown(name: object) -> str:
    """Name from a file, fit for one line: control characters escaped, what is too long cut in the middle.

    Example:
        >>> shown("layer1.weight"), shown("tab" + chr(9))[-1]
        ('layer1.weight', 't')
    """
    text = str(name)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}...{text[-LONGEST // 4 :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def counted(size: int) -> str:
    """Size in bytes with the unit that makes it readable.

    Example:
        >>> counted(640_000_000), counted(512)
        ('640 MB', '512 bytes')
    """
    number, unit = float(size), 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {UNITS[unit]}"
