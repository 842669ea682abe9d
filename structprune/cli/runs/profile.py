"""Device profiles on the command line: made, read, and shown as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from exporters.profiling.cache import cache_file, keep, own_profile
from exporters.profiling.fitting import tried
from exporters.profiling.probe import probe
from structprune.cli.commands.profile import ProfileCommand
from structprune.cli.limit_options import WidthOptions
from structprune.cli.output_file import check_file, staged_file
from structprune.cli.runs.gather import Say
from structprune.errors import UsageError
from structprune.hardware.profile import DeviceProfile, machine_like, read_profile, this_machine, to_json
from structprune.report import Table


def profile_of(widths: WidthOptions, device: str, threads: int, say: Say) -> DeviceProfile | None:
    """The profile that ``--align auto`` chooses by, or None without it."""
    if widths.alignment != "auto":
        return None
    if widths.profile is not None:
        return read_profile(widths.profile)
    return own_profile(this_machine(device), device=device, threads=threads, say=say)


def run(options: ProfileCommand, say: Say) -> DeviceProfile:
    """Read the profile that is named, or make one, keep it for this machine and write it where asked."""
    file, output = options.file, options.output
    if file is not None:
        if output is not None:
            raise UsageError("a FILE is shown and -o writes a new profile; give one of them")
        return read_profile(file)
    if output is not None:
        check_file(output, options.force)
    machine = this_machine(options.device)
    how = {"device": options.device, "precision": options.precision, "threads": options.threads}
    made = probe(machine, name=options.name, say=say, **how)  # type: ignore[arg-type]
    if (path := cache_file(machine, **how)) is not None:  # type: ignore[arg-type]
        keep(path, made)
    if output is not None:
        with staged_file(output) as draft:
            draft.write_text(to_json(made), encoding="utf-8")
    return made


def tables(profile: DeviceProfile) -> Iterator[Table]:
    """Yield the measured steps, and what follows from them."""
    columns: dict[str, dict[int, float]] = {}
    for kind in ("3x3", "1x1"):
        columns[f"{kind} written"], columns[f"{kind} read"] = tried(kind, profile.steps)
    columns["depthwise"] = tried("depthwise", profile.steps)[1]
    rows: dict[int, list[str]] = defaultdict(list)
    for width in sorted({width for column in columns.values() for width in column}):
        rows[width] = [f"{column[width]:.0f}" if width in column else "" for column in columns.values()]
    steps = tuple((str(width), *cells) for width, cells in rows.items())
    yield Table("Microseconds of a layer by its width", ("channels", *columns), steps)
    head = ("layer", "block", "fast from", "in steps of", "us a million multiply-adds", "off the fast path")
    yield Table("What follows", head, tuple(_follows(profile)))


def _follows(profile: DeviceProfile) -> Iterator[tuple[str, ...]]:
    for kind, kernel in profile.kernels.items():
        # A layer of 64 channels at 28 x 28, or one channel each of as many where it is depthwise.
        taps, inputs = (9, 1) if kind == "depthwise" else (9 if kind == "3x3" else 1, 64)
        million = taps * inputs * 64 * 28**2 / 1e6
        rates = (r.us(taps, 28**2, 1, inputs, 64) / million for r in (kernel.fast, kernel.slow))
        widths = (kernel.block, kernel.first, kernel.divisor)
        yield kind, *map(str, widths), *(f"{rate:.3g}" for rate in rates)


def words(profile: DeviceProfile) -> str:
    """Say what a profile is of, and whether its times can be measured here."""
    here = machine_like(profile)
    other = (
        "" if profile.machine == here else f" Another processor than this one ({here}): it chooses widths."
    )
    return f"{profile}.{other}"
