"""Masks of legal actions, from environments of any kind through exploration into replay, against a plain rule."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from agentlib.backbones import LSTM, MLP, Nested, WithMemory
from agentlib.core import Clock
from agentlib.envs.vector import EnvironmentFailure, Environments
from agentlib.experience import Episode, ReplayBuffer, SequenceBuffer
from agentlib.experience.replay import Collector
from agentlib.policies import EpsilonGreedy, GreedyActor, MemoryActor, QPolicy
from tests.experience.masked import Masked, legal, sizes_of

quick = partial(settings, deadline=None, derandomize=True)
MODES = {"next step": AutoresetMode.NEXT_STEP, "same step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}
TALK = [(3, "truncated"), (1, "terminated"), (5, "terminated"), (2, "both"), (4, "truncated")]
SPACES = [spaces.Discrete(5), spaces.Discrete(4, start=2), spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([6])]

scripts = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["terminated", "truncated", "both"])), min_size=1)


def wrapped(env: Masked, stack: int | None) -> Any:
    return env if stack is None else FrameStackObservation(env, stack)


def collector_of(envs: Any, action_space: spaces.Space, stack: int | None, buffer_size: int = 200) -> Collector:
    environments = Environments(envs)
    space = environments.observation_space
    encoder: Any = MLP(3 * (stack or 1), ())
    nested = isinstance(space, spaces.Dict)
    sizes = sizes_of(action_space)
    policy = QPolicy(
        Nested({"where": encoder}) if nested else encoder, sizes if len(action_space.shape or ()) else sizes[0]
    )
    buffer = ReplayBuffer(space, action_space, buffer_size, num_envs=environments.num_envs, frame_stack=stack or 1)
    exploration = EpsilonGreedy(action_space, environments.num_envs, epsilon=0.5)
    return Collector(environments, buffer, GreedyActor(policy, space), exploration)


def collect(collector: Collector, steps: int) -> None:
    if collector.observation is None:
        collector.reset(seed=0)
    for _ in range(steps):
        collector.step(Clock(0, 0, 0.0))
    collector.buffer.flush()


def masks_of(observation: Any, action_space: spaces.Space) -> np.ndarray:
    """The masks that belong to observations, by the rule."""
    codes = observation["where"] if isinstance(observation, dict) else observation
    rows = codes.numpy().reshape(len(codes), -1)[:, -3:].astype(int)  # of a stack, the newest
    masks = [legal(action_space, *row) for row in rows]
    width = sum(sizes_of(action_space))
    return np.stack([np.ones(width, bool) if mask is None else np.concatenate(mask) for mask in masks])


def check(buffer: ReplayBuffer, action_space: spaces.Space, n_steps: int) -> None:
    with torch.random.fork_rng():
        index = buffer.draw(20 * len(buffer) + 100)[0].unique()
    batch = buffer.gather(index, n_steps)
    assert batch.mask is not None
    assert batch.next_mask is not None
    np.testing.assert_array_equal(batch.mask.numpy(), masks_of(batch.observation, action_space))
    expected = masks_of(batch.next_observation, action_space) | (batch.terminated.numpy()[:, None] > 0)
    np.testing.assert_array_equal(batch.next_mask.numpy(), expected)
    width = np.cumsum([0, *sizes_of(action_space)])[:-1]
    chosen = batch.action.reshape(len(index), -1).numpy() + width
    assert batch.mask.numpy()[np.arange(len(index))[:, None], chosen].all()


def environments(kind: str, envs: Sequence[Masked], stack: int | None) -> Any:
    factories: list[Any] = [partial(wrapped, env, stack) for env in envs]
    if kind == "single":
        return factories[0]()
    return DummyVecEnv(factories) if kind == "sb3" else SyncVectorEnv(factories, autoreset_mode=MODES[kind])


@pytest.mark.parametrize("kind", ["single", *(pytest.param(mode, marks=pytest.mark.slow) for mode in (*MODES, "sb3"))])
@quick(max_examples=25)
@given(
    all_scripts=st.lists(scripts, min_size=1, max_size=3),
    action_space=st.sampled_from(SPACES),
    where=st.sampled_from(["info", "parts", "observation"]),
    stack=st.sampled_from([None, 3]),
    buffer_size=st.integers(6, 80),
    n_steps=st.integers(1, 4),
    steps=st.integers(12, 40),
)
def test_masks_of_replay_are_those_of_the_rule(
    kind, all_scripts, action_space, where, stack, buffer_size, n_steps, steps
):
    """At both ends of each transition, also at the ends of episodes; and no illegal action was ever made."""
    envs = [Masked(number, script, action_space, where) for number, script in enumerate(all_scripts)]
    collector = collector_of(environments(kind, envs, stack), action_space, stack, buffer_size)
    collect(collector, steps)
    check(collector.buffer, action_space, n_steps)
    collector.observation = None  # as where the environment does not come back: the episodes under way are left
    collect(collector, 5)
    check(collector.buffer, action_space, n_steps)


@pytest.mark.parametrize("kind", ["single", *MODES])
@pytest.mark.parametrize("where", ["info", "observation"])
def test_masks_of_sequences_are_those_of_the_rule(kind, where):
    """At each frame; where the task has ended, nothing is chosen, and they may say anything."""
    action_space = spaces.Discrete(5)
    envs = [Masked(number, TALK[number:], action_space, where) for number in range(2)]
    made = Environments(environments(kind, envs, None))
    encoder = Nested({"where": MLP(3, ())}) if where == "observation" else MLP(3, ())
    policy = QPolicy(WithMemory(encoder, LSTM(3, 4)), 5)
    buffer = SequenceBuffer(
        made.observation_space,
        action_space,
        40,
        sequence_length=6,
        period=2,
        state=policy.initial_state(1),
        num_envs=made.num_envs,
    )
    exploration = EpsilonGreedy(action_space, made.num_envs, epsilon=0.5)
    collector = Collector(made, buffer, MemoryActor(policy, made.observation_space), exploration)
    collect(collector, 60)
    other = copy.deepcopy(buffer)
    other.load_state_dict(buffer.state_dict())

    with torch.random.fork_rng():
        batch = other.gather(*buffer.draw(200))

    assert batch.mask is not None
    codes = batch.observation["where"] if where == "observation" else batch.observation
    expected = masks_of(codes.flatten(0, 1), action_space).reshape(200, 7, 5)
    after_the_end = torch.zeros(200, 7, dtype=torch.bool)
    after_the_end[:, 1:] = batch.terminated > 0
    after_the_end[:, 0] = batch.weight[:, 0] == 0
    assert not after_the_end.all(1).any()
    np.testing.assert_array_equal(batch.mask.numpy()[~after_the_end], expected[~after_the_end])
    chosen = batch.mask[:, :-1].gather(-1, batch.action[..., None])[..., 0]
    assert chosen[batch.weight > 0].all()


@pytest.mark.parametrize("kind", MODES)
def test_masks_from_other_processes(kind):
    action_space = spaces.MultiDiscrete([3, 4])
    factories = [partial(Masked, number, TALK[number:], action_space) for number in range(2)]
    collector = collector_of(AsyncVectorEnv(factories, autoreset_mode=MODES[kind]), action_space, None)
    try:
        collect(collector, 30)
    finally:
        collector.envs.close()
    check(collector.buffer, action_space, 2)


@pytest.mark.parametrize("where", ["info", "observation"])
def test_masks_survive_a_checkpoint(where):
    action_space = spaces.Discrete(5)
    collector = collector_of(Masked(0, TALK, action_space, where), action_space, None, 15)
    collect(collector, 40)
    other = collector_of(Masked(0, TALK, action_space, where), action_space, None, 15)
    other.buffer.load_state_dict(collector.buffer.state_dict())
    check(other.buffer, action_space, 2)
    assert other.buffer.nbytes == collector.buffer.nbytes


def test_masks_are_stored_once_for_each_frame():
    space, actions = spaces.Box(0, 1, (3,)), spaces.Discrete(7)
    buffer = ReplayBuffer(space, actions, 10)
    without = buffer.nbytes
    assert without == ReplayBuffer.forecast(space, actions, 10)
    buffer.begin(np.zeros((1, 3), np.float32), mask=np.ones((1, 7), bool))
    assert buffer.nbytes == ReplayBuffer.forecast(space, actions, 10, masked=True)
    assert buffer.nbytes - without == buffer.frame_capacity * 7


def test_recorded_episodes_bring_their_masks():
    actions, observations = spaces.Discrete(3), np.arange(5, dtype=np.float32)[:, None]
    masks = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    buffer = ReplayBuffer(spaces.Box(0, 9, (1,)), actions, 20)
    buffer.extend([Episode(observations[:3], np.array([0, 1]), np.zeros(2))])  # no masks: all is legal
    buffer.extend([Episode(observations, np.array([0, 1, 2, 0]), np.zeros(4), terminated=True, action_masks=masks)])
    batch = buffer.gather(torch.arange(6))
    assert batch.mask is not None
    assert batch.next_mask is not None
    assert batch.mask.int().tolist() == [[1, 1, 1]] * 2 + masks[:4].tolist()
    assert batch.next_mask.int().tolist() == [[1, 1, 1]] * 2 + masks[1:4].tolist() + [[1, 1, 1]]


class Dead(Masked):
    """Leaves nothing to do after its third step."""

    def mask(self):
        masks = [np.ones(size, bool) for size in sizes_of(self.action_space)]
        if self.t == 3:
            masks[-1][:] = False
        return masks


@pytest.mark.parametrize("kind", ["single", *MODES, "sb3"])
@pytest.mark.parametrize("action_space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 3])], ids=["one", "two"])
@pytest.mark.parametrize("where", ["info", "observation"])
def test_a_mask_without_a_legal_action_is_refused_with_its_step(kind, action_space, where):
    for ending in ("later", "truncated", "terminated"):
        script = [(9, "terminated")] if ending == "later" else [(3, ending)]
        envs = [Dead(number, script, action_space, where) for number in range(2)]
        collector = collector_of(environments(kind, envs, None), action_space, None)
        if ending == "terminated":  # nothing is chosen after the end
            collect(collector, 10)
            continue
        with pytest.raises(
            EnvironmentFailure, match=r"leaves no legal action after step (3|6)( \(environment 0 of 2\))?$"
        ):
            collect(collector, 4)


def test_a_mask_of_another_size_is_refused():
    class Wrong(Masked):
        def mask(self):
            return None

        def told(self):
            return super().told()[0], {"action_mask": np.ones(3 if self.t < 2 else 7)}

    collector = collector_of(Wrong(0, TALK, spaces.Discrete(3)), spaces.Discrete(3), None)
    with pytest.raises(
        EnvironmentFailure, match=r"at step 2 .* action mask of 7 numbers does not fit Discrete\(3\): 3"
    ):
        collect(collector, 4)
    space = spaces.Dict(action_mask=spaces.MultiBinary(7), where=spaces.Box(0, 1, (3,)))
    with pytest.raises(ValueError, match=r"'action_mask' of the observation is MultiBinary\(7\): a mask has 3 numbers"):
        ReplayBuffer(space, spaces.Discrete(3), 10)


def test_random_actions_are_uniform_among_the_legal_ones():
    actions = spaces.MultiDiscrete([3, 4])
    mask = np.array([[1, 0, 1, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1, 1]], bool)
    exploration = EpsilonGreedy(actions, num_envs=2, epsilon=1.0)
    actions_made = np.stack([exploration(lambda *_: np.empty(0), None, Clock(0, 0, 0.0), mask) for _ in range(6000)])
    expected = [[(1 / 2, 0, 1 / 2), (0, 1 / 3, 1 / 3, 1 / 3)], [(0, 1, 0), (1 / 4, 1 / 4, 1 / 4, 1 / 4)]]
    for row, components in enumerate(expected):
        for component, shares in enumerate(components):
            counts = np.bincount(actions_made[:, row, component], minlength=len(shares)) / len(actions_made)
            np.testing.assert_allclose(counts, shares, atol=0.025)  # four standard deviations
