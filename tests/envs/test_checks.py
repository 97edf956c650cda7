"""What environments give that is no observation, no reward or no flag: one clear error, or the right number."""

import inspect
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

import agentlib
from agentlib.core.spaces import action_from_space, to_actions
from agentlib.envs.checks import number_of, truth_of
from agentlib.envs.subprocesses import Subprocesses
from agentlib.envs.vector import EnvironmentFailure, Environments
from agentlib.experience import ReplayBuffer, evaluate, record_episodes
from agentlib.learners.q_learning.watkins import TabularQConfig, q_learning
from tests.tiny import tiny_run

BOX = spaces.Box(0, 1, (3,))


class Gives(gymnasium.Env):
    """Episodes of three steps; from step `at` on, counted over all episodes, it gives what it is told.

    Args:
        at: the step.
        space: of its observations.
        given: "observation", "first" (the observation of a reset), "reward", "terminated" or "truncated".
    """

    action_space: Any = spaces.Discrete(2)

    def __init__(self, at: int = 1, space: spaces.Space = BOX, render_mode: None = None, **given: Any) -> None:
        self.observation_space, self.at, self.given, self.count = space, at, given, 0
        self.usual: Any = np.zeros(space.shape or (), space.dtype) + np.asarray(getattr(space, "start", 0), space.dtype)

    def now(self, name: str, usual: Any) -> Any:
        return self.given.get(name, usual) if self.count >= self.at else usual

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.now("first", self.usual), {}

    def step(self, action):
        self.t, self.count = self.t + 1, self.count + 1
        usual = {"observation": self.usual, "reward": 1.0, "terminated": self.t == 3, "truncated": False}
        return *(self.now(name, value) for name, value in usual.items()), {}


def inside(kind: str, **arguments: Any) -> Environments:
    make = lambda: Gives(**arguments)  # noqa: E731
    envs: Any = {
        "single": make,
        "vector": lambda: SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED),
        "next step": lambda: SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.NEXT_STEP),
        "sb3": lambda: DummyVecEnv([make] * 2),
    }[kind]()
    return Environments(envs)


def steps(envs: Environments, count: int) -> list[Any]:
    envs.reset(seed=0)
    return [envs.step(np.zeros(envs.num_envs, int)) for _ in range(count)]


NO_FLAGS = ["False", float("nan"), None, np.zeros(2, bool), 2, [False, False]]


@pytest.mark.parametrize("name", ["terminated", "truncated"])
@pytest.mark.parametrize("flag", NO_FLAGS, ids=repr)
@pytest.mark.parametrize("kind", ["single", "vector", "next step", "sb3"])
def test_a_flag_that_is_no_truth_value_is_refused(kind, flag, name):
    with pytest.raises(EnvironmentFailure, match=rf"gave {name}=.* in place of True or False at step 3"):
        steps(inside(kind, at=3 if kind == "single" else 2, **{name: flag}), 4)


@pytest.mark.parametrize("flag", [0, 0.0, [False], np.zeros(1, bool), np.zeros((), np.int8), np.float32(0)], ids=repr)
@pytest.mark.parametrize("kind", ["single", "vector"])
def test_flags_of_other_types_mean_what_they_say(kind, flag):
    """An empty list is false and [False] is true, by Python's rules."""
    found = steps(inside(kind, truncated=flag), 6)
    assert [bool(one.terminated.all()) for one in found] == [False, False, True] * 2
    assert not any(one.truncated.any() for one in found)
    assert all(one.terminated.dtype == one.truncated.dtype == np.bool_ for one in found)


class Arrays(VectorEnv):
    """Two environments in one program over arrays, whose episodes have two steps; flags and rewards are as it is told.

    Args:
        mode: of the autoreset.
        flags: what becomes of the flags `(2,)`.
        rewards: what becomes of the rewards `(2,)`.
    """

    single_observation_space = spaces.Box(0, 9, (1,))
    single_action_space = spaces.Discrete(2)
    num_envs = 2

    def __init__(self, mode: AutoresetMode, flags: Any = lambda given: given, rewards: Any = lambda given: given):
        self.metadata = {"autoreset_mode": mode}
        self.flags, self.rewards = flags, rewards
        self.t = 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions):
        over = self.t == 2
        self.t = 0 if over else self.t + 1
        shown, info = np.full((2, 1), self.t, np.float32), {}
        ended = np.full(2, self.t == 2)
        if self.t == 2 and self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            info = {"final_obs": np.array([row.copy() for row in shown] + [None], object)[:2]}
            shown, self.t = np.zeros((2, 1), np.float32), 0
        return shown, self.rewards(np.full(2, 0.0 if over else 1.0)), self.flags(ended), self.flags(ended & False), info


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("flags", [lambda given: given.astype(int), lambda given: given.astype(np.float32).tolist()])
def test_flags_of_numbers_in_vector_environments(mode, flags):
    """~1 is -2, which is true: reset steps were stored, and episodes did not end."""
    found = [steps(Environments(Arrays(mode, one)), 9) for one in (lambda given: given, flags)]
    for usual, other in zip(*found, strict=True):
        for field in ("terminated", "truncated", "valid", "begun", "reward", "next_observation"):
            np.testing.assert_array_equal(getattr(other, field), getattr(usual, field))
        assert other.valid.dtype == np.bool_
    assert sum(one.terminated.all() for one in found[1]) == (3 if mode == AutoresetMode.NEXT_STEP else 4)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_shapes_of_flags_and_rewards_in_vector_environments(mode):
    column = lambda given: given[:, None]  # noqa: E731
    with pytest.raises(EnvironmentFailure, match=r"gave terminated of shape \(2, 1\) in place of \(2,\) at step 1"):
        steps(Environments(Arrays(mode, column)), 1)
    with pytest.raises(EnvironmentFailure, match=r"gave rewards of shape \(2, 1\) in place of \(2,\) at step 1"):
        steps(Environments(Arrays(mode, rewards=column)), 1)
    with pytest.raises(EnvironmentFailure, match=r"gave the rewards \[None, 1.0\] in place of numbers at step 1"):
        steps(Environments(Arrays(mode, rewards=lambda given: np.array([None, 1.0]))), 1)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "gave the reward None in place of a number at step 3"),
        ("1.0", "gave the reward '1.0' in place of a number at step 3"),
        (1j, "gave the reward 1j in place of a number at step 3"),
        (1e39, r"gave the reward \[.*1.e\+39.*\] at step 3, which is not finite in float32"),
        (-1e300, r"gave the reward \[.*-1.e\+300.*\] at step 3, which is not finite in float32"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["single", "vector", "sb3"])
def test_a_reward_that_cannot_be_learned_from(kind, reward, message):
    if kind == "sb3" and isinstance(reward, float):
        pytest.skip("SB3 makes it infinite, with a warning of its own")
    with pytest.raises(EnvironmentFailure, match=message):
        steps(inside(kind, at=3 if kind == "single" else 2, reward=reward), 4)


def test_rewards_that_cancel_are_looked_at_one_by_one():
    rewards = iter([1.0, 1.0, 1e39, -1e39])
    envs = SyncVectorEnv([Gives] * 2, autoreset_mode=AutoresetMode.DISABLED)
    for env in envs.envs:
        env.now = lambda name, usual: next(rewards) if name == "reward" else usual  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFailure, match="at step 3, which is not finite in float32"):
        steps(Environments(envs), 2)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (np.full(3, np.nan, np.float32), "an observation with NaN at step 3"),
        (np.zeros((1, 3), np.float32), r"an observation of shape \(1, 3\) and dtype float32 at step 3"),
        (np.array(["a", "b", "c"]), "and dtype <U1 at step 3"),
        (np.zeros(3, np.complex64), "and dtype complex64 at step 3"),
        (np.full(3, 1e300), "an observation with numbers that float32 cannot hold at step 3"),
    ],
    ids=str,
)
def test_the_first_observation_of_a_later_episode_is_checked(first, message, tmp_path):
    with pytest.raises(EnvironmentFailure, match=message):
        steps(inside("single", first=first), 3)
    with pytest.raises(EnvironmentFailure, match=message.replace("step 3", r"step \d")):
        tiny_run(env=Gives(first=first), steps=60)


BYTES, SMALL = spaces.Box(0, 255, (3,), np.uint8), spaces.Box(-9, 9, (3,), np.int8)
DOUBLE = spaces.Box(-1, 1, (3,), np.float64)


@pytest.mark.parametrize(
    ("space", "observation", "dtype"),
    [
        (BYTES, np.full(3, 300, np.uint16), "uint8"),
        (SMALL, np.full(3, -129, np.int64), "int8"),
        (BOX, np.full(3, 1e300), "float32"),
        (DOUBLE, np.array([1e300, -1e300, 0.0]), "float32"),  # their sum is 0
        (spaces.Box(0, 1, (3,), np.float16), np.full(3, 70_000, np.float32), "float16"),
        (spaces.MultiDiscrete([5, 5, 5], np.int8), np.full(3, 130), "int8"),
    ],
    ids=["uint8", "int8", "float32", "double", "float16", "choices"],
)
@pytest.mark.parametrize("name", ["observation", "first"])
def test_numbers_that_the_space_cannot_hold_are_refused(space, observation, dtype, name):
    with pytest.raises(EnvironmentFailure, match=f"an observation with numbers that {dtype} cannot hold at step 3"):
        steps(inside("single", at=3, space=space, **{name: observation}), 4)


NO_SUCH_CHOICE: list[tuple[Any, Any]] = [
    *((spaces.Discrete(4), number) for number in (4, 9, -1)),
    *((spaces.Discrete(4, start=2), number) for number in (1, 6)),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 3])),
    (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 0], [0, 7]])), np.array([[1, 2], [3, 6]])),
    (spaces.MultiBinary(2), np.array([0, 2], np.int8)),
]


@pytest.mark.parametrize(("space", "observation"), NO_SUCH_CHOICE, ids=repr)
@pytest.mark.parametrize("name", ["observation", "first"])
@pytest.mark.parametrize("kind", ["single", "vector", "next step"])
def test_choices_that_the_space_does_not_have_are_refused(kind, name, space, observation):
    """The indicator vector of 9 among 4 is all zeros: it is learned as if it were one more state."""
    message = (
        re.escape(f"gave the observation {observation} at step ") + r"\d, which is not in " + re.escape(str(space))
    )
    assert len(steps(inside(kind, space=space), 4)) == 4
    with pytest.raises(EnvironmentFailure, match=message):
        steps(inside(kind, space=space, at=3 if kind == "single" else 2, **{name: observation}), 5)


@pytest.mark.parametrize("number", [2, 5])
def test_the_first_and_the_last_choice_are_taken(number):
    for kind in ("single", "vector"):
        found = steps(inside(kind, space=spaces.Discrete(4, start=2), observation=number), 2)
        assert (found[0].next_observation == number).all()
    row = np.array([number, number])
    found = steps(inside("single", space=spaces.MultiDiscrete([4, 4], start=[2, 2]), observation=row), 2)
    assert (found[0].next_observation == number).all()


def test_no_learner_takes_a_choice_that_is_not_there():
    space = spaces.Discrete(4)
    for name in ("q_table", "dqn", "ppo"):
        for given, found in ((9, "observation 9 at step 3, which is not in"), (2.5, "of shape .* float64 at step 3")):
            env = Gives(space=space, at=3, observation=given)
            with pytest.raises(EnvironmentFailure, match=f"{found}.* Discrete"):
                agentlib.train(name, env=env, steps=400, progress=False, compile=False)
    with pytest.raises(ValueError, match="by step 3 the environment gave a state that is not in Discrete"):
        q_learning(Gives(space=space, at=3, observation=-1), TabularQConfig(), steps=9, seed=0)
    with pytest.raises(EnvironmentFailure, match="the observation 9 at step 3"):
        record_episodes(lambda seen: np.zeros(len(seen), int), Gives(space=space, at=3, observation=9), 2)
    agent = tiny_run(env=Gives(space=space), steps=60)
    with pytest.raises(ValueError, match=r"the observation 9 is not in Discrete\(4\)"):
        agent.act(9)
    with pytest.raises(ValueError, match=r"the observation -1 at index 1 is not in Discrete\(4\)"):
        agent.predict(np.array([3, -1]))


@pytest.mark.parametrize(
    ("space", "observation"),
    [(BYTES, np.full(3, 255, np.uint16)), (SMALL, np.full(3, -128)), (BOX, np.full(3, 1e38)), (DOUBLE, np.ones(3))],
    ids=["uint8", "int8", "float32", "double"],
)
def test_numbers_of_another_type_that_fit_are_taken(space, observation):
    found = steps(inside("single", space=space, observation=observation), 4)
    assert (found[0].next_observation == observation).all()


class Old(Gives):
    """The `reset` of old Gym, which takes no seed."""

    def reset(self):  # type: ignore[override]
        return super().reset()


class Bare(Gives):
    """The `reset` of old Gym, which gives no info."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Zero:
    """The agent that always does 0."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.array(0), None


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: gymnasium.wrappers.TimeLimit(env, 9)], ids=["", "limit"])
def test_the_reset_of_old_gym_is_one_clear_line(wrap):
    message = (
        r"reset takes no seed \(.*'seed'\): write it as Gymnasium has it, reset\(self, \*, seed=None, options=None\)"
    )
    with pytest.raises(EnvironmentFailure, match=message):
        tiny_run(env=wrap(Old()))
    with pytest.raises(EnvironmentFailure, match=message):
        evaluate(Zero(), wrap(Old()), episodes=1)
    with pytest.raises(EnvironmentFailure, match=r"reset gave no pair \(observation, info\)"):
        evaluate(Zero(), wrap(Bare()), episodes=1)


def test_what_evaluation_and_tables_cannot_take():
    with pytest.raises(EnvironmentFailure, match="gave the reward None in place of a number at step 2 of an episode"):
        evaluate(Zero(), Gives(at=2, reward=None), episodes=1)
    with pytest.raises(EnvironmentFailure, match="gave terminated='False' in place of True or False at step 2"):
        evaluate(Zero(), Gives(at=2, terminated="False"), episodes=1)
    assert agentlib.evaluate(Zero(), Gives(terminated=[False], truncated=np.ones((), int)), episodes=2).mean == 1.0
    with pytest.raises(ValueError, match="terminated='False' in place of True or False"):
        q_learning(Gives(space=spaces.Discrete(4), terminated="False"), TabularQConfig(), steps=9, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")  # by which Gymnasium says that it ends a worker
def test_a_worker_process_checks_what_its_environment_gives():
    for given, message in ({"terminated": "False"}, "terminated='False'"), ({"reward": None}, "the reward None"):
        envs = Subprocesses(Gives, 2, env_kwargs={"at": 2, **given})
        try:
            with pytest.raises(EnvironmentFailure, match=f"gave {message} in place of .* at step 3"):
                steps(Environments(envs), 3)
        finally:
            envs.close()
        assert not any(process.is_alive() for process in envs.processes)


def test_single_values():
    assert [truth_of(flag, "done") for flag in (True, np.bool_(False), 1, np.array([0]), np.float64(1))] == [
        *(True, False, True, False, True)
    ]
    assert [number_of(reward) for reward in (1, np.float32(0.5), np.array([2]), np.array(-3.0), True)] == [
        *(1.0, 0.5, 2.0, -3.0, 1.0)
    ]


# Actions of small and unsigned types ---------------------------------------------------------------------------------


class Match(gymnasium.Env):
    """Rewards the action that equals the observation, counted from 0; episodes of five steps."""

    observation_space = spaces.Discrete(4)

    def __init__(self, action_space: Any, render_mode: None = None) -> None:
        self.action_space: Any = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.wanted = 0, int(self.np_random.integers(4))
        return self.wanted, {}

    def step(self, action):
        assert self.action_space.contains(action)
        assert np.asarray(action).dtype == self.action_space.dtype
        first = int(np.ravel(action)[0]) - int(np.ravel(self.action_space.start)[0])
        reward, self.wanted, self.t = float(first == self.wanted), int(self.np_random.integers(4)), self.t + 1
        return self.wanted, reward, self.t == 5, False, {}


HAS_DTYPES = "dtype" in inspect.signature(spaces.Discrete).parameters
"""Older Gymnasium has int64 only."""
DISCRETE: list[tuple[int, int, Any]] = [(4, 0, np.int8), (4, 0, np.int16), (4, 0, np.uint8), (4, 0, np.uint64)]
DISCRETE += [(4, -100, np.int8), (6, 200, np.uint8), (4, 7, np.uint64)]
SMALL_SPACES: list[Any] = [
    *(spaces.Discrete(n, start=start, dtype=dtype) for n, start, dtype in DISCRETE if HAS_DTYPES),
    spaces.MultiDiscrete([4, 3], dtype=np.uint8),
    spaces.MultiDiscrete([4, 3], start=[9, 9], dtype=np.uint64),
]


@pytest.mark.parametrize("space", SMALL_SPACES, ids=lambda space: f"{space}-{space.dtype}")
def test_discrete_actions_of_any_type_are_stored_as_indices(space):
    agent = tiny_run(env=lambda: Match(space), steps=60)
    assert agentlib.evaluate(agent, Match(space), episodes=2).lengths.tolist() == [5, 5]
    found = record_episodes(agent, Match(space), 2)
    assert all(map(space.contains, found.column("action")))
    buffer = ReplayBuffer(found.observation_space, space, 20)
    found.fill(buffer)
    batch = buffer.gather(torch.arange(10))
    assert batch.action.dtype == torch.int64
    expected = found.column("action").astype(object) - np.asarray(space.start).astype(object)
    assert batch.action.tolist() == expected.tolist()
    assert action_from_space(space, found.column("action")).dtype == np.int64


@pytest.mark.skipif(not HAS_DTYPES, reason="this Gymnasium has int64 only")
def test_the_largest_action_of_a_small_type_is_in_its_space():
    """250 + 6 is 0 in 8 bits."""
    space = spaces.Discrete(6, start=250, dtype=np.uint8)
    assert to_actions(space, [250, 255]).tolist() == [250, 255]
    with pytest.raises(ValueError, match="action 249, at index 0, is not in Discrete"):
        to_actions(space, [249])


@pytest.mark.slow
@pytest.mark.parametrize("space", SMALL_SPACES, ids=lambda space: f"{space}-{space.dtype}")
def test_discrete_actions_of_any_type_are_learned(space):
    settings: dict[str, Any] = {"steps": 800, "learning_rate": 1e-2, "gamma": 0.0, "train_freq": 1}
    agent = tiny_run(env=lambda: Match(space), exploration_fraction=0.5, **settings)
    assert agentlib.evaluate(agent, Match(space), episodes=10).mean > 4.0
    if isinstance(space, spaces.Discrete):
        tiny_run("recurrent_dqn", env=lambda: Match(space), steps=200, batch_size=4)
    copy = record_episodes(agent, Match(space), 2)
    agentlib.train("bc", demos=copy, steps=20, progress=False)
    agentlib.train("dagger", env=Match(space), expert=agent, rounds=1, rollout_round_min_timesteps=20, progress=False)
