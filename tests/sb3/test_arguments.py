"""The table of arguments on the page about Stable-Baselines3 has all of them, and its fields are there."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from agentlib.catalog import recipe_of

PAGE = Path(__file__).parents[2] / "docs" / "from_sb3.md"
OURS = {
    "PPO": "ppo", "A2C": "a2c", "SAC": "sac", "TD3": "td3", "DDPG": "ddpg", "DQN": "dqn",
    "MaskablePPO": "ppo", "RecurrentPPO": "ppo", "TQC": "tqc", "CrossQ": "crossq", "QRDQN": "dqn",
}  # fmt: skip


def rows() -> list[tuple[set[str], set[str], str]]:
    """Arguments, classes and text of each row."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("## Every argument")
    table, _, _ = section.partition("| of `policy_kwargs`")
    cells = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    return [
        (set(re.findall(r"`(\w+)`", a)), set(re.findall(r"\w+", b)) ^ (set(OURS) if "all" in b else set()), c)
        for a, b, c in cells
    ]


def class_of(name: str) -> type:
    for module in ("stable_baselines3", "sb3_contrib"):
        pytest.importorskip(module)
        if hasattr(import_module(module), name):
            return getattr(import_module(module), name)
    raise AssertionError(name)


@pytest.mark.parametrize("name", OURS)
def test_each_argument_has_a_row(name):
    arguments = set(inspect.signature(class_of(name)).parameters)
    found = [argument for some, classes, _ in rows() if name in classes for argument in some]
    assert sorted(found) == sorted(arguments)  # each once, and none that there is not


def test_what_is_the_same_is_a_field():
    for arguments, classes, text in rows():
        if text.strip().startswith("the same") and "of `train`" not in text:
            for name in classes & set(OURS):
                assert arguments <= set(recipe_of(OURS[name]).config.__dataclass_fields__), (name, arguments)
