"""Environments that are drawn by episodes: their shares, their seeds, and a run in them."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import agentlib
from agentlib.envs.cartpole_varied import CartPoleVaried
from agentlib.envs.variants import Variants


def poles(shares: Any = None) -> Variants:
    made = [gymnasium.make("agentlib/CartPoleVaried-v0", length=length) for length in (0.25, 0.5, 1.25)]
    return Variants(made, shares)


def test_episodes_have_their_shares_and_follow_from_a_seed():
    env, again = poles((1, 0, 3)), poles((1, 0, 3))
    drawn = [env.reset(seed=row)[1]["variant"] for row in range(400)]
    assert np.mean(np.array(drawn) == 2) == pytest.approx(0.75, abs=0.06)
    assert 1 not in drawn
    for seed in (0, 7):
        first, second = env.reset(seed=seed), again.reset(seed=seed)
        assert np.array_equal(first[0], second[0])
        assert env.step(1)[0].tolist() == again.step(1)[0].tolist()
    own: Any = env.envs[env.variant].unwrapped
    assert isinstance(own, CartPoleVaried)
    assert own.length == (0.25, 0.5, 1.25)[env.variant]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_it():
    check_env(poles(), skip_render_check=True)


def test_what_is_wrong_with_variants_is_said():
    with pytest.raises(ValueError, match="there is no environment to draw"):
        Variants([])
    with pytest.raises(ValueError, match="environment 1 differs from the first"):
        Variants([gymnasium.make("CartPole-v1"), gymnasium.make("Acrobot-v1")])
    for shares in ((1, 2), (0, 0, 0), (1, -1, 1), (1, float("nan"), 1)):
        with pytest.raises(ValueError, match="one number of 0 or more for each of 3 environments"):
            poles(shares)


@pytest.mark.slow
def test_an_agent_learns_in_variants_and_goes_on(tmp_path):
    small: Any = {"net_arch": (16,), "learning_starts": 50, "batch_size": 16, "progress": False, "compile": False}
    whole = agentlib.train("dqn", env=poles, steps=600, out=tmp_path / "whole", **small)
    small["callback"] = lambda clock, metrics: clock.steps < 300
    agentlib.train("dqn", env=poles, steps=600, out=tmp_path / "two", **small)
    rest = agentlib.train(resume=tmp_path / "two", env=poles, progress=False, compile=False)
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert np.array_equal(whole.act(x), rest.act(x))
