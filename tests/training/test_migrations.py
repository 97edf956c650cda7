"""Checkpoints that earlier versions wrote still load, and the runs go on."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentlib.learners import run
from agentlib.recipes import Problem, configure, recipe_of
from agentlib.training.checkpoints import load_checkpoint, load_state, save_state
from agentlib.training.migrations import MIGRATIONS, VERSION, migrated
from tests.training.fixtures.make import FOLDER, RUNS

ORIGINS = ("env", "data", "demos", "expert")


def job_of(name: str) -> Any:
    settings: dict[str, Any]
    what, settings = RUNS[name]
    problem = Problem(**{key: settings[key] for key in ORIGINS if key in settings})
    problem = replace(problem, steps=settings.get("steps"))
    rest = {key: value for key, value in settings.items() if key not in (*ORIGINS, "steps", "backbone")}
    config = configure(what, problem.key, rest)
    return recipe_of(what).build(config, problem, settings.get("backbone", "auto"), "cpu", 0)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_checkpoint_of_an_earlier_version_is_read_and_the_run_goes_on(path: Path):
    found = re.fullmatch(r"(\w+)_(\d+)", path.stem)
    assert found is not None
    job = job_of(found[1])
    extra = load_checkpoint(path, job.learner, job.source)
    assert {"best", "waited", "best_weights", "metrics", "next_log", "next_eval", "engine"} <= set(extra)
    before = job.source.updates
    assert before > 0
    for clock, _ in run(job.learner, job.source, 5, compile=False):
        assert clock.updates > before
    job.close()


def test_every_earlier_version_has_a_way_up():
    assert sorted(MIGRATIONS) == list(range(1, VERSION))
    assert {int(path.stem[-1]) for path in FOLDER.glob("*.safetensors")} == set(MIGRATIONS)


def test_what_is_no_checkpoint_stays_as_it_is(tmp_path):
    assert migrated({"a": [1, 2]}, 1) == {"a": [1, 2]}
    save_state(tmp_path / "state", {"a": np.arange(3)})
    assert load_state(tmp_path / "state")["a"].tolist() == [0, 1, 2]
