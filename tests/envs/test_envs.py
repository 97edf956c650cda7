"""Our environments keep Gymnasium's contract, and the scripted experts reach their numbers."""

import importlib
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FrameStackObservation

import agentlib.envs
from agentlib.envs.catch import BALL, PADDLE, TRAIL
from agentlib.envs.chain import CLIMB, Chain
from agentlib.envs.corridor import Corridor
from agentlib.envs.experts import Expert, catch_expert, expert_for
from agentlib.envs.identity import Identity
from agentlib.envs.making import make_env

NAMES = ["Identity", "CartPoleNoVel", "CartPoleVaried", "Catch", "Chain", "Corridor", "Detour", "Dials"]
IDS = [f"agentlib/{name}-v0" for name in NAMES]


def returns(env: gymnasium.Env, policy: Expert, episodes: int) -> list[float]:
    """The undiscounted returns of the episodes with seeds 0, 1, ..."""
    found = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, done = total + float(reward), terminated or truncated
        found.append(total)
    return found


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_has_nothing_to_say(env_id):
    # pygame, which draws CartPole, imports deprecated modules: only what Gymnasium itself warns about is an error.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="gymnasium")
        if env_id == "agentlib/CartPoleVaried-v0":  # its space is that of CartPole-v1, where velocities have no bounds
            warnings.filterwarnings("ignore", message=".*value is -?infinity", module="gymnasium")
        check_env(gymnasium.make(env_id).unwrapped, skip_render_check="CartPole" in env_id)


@pytest.mark.parametrize("env_id", IDS)
def test_one_seed_one_run_and_two_seeds_two(env_id):
    def run(seed):
        env = gymnasium.make(env_id)
        env.action_space.seed(0)
        seen = [env.reset(seed=seed)[0]]
        for _ in range(200):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, reward, terminated, truncated]
            if terminated or truncated:
                seen.append(env.reset()[0])
        return np.concatenate([np.ravel(x).astype(np.float64) for x in seen])

    first, again, other = run(3), run(3), run(4)
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (env_id == "agentlib/Corridor-v0")  # nothing in it is random


def test_registration_is_repeatable_and_imports_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(agentlib.envs)
    assert all(isinstance(gymnasium.spec(env_id).entry_point, str) for env_id in IDS)


@pytest.mark.parametrize(
    ("env_id", "episodes", "low", "high"),
    [
        ("CartPole-v1", 20, 500, 500),
        ("MountainCar-v0", 100, -121.2, -118.0),  # -119.6 +- 3.7 per episode: over four standard errors
        ("agentlib/Catch-v0", 100, 10, 10),
        ("agentlib/Identity-v0", 20, 10, 10),
        ("agentlib/Detour-v0", 100, 1, 1),
        ("agentlib/Chain-v0", 20, 0, 0),
    ],
)
def test_experts_reach_their_numbers(env_id, episodes, low, high):
    found = returns(gymnasium.make(env_id), expert_for(env_id), episodes)
    assert low <= np.mean(found) <= high


TAUGHT = [*(f"agentlib/{name}-v0" for name in ("Identity", "Catch", "Chain")), "CartPole-v1", "MountainCar-v0"]


@pytest.mark.parametrize("env_id", TAUGHT)
def test_expert_on_a_batch_equals_expert_on_each(env_id):
    expert = expert_for(env_id)
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    batch = [env.reset(seed=0)[0]]
    while len(batch) < 30:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        batch.append(env.reset()[0] if terminated or truncated else observation)
    actions = expert(np.stack(batch))
    assert actions.dtype == np.int64
    assert actions.shape == (30,)
    assert [int(a) for a in actions] == [int(expert(observation)) for observation in batch]
    assert env.action_space.contains(expert(batch[0]))


def test_unknown_expert_names_close_matches():
    with pytest.raises(ValueError, match="CartPole-v1"):
        expert_for("CartPole-v2")
    with pytest.raises(ValueError, match="agentlib/Catch-v0"):
        expert_for("Pong")


def test_identity_rewards_only_what_equals_the_observation():
    env = gymnasium.make("agentlib/Identity-v0", n=3)
    observation, _ = env.reset(seed=0)
    for step in range(10):
        action = (observation + step % 2) % 3
        observation, reward, terminated, truncated, _ = env.step(action)
        assert reward == (step % 2 == 0)
        assert (terminated, truncated) == (False, step == 9)
    with pytest.raises(ValueError, match="n must be a whole number from 2, not 1"):
        Identity(n=1)


def test_cartpole_without_velocity_is_cartpole_without_velocity():
    full, partial = gymnasium.make("CartPole-v1"), gymnasium.make("agentlib/CartPoleNoVel-v0")
    a, b = full.reset(seed=7)[0], partial.reset(seed=7)[0]
    assert partial.unwrapped.observation_space.shape == (2,)
    for _ in range(500):
        np.testing.assert_array_equal(a[[0, 2]], b)
        action = int(expert_for("CartPole-v1")(a))
        a, *outcome = full.step(action)
        b, *partial_outcome = partial.step(action)
        assert outcome == partial_outcome
    assert outcome[2]  # truncated at step 500


def test_catch_frame_shows_ball_paddle_and_trail():
    env = gymnasium.make("agentlib/Catch-v0", render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    assert (frame.shape, frame.dtype) == ((36, 36), np.uint8)
    assert [int((frame == grey).sum()) for grey in (BALL, TRAIL, PADDLE)] == [9, 9, 18]
    picture = np.asarray(env.render())
    assert picture.shape == (288, 288, 3)
    np.testing.assert_array_equal(picture[::8, ::8, 0], frame)
    stacked, _ = FrameStackObservation(env, 4).reset(seed=0)
    assert stacked.shape == (4, 36, 36)
    np.testing.assert_array_equal(catch_expert(stacked[-1]), catch_expert(frame))


def test_catch_ends_at_a_miss_and_is_cut_after_ten_balls():
    env = gymnasium.make("agentlib/Catch-v0")
    frame, _ = env.reset(seed=0)
    for step in range(1, 101):
        frame, reward, terminated, truncated, _ = env.step(catch_expert(frame))
        assert (reward, terminated, truncated) == (float(step % 10 == 0), False, step == 100)
    rng = np.random.default_rng(0)
    random = returns(env, lambda _: np.asarray(rng.integers(3)), 300)
    assert -1 < np.mean(random) < -0.6


def test_catch_needs_the_drift():
    """Without its trail the ball is only followed, not met: one frame is then not enough."""
    env = gymnasium.make("agentlib/Catch-v0", trail=False)
    assert not (env.reset(seed=0)[0] == TRAIL).any()
    assert np.mean(returns(env, catch_expert, 100)) < 1


def test_corridor_is_a_combination_lock():
    env = Corridor(n=4)
    right: Any = env.right
    assert 0 < right.sum() < 4
    env.reset(seed=0)
    outcomes: list[Any] = [env.step(action)[:3] for action in (right[0], 1 - right[1])]
    assert outcomes == [(1, 0.0, False), (0, 0.0, False)]  # back to the start
    outcomes = [env.step(action)[:3] for action in right]
    assert outcomes == [(1, 0.0, False), (2, 0.0, False), (3, 0.0, False), (4, 1.0, True)]
    # Random play: the steps to the end are 2^(n+1) - 2 on average, here 30 with a deviation of 27.
    rng, counts = np.random.default_rng(0), []
    for _ in range(1000):
        env.reset()
        steps = 1
        while not env.step(rng.integers(2))[2]:
            steps += 1
        counts.append(steps)
    assert np.mean(counts) == pytest.approx(30, abs=4)
    with pytest.raises(ValueError, match="n must be a whole number from 1, not 0"):
        Corridor(n=0)


def test_a_forgiving_corridor_stays_where_it_is():
    env = Corridor(n=4, forgiving=True)
    right: Any = env.right
    env.reset(seed=0)
    outcomes: list[Any] = [env.step(action)[:3] for action in (right[0], 1 - right[1], right[1])]
    assert outcomes == [(1, 0.0, False), (1, 0.0, False), (2, 0.0, False)]


def test_dials_reward_what_was_wanted():
    env = gymnasium.make("agentlib/Dials-v0")
    assert returns(env, lambda wanted: wanted, 5) == pytest.approx([20.0] * 5)
    env.action_space.seed(0)
    assert np.mean(returns(env, lambda _: env.action_space.sample(), 100)) == pytest.approx(20 / 7, abs=0.3)
    wanted, _ = env.reset(seed=1)
    assert env.step((wanted + np.array([0, 1, 2, 0, 0, 6])) % 7)[1] == pytest.approx(3 / 6)
    with pytest.raises(ValueError, match="digits must be a whole number from 2, not 1"):
        gymnasium.make("agentlib/Dials-v0", digits=1)


@pytest.mark.slow
@pytest.mark.parametrize("knows_how_to_climb", [True, False])
def test_chain_costs_what_the_formula_says(knows_how_to_climb):
    """A share eps of the cues is mistaken: eps T with climbing, sum 1 - (1 - eps)^t without it."""
    eps, horizon, episodes, rng = 0.02, 30, 2000, np.random.default_rng(0)

    def policy(observation):
        if observation[2] > 0.5:
            return np.int64(CLIMB if knows_how_to_climb else 0)
        right = int(expert_for("agentlib/Chain-v0")(observation))
        return np.int64((right + (rng.random() < eps)) % 4)

    cost = -np.array(returns(gymnasium.make("agentlib/Chain-v0", horizon=horizon), policy, episodes))
    # With climbing a mistake is only possible on the rope, where the share p of the steps begins: p = 1 - eps p.
    on_rope = [1.0]
    for _ in range(horizon - 1):
        on_rope.append(1 - eps * on_rope[-1])
    t = np.arange(1, horizon + 1)
    expected = eps * sum(on_rope) if knows_how_to_climb else (1 - (1 - eps) ** t).sum()
    assert abs(cost.mean() - expected) < 4 * cost.std() / episodes**0.5
    if knows_how_to_climb:
        assert expected == pytest.approx(eps * horizon, rel=0.03)


def test_chain_is_cut_off_at_its_horizon_and_says_where_it_is():
    env = gymnasium.make("agentlib/Chain-v0", horizon=3, render_mode="ansi")
    observation, _ = env.reset(seed=0)
    assert "on the rope" in str(env.render())
    for step in range(1, 4):
        wrong = (int(expert_for("agentlib/Chain-v0")(observation)) + 1) % 5
        observation, reward, terminated, truncated, _ = env.step(np.int64(wrong))
        assert (observation[2], reward, terminated, truncated) == (1.0, -1.0, False, step == 3)
    assert "off the rope" in str(env.render())
    with pytest.raises(ValueError, match="0"):
        Chain(horizon=0)


def test_the_detour_s_expert_goes_both_ways_and_its_mean_none():
    env, expert = gymnasium.make("agentlib/Detour-v0"), expert_for("agentlib/Detour-v0")
    sides, turns = [], []
    for seed in range(200):
        observation, info = env.reset(seed=seed)
        assert "side" not in info
        done = False
        while not done:
            action = expert(observation)
            assert env.action_space.contains(action)
            if abs(observation[1] + 0.5) < 0.01:
                turns.append(float(action[0]))
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        sides.append(info["side"])
    assert 0.4 < sides.count("left") / 200 < 0.6
    assert set(turns) == {-1.0, 1.0}
    ways: Any = ([0.0, 0.5], [0.5, 0.5], [-0.5, 0.5])
    for action in ways:  # straight on, or with half a heart: into the wall
        observation, _ = env.reset(seed=0)
        total, done = 0.0, False
        while not done:
            moved = np.array(action if -0.55 < observation[1] < -0.22 else [0.0, 0.5], np.float32)
            observation, reward, terminated, truncated, _ = env.step(moved)
            total, done = total + float(reward), terminated or truncated
        assert terminated
        assert total == 0.0
    # The same place gets the same action.
    batch = np.array([[0.01, -0.5], [0.011, -0.5], [0.6, -0.3], [-0.6, 0.3]], np.float32)
    np.testing.assert_array_equal(expert(batch), np.stack([expert(place) for place in batch]))


def test_a_picture_of_the_detour():
    env = gymnasium.make("agentlib/Detour-v0", render_mode="rgb_array")
    env.reset(seed=0)
    first: Any = env.render()
    assert first.shape == (200, 200, 3)
    env.step(np.array([0.0, 1.0], np.float32))
    second: Any = env.render()
    assert not np.array_equal(first, second)


def played(env, seed, steps=200):
    """What an episode shows, under fixed actions."""
    observation, _ = env.reset(seed=seed)
    seen, actions = [(observation.sum(), 0.0, 0)], np.random.default_rng(0)
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(int(actions.integers(env.action_space.n)))
        seen.append((observation.sum(), reward, info["lives"]))
        if terminated or truncated:
            break
    return seen


@pytest.mark.parametrize(
    "game", ["Seaquest", *(pytest.param(one, marks=pytest.mark.slow) for one in ("Qbert", "Backgammon"))]
)
def test_an_atari_episode_depends_on_its_seed_alone(game):
    """The game isn't loaded again; a reset leaves Seaquest's random numbers as they are, and something of Qbert."""
    pytest.importorskip("ale_py")
    env, another = make_env(f"ALE/{game}-v5"), make_env(f"ALE/{game}-v5")
    first = played(env, 1)
    other = played(env, 2, steps=77)
    played(another, 3, steps=33)
    assert played(env, 1) == played(another, 1) == first
    assert other != first[: len(other)]


@pytest.mark.slow
def test_an_atari_game_of_its_own_chance_is_the_same_with_a_seed():
    pytest.importorskip("ale_py")
    from agentlib.envs.wrappers import SeededGame

    plain, seeded = (
        gymnasium.make("ALE/Pong-v5", frameskip=1, obs_type="grayscale", repeat_action_probability=0.0)
        for _ in range(2)
    )
    seeded = SeededGame(seeded)
    for seed in (0, 1):  # the first loads the game, the second does not
        assert played(seeded, seed) == played(plain, seed)
    assert seeded.np_random.integers(1 << 30) == np.random.default_rng(1).integers(1 << 30)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "share"),
    [
        ("ALE/Pong-v5", {}, 0.25),
        ("ALE/Pong-v5", {"repeat_action_probability": 0.5}, 0.5),
        ("ALE/Pong-v5", {"repeat_action_probability": 0.0}, 0.0),
        ("PongNoFrameskip-v4", {}, 0.0),
    ],
)
def test_atari_actions_stick_as_the_game_s_version_says(env_id, kwargs, share):
    pytest.importorskip("ale_py")
    env = make_env(env_id, env_kwargs=kwargs)
    taken = []
    env.reset(seed=0)
    frame = env.unwrapped.step

    def noted(action):
        taken.append(action)
        return frame(action)

    env.unwrapped.step = noted  # type: ignore[method-assign]
    chosen = []
    for i in range(400):
        chosen += [i % 2 + 2] * 4  # four frames each
        if any(env.step(chosen[-1])[2:4]):
            break
    differ = np.mean([a != b for a, b in zip(taken, chosen, strict=True)])
    if share == 0.0:
        assert differ == 0.0
    else:  # after a change of action, each frame keeps the old one with this probability
        kept = sum(share**k for k in range(1, 5)) / 4
        assert abs(differ - kept) < 0.04


@pytest.mark.slow
def test_atari_frames_are_the_same_without_colours():
    """The game is asked for no screens, which is quickest; who asks for colours gets the same frames."""
    pytest.importorskip("ale_py")
    grey, coloured = (make_env("ALE/Breakout-v5", env_kwargs=kwargs) for kwargs in ({}, {"obs_type": "rgb"}))
    assert [len(env.unwrapped.observation_space.shape or ()) for env in (grey, coloured)] == [1, 3]
    for env in (grey, coloured):
        env.action_space.seed(0)
    first = [env.reset(seed=1)[0] for env in (grey, coloured)]
    np.testing.assert_array_equal(*first)
    for _ in range(100):
        seen = [env.step(env.action_space.sample()) for env in (grey, coloured)]
        np.testing.assert_array_equal(seen[0][0], seen[1][0])
        assert seen[0][1:4] == seen[1][1:4]
        if seen[0][2]:
            np.testing.assert_array_equal(*(env.reset()[0] for env in (grey, coloured)))
