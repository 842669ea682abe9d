"""Wall time by step, for the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from structprune.report.protocols import Say


@dataclass
class Clock:
    """Wall time by step."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)
    inside: float = 0.0

    @contextmanager
    def step(self, name: str, words: str | None = None) -> Iterator[None]:
        """Take the time of a step without those inside it, and say its words before it begins."""
        if words is not None:
            self.say(words)
        start, around = time.perf_counter(), self.inside
        self.inside = 0.0
        before = self.seconds.setdefault(name, 0.0)  # in the order in which steps begin
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.seconds[name] = round(before + whole - self.inside, 3)
            self.inside = around + whole
