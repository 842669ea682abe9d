from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.probes import emissions as emissions_module
from exporters.probes import tracker as tracker_module
from exporters.probes.emissions import break_even, emissions, metered, per_inferences
from exporters.probes.readings import against_first
from exporters.probes.tracker import Spent, Tracker
from exporters.to_onnx import to_onnx
from structprune.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def nothing_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A configuration that would publish everything, and no way out."""
    tried: list[object] = []

    def refuse(*arguments: object) -> None:
        # codecarbon swallows what is raised, so attempts are also counted.
        tried.append(arguments)
        raise OSError("there is no network")

    for place, name in ((socket.socket, "connect"), (socket, "getaddrinfo")):
        monkeypatch.setattr(place, name, refuse)
    for key, value in {
        "SAVE_TO_API": "true",
        "SAVE_TO_FILE": "true",
        "OUTPUT_METHODS": "csv,api",
        "EMISSIONS_ENDPOINT": "http://localhost:1",
        "ELECTRICITYMAPS_API_TOKEN": "token",
        "API_CALL_INTERVAL": "1",
        "OUTPUT_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(f"CODECARBON_{key}", value)
    monkeypatch.chdir(tmp_path)
    yield
    assert tried == []
    assert not list(tmp_path.glob("*.csv"))


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_energy_and_carbon_of_two_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    example = (torch.ones(1, 64),)
    wide = nn.Sequential(nn.Linear(64, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 2))
    files = [
        to_onnx(model, example, tmp_path / f"{i}.onnx").path
        for i, model in enumerate((wide, nn.Linear(64, 2)))
    ]
    before = sorted(tmp_path.iterdir())
    energy, carbon = emissions(files, example, batch=2, seconds=1.0, country="fra")
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")
    assert (energy.unit, carbon.unit) == ("J", "gCO2e")
    assert "electricity of FRA, 56 gCO2e/kWh" in energy.how
    assert energy.extra["basis"] in ("measured", "estimated")
    assert str(energy.extra["basis"]) in energy.how
    assert ("subtracted" if energy.extra["idle_watts"] else "can't be told apart") in energy.how
    assert "coarse, since under 5 s" in energy.how
    compared = against_first(energy, 1)
    assert compared.ratio is not None
    assert compared.ratio.low > 2
    for joules, grams in zip(energy.networks, carbon.networks, strict=True):
        ratios = [g / j for g, j in zip(grams.samples, joules.samples, strict=True)]
        assert ratios == pytest.approx([56.039 / 3.6e6] * len(ratios), rel=1e-4)


class TenJoules(Tracker):
    """Charges the same for whatever is done."""

    def __init__(self) -> None: ...

    @contextmanager
    def spending(self) -> Iterator[list[Spent]]:
        spent: list[Spent] = []
        yield spent
        spent.append(Spent(joules=10.0, grams=0.5))


def test_figures_are_per_thousand_inferences() -> None:
    # Four runs of 0.1 s fill 0.35 s: twelve inferences.
    each = per_inferences(TenJoules(), lambda: 0.1, seconds=0.35, batch=3)
    assert (each.joules, each.grams) == pytest.approx((10 / 12 * 1000, 0.5 / 12 * 1000))


class Sensing(Tracker):
    """Reads 10 W of an idle machine, and 30 J of whatever is done in two seconds."""

    senses = True
    source = "CPU measured (RAPL)"

    def __init__(self) -> None:
        self.idle = True

    @contextmanager
    def spending(self) -> Iterator[list[Spent]]:
        spent: list[Spent] = []
        yield spent
        spent.append(Spent(12.0, 1.2, sensed=10.0, seconds=1.0) if self.idle else Spent(30.0, 3.0, 25.0, 2.0))


def test_what_a_sensor_reads_of_the_idle_machine_is_subtracted() -> None:
    tracker = Sensing()
    watts = tracker.idle_watts(0.01)
    assert watts == 10.0
    assert tracker.idle_words(watts) == "10 W of the idle machine subtracted"
    tracker.idle = False
    each = per_inferences(tracker, lambda: 0.5, seconds=1.0, batch=5, idle_watts=watts)
    assert (each.joules, each.grams) == pytest.approx(((30 - 20) / 10 * 1000, (3.0 / 3) / 10 * 1000))
    with pytest.raises(InputError, match="no more than the idle machine draws"):
        per_inferences(tracker, lambda: 0.5, seconds=1.0, batch=5, idle_watts=15.0)


@pytest.mark.parametrize(
    ("spent", "words"),
    [(Spent(30.0, 3.0, 25.0, 5.0), "no more than the idle machine draws"), (None, "gave no energy")],
)
def test_energy_that_cant_be_told_does_not_cost_the_work(
    spent: Spent | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(Sensing):
        """A machine that a neighbour kept busy while it should have been idle, or that reads nothing."""

        def __init__(self, _: str | None) -> None:
            super().__init__()

        def begin(self) -> float:
            return 0.0

        def end(self, _: float) -> Spent | None:
            return spent

    monkeypatch.setattr(emissions_module, "Tracker", Busy)
    with metered() as meter:
        done = "work"
    assert done == "work"
    assert meter.joules is None
    assert words in meter.how
    with pytest.raises(InputError, match="of the body"), metered():
        raise InputError("of the body itself")


def test_what_is_measured_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for sensors in ((False, False), (True, False), (False, True), (True, True)):
        monkeypatch.setattr(tracker_module, "_sensors", lambda sensors=sensors: sensors)
        found[sensors] = tuple(Tracker().basis.values())
    assert found == {
        (False, False): ("estimated", "estimated"),
        (True, False): ("measured", "estimated"),
        (False, True): ("estimated", "measured in part"),
        (True, True): ("measured", "measured"),
    }


def test_without_a_sensor_nothing_is_subtracted_and_that_is_said() -> None:
    tracker = TenJoules()
    tracker.senses = False
    assert tracker.idle_watts(3600.0) == 0.0
    assert "can't be told apart" in tracker.idle_words(0.0)


def test_twice_the_work_costs_about_twice_the_energy() -> None:
    with metered() as short:
        work(0.5)
    with metered() as long:
        work(1.5)
    assert short.joules is not None
    assert long.joules is not None
    assert 1.5 < long.joules / short.joules < 6
    assert "world's average, 475 gCO2e/kWh" in short.how


def test_a_country_that_codecarbon_is_configured_with_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    with metered() as meter:
        work(0.1)
    assert "electricity of DEU" in meter.how


def test_an_unknown_country_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="country 'Narnia' is unknown"):
        Tracker("Narnia")


def test_an_error_in_the_body_comes_through_and_no_thread_stays() -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), metered("FRA"):
        raise ZeroDivisionError
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("spent", "dense", "pruned", "inferences"),
    [(900.0, 0.5, 0.2, 3000.0), (9.0, 0.2, 0.2, None), (9.0, 0.1, 0.2, None)],
)
def test_break_even(spent: float, dense: float, pruned: float, inferences: float | None) -> None:
    assert break_even(spent, dense, pruned) == inferences
