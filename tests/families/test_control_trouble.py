"""What goes wrong with real-valued actions, and in environments with goals, says so clearly."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.envs.vector import EnvironmentFailure
from agentlib.policies import GaussianPolicy
from agentlib.runs.training import Diverged

SETTINGS: dict[str, dict[str, Any]] = {
    "sac": {"learning_starts": 30, "batch_size": 16, "net_arch": (16,)},
    "td3": {"learning_starts": 30, "batch_size": 16, "net_arch": (16,)},
    "ppo": {"n_steps": 32, "batch_size": 32, "net_arch": (16,)},
}


class Scaled(gymnasium.Env[Any, Any]):
    """The reward is `scale` where action and observation have one sign, minus that elsewhere; NaN from `at` on."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, scale: float = 1.0, at: int = 10**9) -> None:
        self.scale, self.at, self.count = scale, at, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.seen, {}

    def step(self, action: Any) -> Any:
        self.count += 1
        reward = self.scale * float(np.sign(action[0] * self.seen[0])) if self.count < self.at else np.nan
        return self.reset()[0], reward, self.count % 10 == 0, False, {}


def trained(what: str, steps: int = 200, env: Any = Scaled, **more: Any) -> Any:
    return agentlib.train(what, env=env, steps=steps, seed=0, progress=False, compile=False, **SETTINGS[what], **more)


def test_real_valued_actions_for_dqn_name_the_learners_for_them() -> None:
    with pytest.raises(ValueError, match=r"dqn needs a Discrete .*has Box.*Learners that fit: sac, td3, ppo"):
        agentlib.train("dqn", env="Pendulum-v1", steps=200, progress=False)


@pytest.mark.parametrize("what", ["sac", "td3"])
@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (0.0, np.inf), (1.0, 1.0)])
def test_bounds_that_leave_no_room_or_too_much(what: str, low: float, high: float) -> None:
    class Unbounded(Scaled):
        action_space = spaces.Box(low, high, (1,))

    with pytest.raises(ValueError, match=rf"{what} needs finite bounds.*RescaleAction"):
        trained(what, env=Unbounded)


def test_goals_without_rewards_for_others() -> None:
    class Silent(gymnasium.Env[Any, Any]):
        action_space = spaces.Box(-1.0, 1.0, (1,))
        observation_space = spaces.Dict(
            {name: spaces.Box(-1.0, 1.0, (1,)) for name in ("observation", "achieved_goal", "desired_goal")}
        )

    with pytest.raises(ValueError, match=r"give it a method compute_reward\(achieved_goal, desired_goal, info\)"):
        trained("sac", env=Silent, n_sampled_goal=4)
    with pytest.raises(ValueError, match="hindsight needs observations with the parts achieved_goal"):
        trained("sac", n_sampled_goal=4)


@pytest.mark.parametrize("what", SETTINGS)
def test_a_reward_that_is_nan_names_its_step(what: str) -> None:
    with pytest.raises(EnvironmentFailure, match=r"gave the reward \[nan\] at step 77"):
        trained(what, env=partial(Scaled, at=77))


@pytest.mark.parametrize("what", SETTINGS)
def test_actions_that_are_nan_name_their_step_and_the_remedy(what: str, tmp_path: Any) -> None:
    def spoil(clock: Any, metrics: Any, agent: Agent) -> None:
        if clock.steps >= 100:
            with torch.no_grad():
                next(agent.policy.parameters()).fill_(np.nan)

    message = (
        r"(?s)the policy chose the action \[\[nan\]\] at step 1\d\d: a smaller learning_rate .*the last good checkpoint"
    )
    with pytest.raises(Diverged, match=message) as caught:
        trained(what, 2_000, callback=spoil, out=tmp_path / "run")
    assert 100 <= caught.value.step < 200
    agent = Agent.load(tmp_path / "run" / "agent.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in agent.policy.state_dict().values())


def test_log_probabilities_that_are_nan_name_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = GaussianPolicy.relative_sample

    def spoiled(self: GaussianPolicy, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        action, log_prob = sample(self, output)
        return action, log_prob * torch.nan

    monkeypatch.setattr(GaussianPolicy, "relative_sample", spoiled)
    with pytest.raises(Diverged, match=r"entropy became nan by step 3\d: a smaller learning_rate"):
        trained("sac")


@pytest.mark.parametrize("what", ["sac", "td3", "dqn", "ppo", "a2c"])
def test_rewards_of_another_scale_are_told_of(what: str) -> None:
    """They do not end the run, and are not learned as well."""
    env: Any = partial(Scaled, 1e10)
    if what == "dqn":
        env = lambda: gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: 1e10)  # noqa: E731
    is_on_policy = what in ("ppo", "a2c")
    settings: Any = {"steps": 80, "progress": False, "compile": False}
    remedy = "normalize_reward=True" if is_on_policy else "gymnasium.wrappers.TransformReward"
    with pytest.warns(
        UserWarning, match=rf"the reward -?1e\+10 by step \d+: values so large .*scale the rewards, such as by {remedy}"
    ) as found:
        agentlib.train(what, env=env, **settings, **SETTINGS["ppo" if is_on_policy else "sac"])
    assert len(found) == 1


def test_rewards_that_are_scaled_anyway_are_of_any_size() -> None:
    agent = trained("ppo", env=partial(Scaled, 1e10), normalize_reward=True)
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


@pytest.mark.filterwarnings("ignore:the reward:UserWarning")
@pytest.mark.parametrize("what", ["sac", "td3"])
def test_rewards_whose_squares_overflow_end_the_run(what: str) -> None:
    with pytest.raises(
        Diverged, match=r"critic_loss became (inf|nan) by step 3\d: .*; rewards are up to 1e\+20: scale them"
    ):
        trained(what, env=partial(Scaled, 1e20))
