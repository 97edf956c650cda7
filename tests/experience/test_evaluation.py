from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy

import agentlib
from agentlib.envs import checks
from agentlib.envs.vector import EnvironmentFailure
from agentlib.experience import evaluate, record_episodes
from agentlib.experience.evaluation import FIRST_EPISODE_SEED, episode_seed
from agentlib.experience.video import record
from agentlib.runs.folder import RunFolder
from tests.tiny import tiny_run


class Thresholds:
    """Pushes the cart to where the pole leans: a policy whose returns vary."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        return np.array(int(observation[2] > 0)), state


class Counting:
    """Keeps the number of steps of the episode as its recurrent state."""

    def __init__(self):
        self.seen = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        count = 0 if state is None or episode_start[0] else state + 1
        self.seen.append((count, bool(episode_start[0])))
        return np.array(0), count


class Noise(gymnasium.Env):
    """Images with the channels last; the reward is a function of picture and action."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._draw(), {}

    def step(self, action):
        self.count += 1
        reward = float(self.picture.mean()) * (int(action) + 1)
        return self._draw(), reward, self.count == 4, False, {}

    def _draw(self):
        self.picture = self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)
        return self.picture


class EvaluationSeeds(gymnasium.Wrapper):
    """Whoever resets it, episode i starts from the i-th evaluation seed."""

    index = 0

    def reset(self, *, seed=None, options=None):
        self.index += 1
        return self.env.reset(seed=episode_seed(7, self.index - 1))


def test_episodes_do_not_depend_on_their_number_or_on_the_environment_object():
    few, many = (evaluate(Thresholds(), "CartPole-v1", episodes=count, seed=3) for count in (3, 8))
    np.testing.assert_array_equal(few.returns, many.returns[:3])
    used = gymnasium.make("CartPole-v1")
    used.reset(seed=0)
    used.step(1)
    np.testing.assert_array_equal(evaluate(Thresholds(), used, episodes=8, seed=3).returns, many.returns)
    made = evaluate(Thresholds(), lambda: gymnasium.make("CartPole-v1"), episodes=8, seed=3)
    np.testing.assert_array_equal(made.returns, many.returns)
    assert len(set(many.returns)) > 1
    assert (evaluate(Thresholds(), "CartPole-v1", episodes=8, seed=4).returns != many.returns).any()


def test_statistics_of_an_evaluation():
    found = evaluate(Thresholds(), "CartPole-v1", episodes=30)
    assert found.returns.dtype == np.float64
    assert found.lengths.dtype == np.int64
    np.testing.assert_array_equal(found.returns, found.lengths)  # CartPole pays one per step
    assert found.mean == pytest.approx(found.returns.mean())
    assert found.std == pytest.approx(found.returns.std())
    assert found.interval.low < found.mean < found.interval.high
    assert found.iqm_interval.low <= found.iqm <= found.iqm_interval.high
    assert "30 episodes" in str(found)


@pytest.mark.parametrize(
    ("make", "policy"), [(lambda: gymnasium.make("CartPole-v1"), "MlpPolicy"), (Noise, "CnnPolicy")]
)
def test_an_sb3_model_scores_what_sb3_says(make, policy):
    model = DQN(policy, make(), buffer_size=10, seed=1)
    ours = evaluate(model, make, episodes=6, seed=7)
    with pytest.warns(UserWarning, match="Monitor"):
        returns, lengths = evaluate_policy(
            model, EvaluationSeeds(make()), n_eval_episodes=6, return_episode_rewards=True
        )
    np.testing.assert_allclose(ours.returns, returns, rtol=1e-6)  # SB3 adds rewards in float32
    np.testing.assert_array_equal(ours.lengths, lengths)


def test_model_and_globals_stay_as_they_were(globals_untouched):
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, seed=1)
    model.policy.set_training_mode(True)
    model.policy.q_net_target.eval()
    weights = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with globals_untouched():
        evaluate(model, "CartPole-v1", episodes=2)
    assert model.policy.training
    assert model.policy.q_net.training
    assert not model.policy.q_net_target.training
    assert all(torch.equal(value, weights[name]) for name, value in model.policy.state_dict().items())


def test_recurrent_state_goes_on_within_an_episode_only():
    agent = Counting()
    lengths = evaluate(agent, "CartPole-v1", episodes=3).lengths
    assert agent.seen == [(step, step == 0) for length in lengths for step in range(length)]


def test_a_discrete_action_can_be_a_key():
    model = DQN("MlpPolicy", "FrozenLake-v1", buffer_size=10)
    assert evaluate(model, "FrozenLake-v1", episodes=2).lengths.min() >= 1  # FrozenLake looks actions up in a dict


def test_an_instance_stays_open_and_what_we_made_is_closed():
    closed = []

    class Noticed(gymnasium.Wrapper):
        def close(self):
            closed.append(self)
            super().close()

    given = Noticed(gymnasium.make("CartPole-v1"))
    evaluate(Thresholds(), given, episodes=1)
    assert closed == []
    evaluate(Thresholds(), lambda: Noticed(gymnasium.make("CartPole-v1")), episodes=1)
    assert len(closed) == 1


def test_evaluation_seeds_lie_apart_from_training_seeds_and_from_each_other():
    seeds = {episode_seed(seed, index) for seed in range(20) for index in range(100)}
    assert len(seeds) == 2000
    assert min(seeds) >= FIRST_EPISODE_SEED
    assert max(seeds) < 2**31


def test_bad_input_is_refused_in_one_clear_line():
    nothing: Any = object()
    with pytest.raises(TypeError, match="predict"):
        evaluate(nothing, "CartPole-v1")
    with pytest.raises(ValueError, match="episodes must be a whole number from 1"):
        evaluate(Thresholds(), "CartPole-v1", episodes=0)
    with pytest.raises(ValueError, match="CartPole-v1"):
        evaluate(Thresholds(), "CartPol-v1")
    with pytest.raises(ValueError, match=r"Discrete\(4\)"):
        evaluate(DQN("MlpPolicy", "CartPole-v1", buffer_size=10), "FrozenLake-v1")
    vector: Any = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(TypeError, match="single environment"):
        evaluate(Thresholds(), vector)
    vector.close()


class Endless(gymnasium.Env):
    """Pays 1 for each step, and never ends."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


class First:
    """Always takes the first action."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(np.shape(observation)[:-1], np.int64), None


def test_episodes_that_never_end_are_cut_off(tmp_path):
    found = evaluate(First(), Endless(), episodes=3, max_steps=20)
    assert found.returns.tolist() == found.lengths.tolist() == [20, 20, 20]
    recorded = record_episodes(First(), Endless, 3, max_steps=20)
    assert recorded.lengths.tolist() == [20, 20, 20]
    assert not any(episode.terminated for episode in recorded)
    pytest.importorskip("PIL")
    assert record(First(), Endless, tmp_path / "film.gif", max_steps=5).lengths.tolist() == [5]
    short = gymnasium.make("CartPole-v1")
    np.testing.assert_array_equal(
        evaluate(Thresholds(), short, episodes=4, max_steps=10**6).returns,
        evaluate(Thresholds(), short, episodes=4).returns,
    )
    for wrong in (0, -1, 2.5, "ten"):
        with pytest.raises(ValueError, match=r"max_steps must be a whole number from 1, not"):
            evaluate(First(), Endless(), episodes=1, max_steps=wrong)  # type: ignore[arg-type]


def test_a_long_episode_is_warned_of_once_and_the_warning_names_the_cure(monkeypatch):
    monkeypatch.setattr(checks, "LONG_EPISODE", 50)
    message = r"has not ended after 50 steps.*max_steps=N.*gymnasium\.wrappers\.TimeLimit.*--max-steps N"
    with pytest.warns(UserWarning, match=message) as warned:
        evaluate(First(), Endless(), episodes=1, max_steps=200)
    assert len(warned) == 1
    with pytest.warns(UserWarning, match=message) as warned:
        record_episodes(First(), Endless, 1, max_steps=200)
    assert len(warned) == 1

    dagger: Any = {"expert": First(), "rounds": 1, "rollout_round_min_episodes": 1, "epochs": 1, "progress": False}
    with pytest.warns(UserWarning, match=message):
        agentlib.train("dagger", env=Endless, max_steps=60, **dagger)
    with pytest.warns(UserWarning, match=message):
        tiny_run(env=Endless, max_steps=60, eval_every=200, n_eval_episodes=1)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_runs_episodes_are_cut_off(n_envs, tmp_path):
    seen: dict[str, float] = {}

    def callback(clock, metrics):
        seen.update(metrics)

    tiny_run(env=Endless, n_envs=n_envs, max_steps=25, eval_every=100, callback=callback, out=tmp_path / "run")
    assert seen["rollout/ep_len_mean"] == seen["eval/mean_ep_length"] == 25
    assert RunFolder(tmp_path / "run").record()["max_steps"] == 25
    env = Endless()
    tiny_run(env=env, max_steps=25, callback=callback)
    assert seen["rollout/ep_len_mean"] == 25
    with pytest.raises(ValueError, match="max_steps is for single environments, not for SyncVectorEnv"):
        tiny_run(env=gymnasium.vector.SyncVectorEnv([Endless]), max_steps=25)
    with pytest.raises(ValueError, match="max_steps must be a whole number from 1, not 0"):
        tiny_run(env=Endless, max_steps=0)


class Odd(gymnasium.Env):
    """One step, with a result of one's choice."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)

    def __init__(self, *result):
        self.result = result

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), *self.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((1e300, True, False, {}), r"gave the reward 1e\+300, which is not finite in float32 at step 1"),
        ((float("nan"), True, False, {}), "gave the reward nan, which is not finite"),
        ((None, True, False, {}), "gave the reward None in place of a number"),
        ((1.0, True, {}), "gave 4 values in place of observation, reward, terminated, truncated and info"),
    ],
)
def test_results_of_steps_that_are_none(result, message):
    with pytest.raises(EnvironmentFailure, match=message):
        evaluate(Counting(), Odd(*result), episodes=1)
