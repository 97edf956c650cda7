"""Environments that are stopped in the middle of their episodes, and brought back."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv

from agentlib.core.spaces import action_to_space, random_actions
from agentlib.core.trees import difference
from agentlib.envs.journal import BYTES, Journal
from agentlib.envs.making import make_env, make_envs
from agentlib.envs.vector import Environments
from agentlib.runs.checkpoints import load_state, save_state
from tests.moody import Moody


def cartpoles(kind: AutoresetMode | type) -> Any:
    factories = [lambda: gymnasium.make("CartPole-v1")] * 3
    if isinstance(kind, AutoresetMode):
        return SyncVectorEnv(factories, autoreset_mode=kind)
    return kind(factories)


MAKERS: dict[str, Any] = {
    "single": lambda: make_env("CartPole-v1"),
    "three": lambda: make_envs("CartPole-v1", 3),
    **{mode.value: (lambda mode=mode: cartpoles(mode)) for mode in AutoresetMode},
    "sb3": lambda: cartpoles(DummyVecEnv),
    "arrays": lambda: gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"),
    "acrobot": lambda: TimeLimit(make_env("Acrobot-v1"), 37),
    "lake": lambda: make_envs("FrozenLake-v1", 2),
    "blackjack": lambda: make_env("Blackjack-v1"),
    "lander": lambda: make_env("LunarLander-v3"),
    "real actions": lambda: make_env("Pendulum-v1"),
    "masks": lambda: make_envs(Moody, 3),
    "masks of one": lambda: Moody((3, 2), start=1),
    "masks observed": lambda: make_envs(lambda: Moody(in_observation=True), 2),
    "masks in a vector environment": lambda: SyncVectorEnv([lambda: Moody((3, 2))] * 2),
}


class Player:
    """Acts at random, and writes down what it saw."""

    def __init__(self, envs: Environments, seed: int) -> None:
        self.envs, self.generator = envs, np.random.default_rng(seed)
        self.seen: list[Any] = []

    def action(self) -> Any:
        space: Any = self.envs.action_space
        n, mask = self.envs.num_envs, self.envs.action_mask
        if isinstance(space, spaces.Box):
            return self.generator.uniform(space.low, space.high, (n, *space.shape)).astype(np.float32)
        sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(size) for size in space.nvec]
        actions = random_actions(self.generator, sizes, n, mask)
        return action_to_space(space, actions if len(sizes) > 1 else actions[:, 0])

    def play(self, steps: int) -> list[Any]:
        for _ in range(steps):
            stepped = self.envs.step(self.action())
            seen = stepped.observation, stepped.next_observation, stepped.reward, stepped.terminated, stepped.truncated
            mask = () if self.envs.action_mask is None else (self.envs.action_mask.copy(),)
            self.seen.append((*seen, stepped.valid, stepped.begun, *mask))
        return self.seen


@pytest.mark.parametrize("kind", MAKERS)
def test_an_environment_goes_on_where_it_was(kind, tmp_path):
    """At each of many moments: at the start, in the middle and just after the end of an episode."""
    if kind == "lander":
        pytest.importorskip("Box2D")
    first = Player(Environments(MAKERS[kind]()), 0)
    first.envs.reset(seed=5)
    for moment in range(6):
        save_state(tmp_path / "state", first.envs.state())
        again = Player(Environments(MAKERS[kind]()), moment + 1)
        first.generator, first.seen = np.random.default_rng(moment + 1), []
        observation = again.envs.load_state(load_state(tmp_path / "state"))
        assert difference(observation, first.envs.observation) is None
        assert difference(again.envs.action_mask, first.envs.action_mask) is None
        assert difference(again.envs.state(), first.envs.state()) is None
        steps = 40 if moment % 3 == 0 else 1
        assert difference(first.play(steps), again.play(steps)) is None
        again.envs.close()
    first.envs.close()


def test_an_environment_in_other_processes_goes_on_where_it_was():
    made = [AsyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2) for _ in range(2)]
    first, again = (Player(Environments(env), 3) for env in made)
    first.envs.reset(seed=1)
    first.play(50)
    again.envs.load_state(first.envs.state())
    first.generator, first.seen = np.random.default_rng(3), []
    assert difference(first.play(50), again.play(50)) is None
    for env in made:
        env.close()


@pytest.mark.slow
def test_atari_goes_on_where_it_was(tmp_path):
    """With sticky actions, frames that are stacked, and lives, whose loss ends an episode but not the game."""
    pytest.importorskip("ale_py")
    first = Player(Environments(make_env("ALE/Breakout-v5")), 0)
    first.envs.reset(seed=5)
    lives = 0
    for moment in range(6):
        lives += sum(seen[6].any() for seen in first.play(150))
        again = Player(Environments(make_env("ALE/Breakout-v5")), moment)
        again.envs.load_state(first.envs.state())
        first.generator, first.seen = np.random.default_rng(moment), []
        assert difference(first.play(60), again.play(60)) is None
        first.seen = []
        again.envs.close()
    assert lives > 10
    first.envs.close()


def test_a_game_goes_on_after_a_lost_life():
    """A seed would start the game anew, so that only the first of five lives were ever learned from."""
    pytest.importorskip("ale_py")
    player = Player(Environments(make_env("ALE/Breakout-v5")), 0)
    player.envs.reset(seed=5)
    lives = set()
    for _ in range(300):
        player.play(1)
        lives.add(player.envs.env.unwrapped.ale.lives())
    assert len(lives) >= 4


class Restless(gymnasium.Env):
    """Its observations, or only its rewards, or the length of its episodes, depend on how often it was ever reset."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, what: str = "nothing", resets: int = 0) -> None:
        self.what, self.resets = what, resets

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        self.t = 0
        if self.what == "raises" and self.resets == 101:
            raise OSError("the simulator is gone")
        return self.observed(), {}

    def observed(self):
        return np.full(1, self.what == "observation" and self.resets >= 100, np.float32)

    def step(self, action):
        self.t += 1
        reward = float(self.what == "reward" and self.resets >= 100)
        return self.observed(), reward, self.what == "end" and self.resets >= 100, self.t == 20, {}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("what", ["nothing", "observation", "reward", "end", "raises"])
def test_an_environment_that_does_something_else_says_so(n, what):
    def made(resets: int = 0) -> Environments:
        return Environments(make_envs(lambda: Restless(what, resets), n))

    first, again = Player(made(), 0), made(resets=100 if n == 1 else 99)
    first.envs.reset(seed=0)
    first.play(47)
    if what == "nothing":
        assert again.load_state(first.envs.state()) is not None
        return
    words = {"end": "its episode ended earlier", "raises": "it raised OSError"}.get(what, f"its {what} is another one")
    with pytest.warns(UserWarning, match=f"could not be brought back to where it was: .*{words}"):
        assert again.load_state(first.envs.state()) is None
    if what != "raises":
        assert again.reset(seed=1).shape == (n, 1)


def test_an_environment_without_seed_says_so():
    first = Player(Environments(make_env("CartPole-v1")), 0)
    first.envs.reset()
    first.play(3)
    with pytest.warns(UserWarning, match="its last reset with a seed was none"):
        assert Environments(make_env("CartPole-v1")).load_state(first.envs.state()) is None


def test_the_journal_is_as_long_as_the_episodes_under_way():
    journal = Journal(lanes=2, limit=10_000)
    rewards, ends = np.random.default_rng(0), [40, 1700]
    began = dict.fromkeys(range(2), 0)
    history = []
    for lane in range(2):
        journal.begin(lane, lane)
    for t in range(20_000):
        action, reward = np.array([t, -t]), rewards.random(2)
        journal.note(action, reward)
        history.append((action, reward))
        for lane, end in enumerate(ends):
            if (t + 1) % end == 0:
                journal.begin(lane, t)
                began[lane] = t + 1
        if t % 999 == 0:
            for lane in range(2):
                actions, given = journal.since(lane) or ([], [])
                expected = history[began[lane] :]
                assert len(actions) == len(expected)
                assert all(np.array_equal(a, b[0]) for a, b in zip(actions, expected, strict=True))
                assert all(np.array_equal(a, b[1]) for a, b in zip(given, expected, strict=True))
    assert len(journal._rewards) <= 4096


def test_what_is_too_long_is_given_up():
    journal = Journal(lanes=2, limit=3000)
    journal.begin(0, 1)
    journal.begin(1, 2)
    for t in range(10_000):
        journal.note(np.array([t, t]), np.zeros(2))
        if t % 100 == 99:
            journal.begin(1, t)
    assert journal.since(0) is None
    actions, _ = journal.since(1) or (None, None)
    assert actions is not None
    assert len(actions) == 0
    assert len(journal._rewards) < 10_000
    again = Journal(lanes=2)
    again.load_state(journal.state())
    assert again.since(0) is None
    journal.begin(0, 7)
    assert journal.since(0) is not None


def test_steps_of_many_environments_take_little_memory():
    """Of 4,096 environments 65 kB a step: 2,048 steps fit."""
    journal, of_all = Journal(lanes=1), np.zeros(4_096)
    journal.begin(0, 1)
    for _ in range(2**14):
        journal.note(of_all, of_all)
    assert journal.since(0) is None
    assert journal._rewards.nbytes + journal._actions.nbytes <= 4 * BYTES
