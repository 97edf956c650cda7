"""Hindsight replay: other goals are those that were reached, and rewards are the environment's for them."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import agentlib
import agentlib.envs
from agentlib.envs.vector import Environments
from agentlib.experience import HindsightReplay, ReplayBuffer
from agentlib.policies import ActionNoise

BATCH = 50


def source_of(strategy: Any = "future", env: Any = None, n_envs: int = 1, size: int = 400, **more: Any) -> Any:
    if env is None and n_envs == 1:
        env = gymnasium.make("agentlib/Reach-v0")
    elif env is None:
        env = gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make("agentlib/Reach-v0")] * n_envs,
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
        )
    envs = Environments(env)
    buffer = ReplayBuffer(envs.observation_space, envs.action_space, size, num_envs=n_envs)
    exploration = ActionNoise(envs.action_space, n_envs, random_steps=10**9)  # type: ignore[arg-type]
    arguments = {"batch_size": BATCH, "learning_starts": 120, "total_steps": 1_000, "train_freq": n_envs} | more
    return HindsightReplay(
        envs, lambda observation: None, buffer, exploration, goal_selection_strategy=strategy, **arguments
    )


def episodes_in(source: Any) -> list[dict[str, Any]]:
    """All episodes in the buffer, read from its columns one by one."""
    found = []
    buffer = source.buffer
    names = dict(zip(buffer.observation_space.spaces, buffer._names, strict=True))
    for env, (oldest, count) in enumerate(zip(buffer._oldest, buffer._count, strict=True)):
        rows, episode = buffer._rows[env], dict[str, Any](env=env, index=[], reached=[])
        for number in range(oldest, count):
            slot = number % buffer.capacity
            frame = (rows["position"][slot] + 1) % buffer.frame_capacity
            episode["index"].append(env * buffer.capacity + slot)
            episode["reached"].append(rows[names["achieved_goal"]][frame].copy())
            if rows["done"][slot] or number == count - 1:
                found.append(episode)
                episode = dict[str, Any](env=env, index=[], reached=[])
    return found


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_other_goals_were_reached_in_the_same_episode(strategy: str, n_envs: int) -> None:
    source = source_of(strategy, n_envs=n_envs)
    seen = {"before": 0, "now or later": 0}
    for _ in range(60):  # the ring of 400 is overwritten on the way
        for _ in range(12):
            source.collect()
        source.updates_due = 1
        source.advance()
        batch = source.sample()
        by_index = {index: (e, t) for e in episodes_in(source) for t, index in enumerate(e["index"])}
        assert torch.equal(batch.observation["desired_goal"], batch.next_observation["desired_goal"])
        for row in range(source.relabelled):
            episode, t = by_index[int(batch.index[row])]
            goal = batch.observation["desired_goal"][row].numpy()
            places = [i for i, reached in enumerate(episode["reached"]) if np.array_equal(reached, goal)]
            assert places, "the goal was not reached in this episode"
            if strategy == "future":
                assert max(places) >= t
            elif strategy == "final":
                assert len(episode["reached"]) - 1 in places
            seen["before" if max(places) < t else "now or later"] += 1
            distance = np.linalg.norm(batch.next_observation["achieved_goal"][row].numpy() - goal)
            assert float(batch.reward[row]) == (0.0 if distance <= 0.05 else -1.0)
        plain = source.buffer.gather(source.chosen)
        kept = slice(source.relabelled, None)
        assert torch.equal(batch.observation["desired_goal"][kept], plain.observation["desired_goal"][kept])
        assert torch.equal(batch.reward[kept], plain.reward[kept])
    assert source.relabelled == 40  # four of five
    if strategy == "episode":
        assert min(seen.values()) > 200
    assert (batch.reward == 0.0).float().mean() > 0.02


def test_it_goes_on_where_it_was() -> None:
    one = source_of()
    for _ in range(3):
        one.advance()
        one.sample()
    other = source_of()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(120):
        one.advance()
        other.advance()
        for a, b in zip(one.sample()[:4], other.sample()[:4], strict=True):
            if isinstance(a, dict):
                assert all(torch.equal(a[key], b[key]) for key in a)
            else:
                assert torch.equal(a, b)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs observations with the parts achieved_goal, desired_goal, observation"):
        source_of(env=gymnasium.make("Pendulum-v1"))

    class WithoutRewards(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.make("agentlib/Reach-v0").observation_space
        action_space = gymnasium.make("agentlib/Reach-v0").action_space

    with pytest.raises(ValueError, match="compute_reward"):
        source_of(env=WithoutRewards())
    with pytest.raises(ValueError, match="leave out n_steps"):
        source_of(n_steps=3)
    with pytest.raises(ValueError, match="goal_selection_strategy is future, final, episode"):
        source_of("random")


@pytest.mark.slow
def test_a_goal_is_learned_only_with_hindsight() -> None:
    settings: Any = {"learning_rate": 1e-3, "net_arch": (64, 64), "learning_starts": 500, "gamma": 0.95}
    returns = {}
    for goals in (4, 0):
        agent: Any = agentlib.train(
            "sac", env="agentlib/Reach-v0", steps=4_000, seed=0, n_sampled_goal=goals, progress=False, **settings
        )
        returns[goals] = agentlib.evaluate(agent, "agentlib/Reach-v0", episodes=50).mean
    assert returns[4] > -20.0
    assert returns[0] < -40.0
