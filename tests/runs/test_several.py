"""Runs side by side: those that differ in their seed alone are of one kind, and none gets lost."""

from pathlib import Path

import pytest

from agentlib.runs.several import Run, by_kind, run_in


def made(folder: str, seed: int = 0, config: dict | None = None, **record) -> Run:
    return Run(Path(folder), {"what": "dqn", "env": "E-v0", "seed": seed, "config": config or {}, **record}, {})


def test_kinds_in_folders_of_the_same_name_are_all_there():
    """With three settings that differ a kind is called by its folder."""
    first = [made(f"one/seed_{seed}", seed, {"a": 1, "b": 1, "c": 1}) for seed in range(2)]
    second = [made(f"two/seed_{seed}", seed, {"a": 2, "b": 2, "c": 2}) for seed in range(2)]
    kinds = by_kind([*first, *second])
    assert kinds == {"dqn on E-v0, one/seed_0": first, "dqn on E-v0, two/seed_0": second}


@pytest.mark.parametrize(
    ("name", "value"), [("max_steps", 50), ("precision", "bfloat16"), ("from_agent", True), ("n_envs", 8)]
)
def test_runs_that_differ_in_more_than_their_seed_are_of_several_kinds(name, value):
    kinds = by_kind([made("a", 0), made("b", 1), made("c", 2, **{name: value})])
    assert [[one.folder.name for one in same] for same in kinds.values()] == [["a", "b"], ["c"]]
    assert f"dqn on E-v0, {name}={value}" in kinds


def test_a_folder_of_something_else_is_said_to_be_none(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "what": "?"}')
    with pytest.raises(ValueError, match=r"config\.json is of no run"):
        run_in(tmp_path)
