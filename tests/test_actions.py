"""Masks of legal actions and several components at once, from training to an agent's file."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP, Chain, Nested
from agentlib.catalog import recipe_of
from agentlib.envs.dials import Dials
from agentlib.policies import QPolicy
from agentlib.policies.q_heads import QHead
from agentlib.runs.plan import preset_of, settings_of
from tests.moody import Moody
from tests.tiny import tiny_run

KINDS: dict[str, dict[str, Any]] = {
    "info": {},
    "observation": {"in_observation": True},
    "start": {"start": 2},
    "components": {"sizes": (3, 4)},
    "all": {"sizes": (3, 4), "in_observation": True, "start": 1},
}
QUICK = (("info", 1), ("all", 3))
"""Kinds and numbers of environments."""


def an_agent(kind, exploration_rate=0.0):
    env = Moody(**KINDS[kind])
    space = env.observation_space
    backbone: Any = MLP(3, (8,))
    if isinstance(space, spaces.Dict):
        backbone = Nested({"position": backbone})
    sizes = list(env.sizes)
    policy = QPolicy(backbone, sizes if len(sizes) > 1 else sizes[0]).eval()
    return Agent(policy, space, env.action_space, exploration_rate=exploration_rate), env


@pytest.mark.parametrize(
    ("kind", "n_envs"),
    [
        pytest.param(kind, n_envs, marks=() if (kind, n_envs) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for n_envs in (1, 3)
    ],
)
def test_training_makes_legal_actions_only_and_learns(kind, n_envs, tmp_path):
    """The environment refuses what is illegal: while exploring, while greedy, and in the evaluation."""
    env: Any = partial(Moody, **KINDS[kind])
    agent = tiny_run(env=env, n_envs=n_envs, steps=1000, learning_rate=3e-3, target_update_interval=100, gamma=0.0)
    again = Agent.load(agent.save(tmp_path / "agent"))

    world, best, total = env(), 0.0, 0.0
    observation, info = world.reset(seed=0)
    for _ in range(200):
        action = again.act(observation, action_mask=info.get("action_mask"))
        assert world.action_space.contains(action)
        best += world.best()
        observation, reward, terminated, truncated, info = world.step(action)
        total += reward
        if terminated or truncated:
            observation, info = world.reset()

    assert total >= 0.95 * best
    assert agentlib.evaluate(again, env, episodes=3).mean > 0


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_training_in_each_autoreset_mode(mode):
    """Also where steps that only reset an environment don't count: the run is as long as it was asked to be."""
    made = SyncVectorEnv([partial(Moody, (3, 4))] * 2, autoreset_mode=mode)
    clocks = []
    tiny_run(env=made, steps=300, callback=lambda clock, _: clocks.append(clock))
    made.close()
    assert 290 < clocks[-1].steps <= 306
    assert clocks[-1].updates == pytest.approx(clocks[-1].steps / 4, abs=8)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_obeys_masks_alone_and_in_batches(kind):
    agent, env = an_agent(kind)
    observations, masks = [], []
    for seed in range(30):
        observations.append(env.reset(seed=seed)[0])
        masks.append(env.mask)
    given = None if env.in_observation else np.stack(masks)
    batch: Any = np.stack(observations) if not env.in_observation else None
    if env.in_observation:
        batch = {name: np.stack([one[name] for one in observations]) for name in ("action_mask", "position")}

    together = agent.act(batch, action_mask=given)
    alone = [agent.act(o, action_mask=None if given is None else m) for o, m in zip(observations, masks, strict=True)]

    np.testing.assert_array_equal(together, alone)
    columns = env.firsts + np.reshape(together, (30, -1)) - env.start
    assert np.stack(masks)[np.arange(30)[:, None], columns].all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_agent_tries_at_random_is_legal_too(kind):
    agent, env = an_agent(kind, exploration_rate=1.0)
    seen = set()
    for seed in range(100):
        observation, info = env.reset(seed=seed)
        action, _ = agent.predict(observation, action_mask=info.get("action_mask"))
        env.step(action)
        seen.add(tuple(np.ravel(action)))
    assert len(seen) == np.prod(env.sizes)


def test_parts_of_a_mask_may_be_given_apart():
    agent, env = an_agent("components")
    observation, _ = env.reset(seed=0)
    masks = np.array([0, 1, 0]), np.array([0, 0, 0, 1])

    assert agent.act(observation, action_mask=masks).tolist() == [1, 3]
    assert agent.act(np.stack([observation] * 2), action_mask=[masks, masks]).tolist() == [[1, 3]] * 2


def test_masks_that_do_not_fit_are_refused():
    agent, env = an_agent("info")
    observation, _ = env.reset(seed=0)
    for mask, message in (
        (np.ones(4), r"an action mask of 4 numbers does not fit Discrete\(5\): 5"),
        (np.zeros(5), "leaves no legal action"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.act(observation, action_mask=mask)
    with pytest.raises(ValueError, match="2 action masks do not fit a batch of 3 observations"):
        agent.act(np.stack([observation] * 3), action_mask=np.ones((2, 5)))

    class Maskless(QPolicy):
        takes_masks = False

    other = Agent(Maskless(MLP(3, ()), 5), env.observation_space, env.action_space)
    with pytest.raises(TypeError, match="Maskless knows none"):
        other.act(observation, action_mask=np.ones(5))


def test_the_network_does_not_see_the_mask():
    agent = tiny_run(env=partial(Moody, in_observation=True), steps=50)
    observation, _ = Moody(in_observation=True).reset(seed=0)
    policy: Any = agent.policy
    assert isinstance(policy.backbone, Chain)
    rows = {"position": observation["position"][None], "action_mask": np.ones((1, 5), np.int8)}
    tensors = {name: torch.from_numpy(row) for name, row in rows.items()}
    first = policy(tensors)[0]
    tensors["action_mask"] = torch.zeros(1, 5)
    assert torch.equal(policy(tensors)[0], first)


def test_branches_hold_what_a_list_of_all_actions_cannot():
    """Six dials of seven digits: 42 values, where there are 117,649 actions."""
    agent = tiny_run(env="agentlib/Dials-v0", steps=100)
    head: Any = agent.policy.head

    assert isinstance(head, QHead)
    assert agent.act(agent.observation_space.sample()).shape == (6,)
    assert [branch.out_features for branch in head.modules() if getattr(branch, "out_features", 0) == 7] == [7] * 6
    again = tiny_run(env=partial(Dials, 2, 3), steps=100, agent=None)
    assert again.action_space == spaces.MultiDiscrete([3, 3])


def test_actions_in_several_rows_are_refused():
    class Grid(Moody):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.action_space = spaces.MultiDiscrete(np.full((2, 2), 2))

    with pytest.raises(ValueError, match="MultiDiscrete one of one row"):
        tiny_run(env=Grid)


@pytest.mark.parametrize(
    "options",
    [{"dueling": True}, {"distributional": "c51"}, {"distributional": "quantile", "noisy": True}],
    ids=["dueling", "c51", "noisy quantiles"],
)
def test_training_goes_on_from_an_agent_with_options(options):
    agent = tiny_run(steps=60, **options)
    again = tiny_run(steps=60, agent=agent, **options)
    assert again.policy.spec == agent.policy.spec
    with pytest.raises(ValueError, match=r"the config has (dueling|distributional)=.*: give QPolicy the same"):
        tiny_run(steps=60, agent=tiny_run(steps=60), **options)


def test_head_arch_is_a_layer_as_wide_as_the_features_where_streams_are():
    for options, hidden in (
        ({}, ()),
        ({"distributional": "c51"}, ()),
        ({"dueling": True}, (16,)),
        ({"noisy": True}, (16,)),
        ({"dueling": True, "head_arch": ()}, ()),
        ({"head_arch": (7, 5)}, (7, 5)),
    ):
        agent = tiny_run(steps=30, **options)
        assert agent.policy.hidden == hidden


def test_rainbow_is_dqn_with_its_options_on():
    config = settings_of("rainbow", "CartPole-v1", {}).config
    rainbow = preset_of(recipe_of("rainbow"), None)
    for name, value in preset_of(recipe_of("dqn"), "CartPole-v1").items():
        assert name == "steps" or getattr(config, name) == rainbow.get(name, value)
    assert all(getattr(config, name) == value for name, value in rainbow.items() if name != "steps")
    assert settings_of("rainbow", None, {"dueling": False}).config.dueling is False
    agent = tiny_run("rainbow", steps=100)
    policy: Any = agent.policy
    assert (policy.dueling, policy.noisy, policy.distributional) == (True, True, "quantile")
