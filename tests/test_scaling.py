"""The scaling that docs/scaling.md shows on paper: closed forms, and figures that others measured."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling, several


def test_two_devices_predict_four_and_eight():
    for n, minutes in scaling.CLEANBA.items():
        assert scaling.strong_scaling(scaling.CLEANBA[1], scaling.CLEANBA[2], n) == pytest.approx(minutes, rel=0.05)
    efficiencies = [round(100 * scaling.CLEANBA[1] / scaling.CLEANBA[n] / n) for n in (2, 4, 8)]
    assert efficiencies == [83, 73, 63]


def test_an_exchange_costs_what_was_measured():
    for parameters, low, high in ((4.6e3, 1.3e-3, 3.3e-3), (134e3, 2e-3, 3e-3), (1.7e6, 14e-3, 17e-3)):
        assert low <= scaling.exchange(parameters, 2) <= high
    assert scaling.exchange(1e6, 1) == 0.0
    assert scaling.speed_up(1.0, 1e6, 1) == 1.0


def test_the_slowest_part_decides():
    assert scaling.actors(1e-3, 4) == pytest.approx(4 * scaling.actors(1e-3, 1))
    assert scaling.actors(1e-3, 10**6) == scaling.actors(1e-3, 10**7) == pytest.approx(81_107, rel=1e-3)
    n = scaling.saturation(1e-3)
    assert scaling.actors(1e-3, n) == scaling.actors(1e-3, n + 1) > scaling.actors(1e-3, n - 1)
    assert scaling.actors(3.8e-3, 256) == pytest.approx(256 * 260, rel=0.02), "R2D2's actors, all of them at work"


def test_the_page_shows_these_tables():
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    for table in (scaling.data_parallel_table(), scaling.cleanba_table(), scaling.actors_table()):
        assert table in page


def test_the_page_shows_what_was_measured_of_seeds_and_actors():
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    kept = json.loads(several.KEPT.read_text(encoding="utf-8"))
    assert several.seeds_table(kept["eight seeds over one"]) in page
    found = kept["actors"]
    made = f"two actors made {found['two actors']:.0f} steps a second and one process {found['in one process']:.0f}"
    assert f"{made} ({found['two actors over one process']:.1f} times)" in page
    assert f"a block of one actor cost {100 * found['share more per block, 2 ms']:.1f}% more".replace("0.", ".") in page


def test_seeds_are_timed_with_environments_and_without():
    assert several.seconds(2, compile=False, steps=False, updates=2, blocks=1) > 0.0
