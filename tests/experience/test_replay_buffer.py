"""What the replay buffer gives is what happened, as a plain list kept by the environments says."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_baselines3.common.vec_env import DummyVecEnv

from agentlib.core.schedules import Clock
from agentlib.envs.vector import Environments
from agentlib.experience import Episode, ReplayBuffer
from agentlib.experience.memory import OnDevice
from agentlib.experience.replay import Collector
from tests.experience.scripted import LEAVES, VECTOR, Script, Scripted, facts_of, key, leaves, outcome, stacked

quick = partial(settings, deadline=None, derandomize=True)
GAMMA = 0.9
MODES = {"next step": AutoresetMode.NEXT_STEP, "same step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}
TALK = [(3, "truncated"), (1, "terminated"), (5, "terminated"), (2, "both"), (4, "truncated")]

scripts = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["terminated", "truncated", "both"])), min_size=1)
leaf_spaces = st.sampled_from(list(LEAVES.values()))
nested_spaces = st.recursive(
    leaf_spaces,
    lambda parts: (
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple)
        | st.dictionaries(st.sampled_from("abc"), parts, min_size=1).map(spaces.Dict)
    ),
    max_leaves=4,
)
action_spaces = st.sampled_from(
    [spaces.Discrete(5), spaces.Discrete(5, start=2), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([3, 4])]
)


@dataclass
class Run:
    """Scripted environments, stepped with random actions into a buffer."""

    scripts: list[Script]
    kind: str = "next step"
    space: spaces.Space = field(default_factory=lambda: VECTOR)
    action_space: spaces.Space = field(default_factory=lambda: spaces.Discrete(5))
    stack: int | None = None
    padding: str = "reset"
    buffer_size: int = 1000
    large: bool = False
    prioritized: bool = False

    def __post_init__(self) -> None:
        self.scripted = [
            Scripted(number, script, self.space, self.action_space) for number, script in enumerate(self.scripts)
        ]
        factories: list[Callable[[], Any]] = [partial(self.wrapped, env) for env in self.scripted]
        if self.kind == "single":
            envs = factories[0]()
            self.scripted = self.scripted[:1]
        elif self.kind == "sb3":
            envs = DummyVecEnv(factories)
        else:
            envs = SyncVectorEnv(factories, autoreset_mode=MODES[self.kind])
        self.buffer = self.new_buffer(self.wrapped(self.scripted[0]).observation_space)
        self.rng = np.random.default_rng(0)
        self.collector = self.new_collector(envs, self.buffer)

    def new_buffer(self, space: spaces.Space | None = None) -> ReplayBuffer:
        with patch("agentlib.experience.replay_buffer.SMALL_OBSERVATION", 0 if self.large else 1 << 30):
            return ReplayBuffer(
                space or self.buffer.observation_space,
                self.action_space,
                self.buffer_size,
                num_envs=len(self.scripted),
                frame_stack=self.stack or 1,
                prioritized=self.prioritized,
            )

    def new_collector(self, envs: Any, buffer: ReplayBuffer) -> Collector:
        return Collector(Environments(envs), buffer, lambda observation: np.empty(0), self._explore)

    def wrapped(self, env: Any) -> Any:
        return env if self.stack is None else FrameStackObservation(env, self.stack, padding_type=self.padding)

    def _explore(self, actor: Any, observation: Any, clock: Any) -> np.ndarray:
        n = len(self.scripted)
        if isinstance(self.action_space, spaces.Discrete):
            return self.rng.integers(int(self.action_space.n), size=n)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return self.rng.integers(self.action_space.nvec, size=(n, len(self.action_space.nvec)))
        return self.rng.uniform(-1, 1, (n, 2)).astype(np.float32)

    def go(self, steps: int) -> Run:
        collect(self.collector, steps)
        return self

    def restart(self) -> None:
        """As where the environment does not come back: the episodes under way are left, and the environments reset."""
        self.collector.observation = None

    def expected(self, n_steps: int = 1) -> dict[bytes, Any]:
        """By observation, what the environments' own records say of each transition that should be there."""
        expected = {}
        for env in self.scripted:
            facts, frames = facts_of(env.log, self.stack or 1, self.padding)
            for number in range(max(len(facts) - self.buffer.capacity, 0), len(facts)):
                if facts[number].oldest_frame >= frames - self.buffer.frame_capacity:
                    found = outcome(facts, number, n_steps, GAMMA)
                    action = found.action - getattr(self.action_space, "start", 0)
                    next_key = key(stacked(found.next_frames, self.stack))
                    expected[key(stacked(facts[number].frames, self.stack))] = (
                        found._replace(action=action),
                        next_key,
                    )
        return expected

    def check(self, n_steps: int = 1, buffer: ReplayBuffer | None = None) -> None:
        """Exactly the expected transitions can be drawn, and `gather` gives each as it was."""
        buffer = buffer or self.buffer
        expected = self.expected(n_steps)
        assert len(buffer) == len(expected)
        if not expected:
            return
        batch = buffer.gather(drawable(buffer), n_steps, GAMMA)
        observations, next_observations = leaves(batch.observation), leaves(batch.next_observation)
        dtypes = [part.dtype for part in leaves(buffer.observation_space.sample())]
        assert [part.dtype for part in observations] == [np.float32 if d == np.float64 else d for d in dtypes]
        for row in range(len(batch.index)):
            fact, next_key = expected.pop(key([part[row] for part in observations]))
            assert key([part[row] for part in next_observations]) == next_key
            np.testing.assert_array_equal(batch.action[row].numpy(), fact.action)
            assert batch.reward[row].item() == pytest.approx(fact.reward, rel=1e-5, abs=1e-5)
            assert batch.terminated[row].item() == fact.terminated
            assert batch.discount[row].item() == pytest.approx(fact.discount, rel=1e-6)
        assert not expected


def collect(collector: Collector, steps: int) -> None:
    if collector.observation is None:
        collector.reset(seed=0)
    for _ in range(steps):
        collector.step(Clock(0, 0, 0.0))
    collector.buffer.flush()


def drawable(buffer: ReplayBuffer) -> torch.Tensor:
    """All indices that `draw` gives, once each: so many draws that none is missed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return buffer.draw(40 * len(buffer) + 400)[0].unique()


@pytest.mark.parametrize("kind", ["single", *MODES])
@quick(max_examples=30)
@given(
    scripts=st.lists(scripts, min_size=1, max_size=3),
    space=nested_spaces,
    action_space=action_spaces,
    stack=st.sampled_from([None, 1, 2, 3, 4]),
    padding=st.sampled_from(["reset", "zero"]),
    buffer_size=st.integers(1, 90),
    large=st.booleans(),
    n_steps=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 18), min_size=1, max_size=3),
    restart=st.booleans(),
    prioritized=st.booleans(),
)
def test_each_transition_is_as_it_happened(kind, n_steps, lengths, restart, **parts):
    """Any observation space, episodes, buffer size and layout: looked at several times during a run."""
    run = Run(kind=kind, **parts)
    for length in lengths:
        run.go(length).check(n_steps)
        assert run.collector.steps == sum(event.action is not None for env in run.scripted for event in env.log)
        if restart:
            run.restart()


@quick(max_examples=25)
@given(
    scripts=st.lists(scripts, min_size=1, max_size=3),
    space=leaf_spaces | st.dictionaries(st.sampled_from("abc"), leaf_spaces, min_size=1).map(spaces.Dict),
    stack=st.sampled_from([None, 2, 4]),
    buffer_size=st.integers(1, 90),
    large=st.booleans(),
    n_steps=st.integers(1, 5),
    steps=st.integers(1, 40),
)
def test_each_transition_is_as_it_happened_in_sb3_environments(n_steps, steps, **parts):
    Run(kind="sb3", **parts).go(steps).check(n_steps)


@pytest.mark.parametrize("kind", MODES)
def test_each_transition_is_as_it_happened_in_other_processes(kind):
    """AsyncVectorEnv cannot show its records; a twin in this process, given the same actions, can."""
    run = Run([TALK, TALK[2:]], kind, spaces.Dict(a=LEAVES["image"], b=spaces.Tuple([VECTOR])), stack=3)
    copies = [lambda env=env: run.wrapped(copy.deepcopy(env)) for env in run.scripted]
    buffer = run.new_buffer()
    other = run.new_collector(AsyncVectorEnv(copies, autoreset_mode=MODES[kind]), buffer)
    try:
        collect(other, 25)
    finally:
        other.envs.close()
    run.rng = np.random.default_rng(0)
    run.go(25)
    for n_steps in (1, 3):
        run.check(n_steps, buffer)


@pytest.mark.parametrize("stack", [None, 3])
@pytest.mark.parametrize("kind", ["single", *MODES, "sb3"])
def test_the_true_final_observation_follows_a_truncated_episode(kind, stack):
    """The case that other libraries get wrong: never the first observation of the next episode, and not terminated."""
    run = Run([[(2, "truncated")]], kind, stack=stack).go(20)
    batch = run.buffer.gather(drawable(run.buffer), 5, GAMMA)
    newest = (lambda tree: tree) if stack is None else (lambda tree: tree[:, -1])
    _, episode, t = newest(batch.observation).T
    _, next_episode, next_t = newest(batch.next_observation).T
    whole = episode < episode.max()
    assert whole.sum() >= 12
    assert torch.equal(next_episode, episode)
    assert (next_t[whole] == 2).all()
    assert (batch.terminated == 0).all()
    assert torch.allclose(batch.discount[whole], GAMMA ** (2 - t[whole]))


def test_the_step_that_only_resets_is_no_transition():
    """NEXT_STEP: 12 steps with episodes of one step are 6 transitions and 6 resets."""
    run = Run([[(1, "terminated")]], "next step").go(12)
    assert len(run.buffer) == run.collector.steps == 6


def test_small_observations_keep_all_of_buffer_size_even_if_episodes_have_one_step():
    run = Run([[(1, "terminated")]], "same step", stack=4, buffer_size=20).go(50)
    assert len(run.buffer) == 20
    run.check(3)


def test_large_observations_lose_the_oldest_transitions_when_episodes_are_short():
    """Few frames beyond `buffer_size`: with long episodes nothing is lost, with short ones only the oldest."""
    short = Run([[(2, "terminated")]], "same step", stack=4, buffer_size=60, large=True).go(150)
    assert 2 / 6 * 60 - 2 <= len(short.buffer) <= 2 / 6 * 64 + 2
    short.check(3)
    image = spaces.Box(0, 1000, (2, 1), np.int64)
    with patch("agentlib.experience.replay_buffer.SMALL_OBSERVATION", 0):
        buffer = ReplayBuffer(image, spaces.Discrete(2), 300, frame_stack=2)
    frames = np.arange(1000)
    observations = np.stack([frames[:-1], frames[1:]], 1)[:, :, None]
    for start in (0, 400):
        buffer.extend([Episode(observations[start : start + 257], np.zeros(256, int), np.zeros(256))])
    assert len(buffer) == 300


@pytest.mark.parametrize("kind", ["single", "next step"])
def test_uniform_draws_are_uniform(kind):
    """Rings that have wrapped and hold unequally many: all transitions are drawn equally often, and no others."""
    scripts = [TALK, [(1, "terminated")], [(6, "truncated")]]
    run = Run(scripts[:1] if kind == "single" else scripts, kind, buffer_size=60).go(33)
    assert kind == "single" or len(set(np.diff(run.buffer.window.numpy(), axis=0)[0])) > 1
    run.check()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        index, weight = run.buffer.draw(100 * len(run.buffer))
    _, counts = index.unique(return_counts=True)
    assert len(counts) == len(run.buffer)
    assert chisquare(counts.numpy()).pvalue > 1e-3
    assert (weight == 1).all()


@quick(max_examples=30)
@given(
    script=scripts.filter(lambda script: all(ending != "both" for _, ending in script)),
    num_envs=st.integers(1, 3),
    stack=st.sampled_from([None, 3]),
    n_steps=st.integers(1, 4),
    buffer_size=st.integers(1, 60),
)
def test_recorded_episodes_fill_the_buffer_before_environments_do(script, num_envs, stack, n_steps, buffer_size):
    """`extend`, then a run: the recorded transitions are as good as lived ones."""
    past = Run([script], "single", spaces.Dict(a=VECTOR, b=LEAVES["discrete"]), stack=stack)
    past.go(sum(length for length, _ in script))
    (log,) = (env.log for env in past.scripted)
    starts = [number for number, event in enumerate(log) if event.action is None]
    facts, _ = facts_of(log, stack or 1, "reset")
    episodes, number = [], 0
    for start, end in pairwise(starts):  # the last episode has no step
        length = end - start - 1
        steps = facts[number : number + length]
        number += length
        frames = [stacked(step.frames, stack) for step in [*steps, steps[-1]._replace(frames=steps[-1].next_frames)]]
        a, b = (np.stack(parts) for parts in zip(*frames, strict=True))
        actions, rewards = np.array([s.action for s in steps]), np.array([s.reward for s in steps])
        episodes.append(Episode({"a": a, "b": b}, actions, rewards, steps[-1].terminated))

    if num_envs == 1:  # then which ones are kept is known
        buffer = ReplayBuffer(
            past.buffer.observation_space, past.action_space, buffer_size, frame_stack=stack or 1, prioritized=True
        )
        buffer.extend(episodes)
        # The record also holds the reset after the last episode, which for small observations evicts nothing.
        past.buffer = buffer
        past.check(n_steps)
    run = Run([TALK] * num_envs, "same step", past.space, stack=stack)
    run.buffer.extend(episodes)
    assert len(run.buffer) == len(facts)
    batch = run.buffer.gather(drawable(run.buffer), n_steps, GAMMA)
    assert sorted(batch.reward.tolist()) == pytest.approx(
        sorted(outcome(facts, i, n_steps, GAMMA).reward for i in range(len(facts))), abs=1e-5
    )
    run.go(6)
    assert len(run.buffer) == len(facts) + 6 * num_envs


@quick(max_examples=25)
@given(
    scripts=st.lists(scripts, min_size=1, max_size=3),
    space=nested_spaces,
    stack=st.sampled_from([None, 1, 3]),
    buffer_size=st.integers(1, 60),
    large=st.booleans(),
    prioritized=st.booleans(),
    before=st.integers(0, 30),
    after=st.integers(0, 15),
)
def test_state_dict_into_a_new_buffer_gives_the_same_one(before, after, **parts):
    """Saved in the middle, the copy gives the same draws and gathers, and goes on from there."""
    run = Run(kind="same step", **parts).go(before)
    state = copy.deepcopy(run.buffer.state_dict())
    run.go(after)  # what is lived later is not in the state
    run = Run(kind="same step", **parts).go(before)
    restored = run.new_buffer()
    restored.load_state_dict(state)
    if len(restored):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ours = restored.draw(50)
            torch.manual_seed(0)
            theirs = run.buffer.draw(50)
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    run.check(2, restored)
    run.collector.buffer = run.buffer = restored
    run.go(after).check(3)


@pytest.mark.parametrize(
    "other",
    [
        Run([TALK], buffer_size=15),
        Run([TALK] * 2, buffer_size=20),
        Run([TALK], buffer_size=20, stack=2),
        Run([TALK], buffer_size=20, large=True),
    ],
    ids=["size", "num_envs", "stack", "layout"],
)
def test_state_of_a_buffer_of_another_size_is_refused(other):
    """Its rings are laid out otherwise: to read them would give wrong transitions."""
    state = Run([TALK], buffer_size=20).go(30).buffer.state_dict()
    with pytest.raises(ValueError, match="the state is of a ReplayBuffer of"):
        other.buffer.load_state_dict(state)


@quick(max_examples=40)
@given(
    space=nested_spaces,
    stack=st.sampled_from([None, 2, 4]),
    buffer_size=st.integers(1, 5000),
    num_envs=st.integers(1, 5),
    large=st.booleans(),
)
def test_forecast_is_what_is_allocated(space, stack, buffer_size, num_envs, large):
    run = Run([TALK] * num_envs, space=space, stack=stack, buffer_size=buffer_size, large=large)
    buffer = run.buffer
    columns = [part for name, part in buffer.named_buffers() if name not in ("window", "top")]
    assert buffer.nbytes == sum(column.nbytes for column in columns)
    with patch("agentlib.experience.replay_buffer.SMALL_OBSERVATION", 0 if large else 1 << 30):
        assert buffer.nbytes == ReplayBuffer.forecast(
            buffer.observation_space, run.action_space, buffer_size, num_envs=num_envs, frame_stack=stack or 1
        )


def test_a_million_atari_frames_are_stored_once():
    """7 GB of frames, where whole observations would be 28 GB, and with the next ones 56 GB."""
    atari = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    needed = ReplayBuffer.forecast(atari, spaces.Discrete(4), 1_000_000, frame_stack=4)
    assert 84 * 84 * 1e6 < needed < 1.02 * 84 * 84 * 1e6


@quick(max_examples=40)
@given(
    buffer_size=st.integers(1_000, 2_000_000),
    share=st.floats(0.05, 0.999),
    num_envs=st.integers(1, 8),
    shape=st.sampled_from([(4, 84, 84), (4, 3), (4, 8, 8)]),
)
@example(buffer_size=1_000, share=0.05, num_envs=8, shape=(4, 84, 84))  # the first stacks take most of the room
def test_a_buffer_that_cannot_fit_is_refused_with_a_size_that_fits(buffer_size, share, num_envs, shape):
    space, actions = spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(2)
    free = int(ReplayBuffer.forecast(space, actions, buffer_size, num_envs=num_envs, frame_stack=4) * share)
    with patch("agentlib.experience.memory.free_memory", return_value=free):
        with pytest.raises(MemoryError, match="would fit") as raised:
            ReplayBuffer(space, actions, buffer_size, num_envs=num_envs, frame_stack=4)
        match = re.search(r"buffer_size=([\d_]+) would fit", str(raised.value))
        assert match
        named = int(match[1])
        assert named < buffer_size
        larger = ReplayBuffer.forecast(space, actions, named + 1, num_envs=num_envs, frame_stack=4)
        assert larger > 0.9 * free  # it is the largest that leaves a tenth
        with patch("agentlib.experience.memory.np.zeros", np.empty):  # as large as it is: not to be filled
            ReplayBuffer(space, actions, named, num_envs=num_envs, frame_stack=4)


def test_observations_that_are_no_sliding_stacks_are_refused():
    """And the transitions from before stay as they were."""

    env = Scripted(1, [(5, "terminated")], spaces.Box(0, 255, (3,), np.float32))  # (environment, episode, step)
    buffer = ReplayBuffer(env.observation_space, env.action_space, 8, frame_stack=3)
    with pytest.raises(ValueError, match="frame_stack=3, but an observation is not the last one moved by one frame"):
        collect(Collector(Environments(env), buffer, lambda *_: np.zeros(1), lambda *_: np.zeros(1)), 1)

    run = Run([TALK], "single", stack=3, buffer_size=2).go(4)
    jump = run.buffer.gather(drawable(run.buffer)).next_observation[:1].numpy()[:, ::-1]
    no = np.zeros(1, bool)
    with pytest.raises(ValueError, match="moved by one frame"):
        run.buffer.add(np.zeros(1), np.zeros(1), no, no, jump + 1)
    run.check()


def test_a_frame_stack_that_is_not_the_first_axis_is_refused():
    with pytest.raises(ValueError, match=r"frame_stack=3 does not fit .* first axis"):
        ReplayBuffer(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(2), 10, frame_stack=3)


def test_the_buffer_keeps_copies_of_what_it_is_given():
    """Environments may write the next observation into the same array."""
    buffer = ReplayBuffer(VECTOR, spaces.Discrete(2), 10)
    observation, no = np.zeros((1, 3), np.float32), np.zeros(1, bool)
    buffer.begin(observation)
    for t in range(1, 5):
        observation += 1
        buffer.add(np.array([1]), np.array([float(t)]), no, no, observation)
    batch = buffer.gather(torch.arange(4))
    assert batch.observation[:, 0].tolist() == [0, 1, 2, 3]
    assert batch.next_observation[:, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", MODES)
def test_tensors_are_written_as_arrays_are(kind):
    """On a GPU the buffer writes through tensors: the same code, tried on the CPU."""
    space = spaces.Tuple([LEAVES["image"], LEAVES["discrete"], LEAVES["bits"], LEAVES["double"]])
    run = Run([TALK, TALK[2:]], kind, space, stack=3, buffer_size=24, large=True, prioritized=True)
    buffer, run.buffer._window = run.buffer, None
    buffer._rows = [{name: OnDevice(getattr(buffer, name)[row]) for name in buffer._rows[row]} for row in range(2)]
    for _ in range(4):
        run.go(9).check(2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_buffer_on_the_gpu_gives_the_same():
    run = Run([TALK, TALK[1:]], stack=3, buffer_size=24, prioritized=True)
    run.collector.buffer = run.buffer = ReplayBuffer(
        run.buffer.observation_space,
        run.action_space,
        24,
        num_envs=2,
        frame_stack=3,
        prioritized=True,
        device="cuda",
    )
    twin = Run([TALK, TALK[1:]], stack=3, buffer_size=24, prioritized=True)
    run.go(40), twin.go(40)
    index = drawable(twin.buffer)
    assert torch.equal(drawable(run.buffer).cpu(), index)
    for n_steps in (1, 3):
        ours, theirs = run.buffer.gather(index.cuda(), n_steps, GAMMA), twin.buffer.gather(index, n_steps, GAMMA)
        for one, other in zip(ours[:8], theirs[:8], strict=True):
            torch.testing.assert_close(one.cpu(), other)
