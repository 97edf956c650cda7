"""Wherever an agent is asked, it is asked with the mask of legal actions; and says so where it is not."""

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.core.spaces import LEARNED_WITH_MASKS
from agentlib.envs.vector import Environments
from agentlib.experience import Aggregate, Demonstrations, Expert, record_episodes
from agentlib.experience.asking import TakeoverGate
from agentlib.experience.video import record
from agentlib.learners.robustness.alarm import played
from agentlib.learners.robustness.attacked import Attacked
from agentlib.policies import QPolicy, Student
from agentlib.shell.main import main
from tests.tiny import tiny_run

OBSERVED = spaces.Box(-9, 9, (4,))


class Strict(gymnasium.Env):
    """One or two of four actions are legal; an illegal one costs 100, a legal one pays 1. Episodes of six steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, action_space: Any = None, in_parts: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = OBSERVED
        self.action_space: Any = spaces.Discrete(4, start=2) if action_space is None else action_space
        self.sizes = np.ravel(getattr(self.action_space, "nvec", getattr(self.action_space, "n", 0)))
        self.in_parts, self.render_mode = in_parts, render_mode

    def now(self):
        self.masks = [np.isin(np.arange(size), self.np_random.choice(size, 2, replace=False)) for size in self.sizes]
        mask: Any = tuple(self.masks) if self.in_parts else np.concatenate(self.masks)
        return self.np_random.normal(size=4).astype(np.float32), {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.now()

    def step(self, action):
        index = np.ravel(action - self.action_space.start)
        legal = all(mask[one] for mask, one in zip(self.masks, index, strict=True))
        self.t += 1
        observation, info = self.now()
        return observation, 1.0 if legal else -100.0, self.t == 6, False, info

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


PAIR = spaces.MultiDiscrete([3, 4], start=[1, 5])


def agent_for(env: Strict, learned: bool = True) -> Agent:
    sizes = [int(size) for size in env.sizes]
    policy = QPolicy(MLP(4, (8,)), sizes if len(sizes) > 1 else sizes[0])
    return Agent(policy, OBSERVED, env.action_space, about={LEARNED_WITH_MASKS: True} if learned else {})


@pytest.mark.parametrize("env", [Strict(), Strict(PAIR), Strict(PAIR, in_parts=True)], ids=["one", "two", "parts"])
def test_a_masked_agent_is_legal_wherever_it_acts(env):
    agent = agent_for(env)
    assert (agentlib.evaluate(agent, env, episodes=5).returns == 6).all()
    assert (record_episodes(agent, env, 5).returns == 6).all()
    noisy = record_episodes(agent, env, 5, noise=0.7)
    assert (noisy.returns == 6).all()
    assert (noisy.column("action") != noisy.column("label")).any()
    vector = SyncVectorEnv([lambda: Strict(env.action_space, env.in_parts)] * 2, autoreset_mode=AutoresetMode.DISABLED)
    student = Student(agent_for(env, learned=False).policy, OBSERVED)
    aggregate = Aggregate(vector, student, agent, beta=1.0, round_steps=20)
    aggregate.collect()
    assert (aggregate.demonstrations.returns == 6).all()


def test_labels_of_dagger_are_legal_where_the_student_acts():
    env = Strict()
    aggregate = Aggregate(env, Student(agent_for(env, learned=False).policy, OBSERVED), agent_for(env), round_steps=60)
    masks = []

    class Noting(Expert):
        def __call__(self, *situation):
            masks.append(env.masks[0])
            return super().__call__(*situation)

    aggregate.expert = Noting(agent_for(env), aggregate.recorder.envs)
    aggregate.collect()
    labels = aggregate.demonstrations.column("label") - 2
    assert all(mask[label] for mask, label in zip(masks, labels, strict=True))
    assert (aggregate.demonstrations.returns < 0).any()  # the student knows no masks


def test_a_takeover_compares_with_the_legal_action():
    env = Strict()
    envs, agent = Environments(env), agent_for(env)
    observation = envs.reset(seed=0)
    legal = Expert(agent, envs)(observation, np.ones(1, bool), np.ones(1, bool)) - 2
    proposed: Any = type("Proposed", (), {"action": legal})
    assert not TakeoverGate(agent, envs)(observation, proposed).any()
    assert env.masks[0][legal[0]]


@pytest.mark.parametrize("noise", [False, True])
def test_an_attacked_agent_acts_legally(noise):
    env = Strict()
    agent = agent_for(env)
    attacked = Attacked(agent, 0.5, noise=noise, steps=3)
    assert (agentlib.evaluate(attacked, env, episodes=5).returns == 6).all()
    assert (agentlib.evaluate(Attacked(agent, 0.0), env, episodes=2).returns == 6).all()


def test_an_attack_turns_to_another_legal_action():
    """Action 3 is always the best, and illegal. Of the others the attack reaches the second best."""
    policy = QPolicy(MLP(4, ()), 4)
    weight = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    policy.head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.tensor([0.0, 0.0, -9.0, 99.0])})
    agent = Agent(policy, OBSERVED, spaces.Discrete(4))
    attacked = Attacked(agent, 0.5, steps=5)
    observation, mask = np.array([0.3, 0, 0, 0], np.float32), np.array([1, 1, 0, 0])
    assert agent.predict(observation, deterministic=True, action_mask=mask)[0] == 0
    assert attacked.predict(observation, deterministic=True, action_mask=mask)[0] == 1
    both = attacked.predict(np.stack([observation, -observation]), action_mask=np.stack([mask, mask]))[0]
    assert both.tolist() == [1, 0]


def test_transitions_for_the_alarm_are_legal():
    env, rewards = Strict(), []

    class Noted(gymnasium.Wrapper):
        def step(self, action):
            found = self.env.step(action)
            rewards.append(found[1])
            return found

    played(agent_for(env), Noted(env), 60, random_share=0.5, seed=0)
    assert rewards == [1.0] * 60


def test_films_and_the_shell_record_legal_episodes(tmp_path, capsys):
    agent = agent_for(Strict())
    pytest.importorskip("PIL")
    assert record(agent, Strict, tmp_path / "film.gif", episodes=1).mean == 6
    path = agent.save(tmp_path / "agent")
    gymnasium.register("Strict-v0", lambda **kwargs: Strict(**kwargs))
    try:
        out = str(tmp_path / "demos.safetensors")
        assert main(["record", str(path), "--env", "Strict-v0", "--episodes", "3", "--out", out]) == 0
    finally:
        del gymnasium.registry["Strict-v0"]
    assert (Demonstrations.load(out).returns == 6).all()
    assert "mean return 6" in capsys.readouterr().out


def test_an_agent_that_learned_with_masks_says_once_that_it_acts_without():
    env = Strict()
    observation, info = env.reset(seed=0)
    agent = tiny_run(env=Strict(), steps=100)
    with pytest.warns(UserWarning, match="learned with masks of legal actions, and acts without one"):
        agent.act(observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(observation)  # once is enough
        agent.predict(observation)
        other = tiny_run(env=Strict(), steps=100)
        other.act(observation, action_mask=info["action_mask"])
        other.act(observation)  # it was given one: here all may be legal
        tiny_run(env="CartPole-v1", steps=30).act(observation)


@pytest.mark.parametrize("use", ["evaluate", "attack", "record", "film"])
def test_masks_that_agentlib_hands_on_are_none_that_the_owner_gives(use, tmp_path):
    agent = tiny_run(env=Strict(), steps=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        match use:
            case "evaluate":
                agentlib.evaluate(agent, Strict(), episodes=1)
            case "attack":
                agentlib.evaluate(Attacked(agent, 0.1), Strict(), episodes=1)
            case "record":
                record_episodes(agent, Strict(), 1)
            case "film":
                record(agent, Strict, tmp_path / "film.gif", episodes=1)
    with pytest.warns(UserWarning, match="acts without one"):
        agent.act(Strict().reset(seed=0)[0])


def test_the_files_of_agents_know_that_they_learned_with_masks(tmp_path):
    tiny_run(env=Strict, steps=100, out=tmp_path / "run", eval_every=40)
    for name in ("agent", "best_agent"):
        assert Agent.load(tmp_path / "run" / f"{name}.safetensors").about[LEARNED_WITH_MASKS] is True
    tiny_run(env="CartPole-v1", steps=30, out=tmp_path / "other")
    assert LEARNED_WITH_MASKS not in Agent.load(tmp_path / "other").about
