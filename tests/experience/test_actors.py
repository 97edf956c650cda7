"""Actors, whose environments are stepped elsewhere; here all in one process, and in tests/runs/test_ray.py by Ray."""

import os
from functools import cache

import gymnasium
import numpy as np
import pytest
import torch

from agentlib.backbones import MLP
from agentlib.core.recipe import Problem
from agentlib.core.source import Diverged
from agentlib.engine import run
from agentlib.envs.checks import EnvironmentFailure
from agentlib.experience.actor_worker import Rows, Worker
from agentlib.experience.actors import DEATHS, LENGTH, ActorLost
from agentlib.experience.ray_fleet import _host_kept
from agentlib.families import control
from agentlib.policies import CategoricalPolicy
from agentlib.policies.acting import Among, decide
from agentlib.runs.plan import job_of
from tests.experience.masked import Masked

STEPS = 4 * LENGTH * 2


class Here:
    """A fleet in this process. `deaths` are numbers of calls of `block` whose results are lost."""

    deaths: frozenset[int] = frozenset()
    made: "list[Here]" = []  # noqa: RUF012

    def __init__(self, count):
        self.count, self.asked, self.closed, self.replaced = count, [], False, []
        self.made.append(self)

    def start(self, parts):
        self.parts = parts
        self.workers = [Worker(parts, index) for index in range(self.count)]

    def put(self, value):
        return {name: part.copy() for name, part in value.items()}

    def call(self, index, method, *arguments):
        number = len(self.asked)
        if method == "block":
            self.asked.append((index, arguments))
        reply = getattr(self.workers[index], method)(*arguments)
        return None if method == "block" and number in self.deaths else reply

    def result(self, ticket):
        if ticket is None:
            raise ActorLost("it is gone")
        return ticket

    def replace(self, index):
        self.replaced.append(index)
        self.workers[index] = Worker(self.parts, index)

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(control, "RayFleet", Here)
    monkeypatch.setattr(Here, "made", [])


def job(what="dqn", env="CartPole-v1", actors=2, n_envs=2, steps=STEPS, **settings):
    settings = {"learning_starts": 100, "train_freq": 16, "gradient_steps": 1, "buffer_size": 5_000} | settings
    return job_of(what, Problem(env=env, n_envs=n_envs, actors=actors, steps=steps, seed=3), **settings)


def trained(made, updates=10**6):
    for _ in run(made.learner, made.source, updates, compile="eager"):
        if made.source.finished:
            break
    return made


@cache
def whole_run():
    return trained(job())


def columns(made):
    held = getattr(made.source, "buffer", made.source)
    return {name: column for name, column in held.named_buffers() if name != "ticks"}


def require_equal(one, other):
    first, second = columns(one), columns(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert one.source.clock == other.source.clock
    assert one.source.measures() == other.source.measures()
    weights = [
        {name: part for name, part in made.learner.state_dict().items() if isinstance(part, torch.Tensor)}
        for made in (one, other)
    ]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []


@pytest.mark.parametrize(("what", "env"), [("dqn", "CartPole-v1"), ("td3", "Pendulum-v1")])
def test_random_steps_are_those_of_a_vector_environment(what, env):
    settings = {"learning_starts": STEPS - 1}

    require_equal(trained(job(what, env, **settings)), trained(job(what, env, actors=None, **settings)))


def test_the_number_of_actors_does_not_matter():
    require_equal(trained(job(actors=1)), whole_run())
    assert whole_run().source.steps == STEPS


class InParts(gymnasium.ObservationWrapper):
    """Observations that are acted on by torch."""

    def __init__(self, name):
        super().__init__(gymnasium.make(name))
        self.observation_space = gymnasium.spaces.Dict(all=self.env.observation_space)

    def observation(self, observation):
        return {"all": observation}


@pytest.mark.parametrize(("what", "env"), [("discrete_sac", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_nor_does_it_where_torch_draws(what, env):
    made = [
        job(what, lambda: InParts(env), actors, learning_starts=64, train_freq=256, net_arch=(8,))
        for actors in (None, 1, 2)
    ]
    none, one, two = (columns(trained(each, 2))["action"] for each in made)
    torch.testing.assert_close(one, two, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(one[:, :128], none[:, :128], rtol=0.0, atol=1e-4)  # which the first weights chose


def test_each_block_is_acted_one_version_behind():
    made = job()
    source, seen = made.source, {}
    for _ in run(made.learner, source, 10**6, compile="eager"):
        learned_from = -(-source.steps // (2 * LENGTH))  # blocks, the last one perhaps in part
        seen[learned_from] = {name: part.numpy().copy() for name, part in made.learner.policy.state_dict().items()}
        if source.finished:
            break

    asked = Here.made[0].asked[::2]  # of the first actor
    assert [(version, start) for _, (_, version, start, *_) in asked] == [
        (max(block - 1, 0), 2 * LENGTH * block) for block in range(4)
    ]
    for _, (weights, version, *_) in asked[2:]:
        assert [name for name in weights if not np.array_equal(weights[name], seen[version][name])] == []
    assert any((seen[1][name] != seen[2][name]).any() for name in seen[1])


def test_an_actor_that_dies_is_replaced_and_nothing_counts_twice(monkeypatch):
    undisturbed = whole_run()
    monkeypatch.setattr(Here, "deaths", frozenset({0, 4, 5}))

    disturbed = trained(job())

    assert Here.made[-1].replaced == [0, 1, 1]
    require_equal(undisturbed, disturbed)


def test_a_block_that_always_kills_ends_the_run(monkeypatch):
    monkeypatch.setattr(Here, "deaths", frozenset(range(2, 100)))

    with pytest.raises(EnvironmentFailure, match=f"actor 0 died {DEATHS} times in one block: it is gone"):
        trained(job())


class Failing(gymnasium.Wrapper):
    def step(self, action):
        raise ArithmeticError("the world has ended")


class Open(gymnasium.Wrapper):
    def close(self):
        raise ArithmeticError("it stays open")


def test_actors_end_though_an_environment_does_not_close():
    made = job(env=lambda: Open(gymnasium.make("CartPole-v1")))
    with pytest.raises(ArithmeticError):
        made.source.close()
    assert Here.made[0].closed


class Restless(gymnasium.Wrapper):
    """Its episodes cannot be played again."""

    made = 0

    def __init__(self, env):
        super().__init__(env)
        type(self).made += 1
        self.shift = type(self).made

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) + self.shift, *rest


def test_the_error_of_an_environment_comes_with_its_traceback():
    with pytest.raises(EnvironmentFailure, match="the world has ended") as caught:
        trained(job(env=lambda: Failing(gymnasium.make("CartPole-v1"))))

    assert 'raise ArithmeticError("the world has ended")' in caught.value.__notes__[0]


def test_an_episode_that_cannot_be_played_again_is_left(monkeypatch):
    monkeypatch.setattr(Here, "deaths", frozenset({3}))  # of actor 1, in the second block
    made = job(env=lambda: Restless(gymnasium.make("CartPole-v1")))

    with pytest.warns(UserWarning, match="could not be brought back"):
        trained(made)

    buffer = made.source.buffer
    assert buffer._count == [STEPS // 2 + 1, STEPS // 2], "one of its steps only begins another episode"
    assert bool(buffer.done[1, LENGTH - 1])


def test_going_on_from_a_checkpoint_changes_nothing():
    whole, first, second = whole_run(), trained(job(), 60), job()
    assert 0 < first.source.collector.envs.at < LENGTH

    second.learner.load_state_dict(first.learner.state_dict())
    second.source.load_state_dict(first.source.state_dict())

    require_equal(whole, trained(second))


def test_a_run_that_is_made_longer_goes_on_in_its_episodes():
    """Its block is made again by the rate of random actions that it had, which depends on the run's length."""
    settings = {"exploration_fraction": 1.0}
    first, second = trained(job(**settings), 60), job(steps=3 * STEPS, **settings)

    second.learner.load_state_dict(first.learner.state_dict())
    second.source.load_state_dict(first.source.state_dict())

    observed = [made.source.collector.envs.observation for made in (first, second)]
    assert np.array_equal(*observed)


def test_each_actor_takes_its_own_of_the_same_random_numbers():
    def drawn(rows):
        numbers = Rows(np.random.default_rng(0), 4, rows)
        count = rows.stop - rows.start
        return numbers.standard_normal((count, 2), np.float32), numbers.gumbel(size=(count, 3))

    for parts in zip(drawn(slice(0, 1)), drawn(slice(1, 4)), drawn(slice(0, 4)), strict=True):
        assert np.array_equal(np.concatenate(parts[:2]), parts[2])


def test_torch_draws_for_all_and_each_takes_its_own():
    policy, space = CategoricalPolicy(MLP(3, hidden=(8,)), 5), gymnasium.spaces.Box(-1, 1, (3,))
    observed = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    whole = decide(policy, space, observed, seed=7)[0]
    rows = [slice(0, 8), slice(8, 64)]
    parts = [decide(policy, space, observed[one], seed=7, among=Among(one, 64))[0] for one in rows]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(decide(policy, space, observed[rows[1]], seed=7)[0], whole[rows[1]])


# Rollouts, which are acted by the present policy


def on_policy(what="ppo", env="CartPole-v1", actors=2, n_envs=2, backbone="auto", **settings):
    settings = {"n_steps": 64, "learning_rate": 3e-3} | settings
    if what == "ppo":
        settings = {"n_epochs": 2, "batch_size": 32, "normalize": True, "normalize_reward": True} | settings
    problem = Problem(env=env, n_envs=n_envs, actors=actors, steps=8 * 64 * 2, seed=3, backbone=backbone)
    return job_of(what, problem, **settings)


@cache
def on_policy_run(what="ppo"):
    return trained(on_policy(what))


@pytest.mark.parametrize("what", ["ppo", "a2c"])
def test_rollouts_of_actors_are_those_of_one_process(what):
    here = trained(on_policy(what, actors=None))

    require_equal(here, on_policy_run(what))
    assert here.source.collector.steps == 8 * 64 * 2
    assert here.source.measures()["time/episodes"] > 8


@pytest.mark.parametrize("settings", [{}, {"use_sde": True, "sde_sample_freq": 16}])
def test_rollouts_of_real_valued_actions_are_equal_up_to_the_rounding_of_rows(settings):
    made = [trained(on_policy(env="Pendulum-v1", actors=actors, **settings), 4) for actors in (None, 1, 2)]

    require_equal(*made[:2])
    one, two = (columns(each) for each in made[1:])
    torch.testing.assert_close(one["action"], two["action"], rtol=0.0, atol=1e-5)


class Pictures(gymnasium.ObservationWrapper):
    """CartPole as pictures, of which numpy takes one at a time and torch takes several."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def observation(self, observation):
        return np.resize((128 + 100 * np.tanh(observation)).astype(np.uint8), (1, 36, 36))


def test_rollouts_of_pictures_are_equal_though_each_actor_sees_one():
    settings = {"n_steps": 32, "n_epochs": 1, "normalize": False, "backbone": "nature_cnn"}
    here, two = (columns(trained(on_policy(env=Pictures, actors=actors, **settings), 2)) for actors in (None, 2))

    assert len(here["action"].unique()) == 2
    assert torch.equal(here["action"], two["action"])


def masked():
    script = [(5, "terminated"), (7, "truncated"), (6, "both"), (9, "truncated")]
    return Masked(0, script, gymnasium.spaces.Discrete(4))


def test_rollouts_with_masks_are_equal():
    require_equal(*[trained(on_policy(env=masked, actors=actors)) for actors in (None, 2)])


def test_a_rollout_is_acted_by_the_policy_that_learns():
    made = on_policy()
    source, seen = made.source, list[dict[str, np.ndarray]]()
    real = source.collect

    def collect():
        real()
        seen.append({name: part.numpy().copy() for name, part in made.learner.policy.state_dict().items()})

    source.collect = collect
    trained(made)

    asked = Here.made[0].asked[::2]
    assert [(version, start) for _, (_, version, start, *_) in asked] == [(n, 128 * n) for n in range(8)]
    for (_, (weights, *_)), present in zip(asked, seen, strict=True):
        assert [name for name in weights if not np.array_equal(weights[name], present[name])] == []
    assert any((seen[1][name] != seen[2][name]).any() for name in seen[1])


def test_a_rollout_in_which_actors_die_is_made_again(monkeypatch):
    undisturbed = on_policy_run()
    monkeypatch.setattr(Here, "deaths", frozenset({0, 5, 6, 7}))

    disturbed = trained(on_policy())

    assert Here.made[-1].replaced == [0, 0, 0, 1]
    require_equal(undisturbed, disturbed)


@pytest.mark.parametrize("updates", [8, 11])
def test_going_on_between_rollouts_and_within_one_changes_nothing(updates):
    whole, first, second = on_policy_run(), trained(on_policy(), updates), on_policy()

    second.learner.load_state_dict(first.learner.state_dict())
    second.source.load_state_dict(first.source.state_dict())

    require_equal(whole, trained(second))


def test_going_on_where_episodes_cannot_be_played_again_loses_no_step():
    first, second = (on_policy(env=lambda: Restless(gymnasium.make("CartPole-v1"))) for _ in range(2))
    trained(first, 11)
    second.learner.load_state_dict(first.learner.state_dict())
    with pytest.warns(UserWarning, match="could not be brought back"):
        second.source.load_state_dict(first.source.state_dict())

    trained(second)

    assert second.source.made.valid.all()
    assert second.source.clock.steps == 8 * 64 * 2


def test_an_action_that_is_not_finite_ends_the_run():
    made = on_policy(env="Pendulum-v1")
    with torch.no_grad():
        next(made.learner.policy.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="the policy chose the action") as caught:
        trained(made)
    assert "of an actor" in caught.value.__notes__[0]


def test_of_the_variables_only_those_of_ray_are_put_back(monkeypatch):
    monkeypatch.setenv("RAY_OF_THE_HOST", "as before")
    monkeypatch.delenv("OF_ANOTHER_THREAD", raising=False)
    with _host_kept():
        os.environ.update(RAY_OF_THE_HOST="changed", RAY_ADDED="1", OF_ANOTHER_THREAD="1")
    found = {name: os.environ.get(name) for name in ("RAY_OF_THE_HOST", "RAY_ADDED", "OF_ANOTHER_THREAD")}
    monkeypatch.delenv("OF_ANOTHER_THREAD")
    assert found == {"RAY_OF_THE_HOST": "as before", "RAY_ADDED": None, "OF_ANOTHER_THREAD": "1"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"3 environments cannot be shared out.* multiple of actors=2"):
        job(n_envs=3)
    with pytest.raises(ValueError, match="give env= as an id"):
        job(env=gymnasium.make("CartPole-v1"), n_envs=None)
    with pytest.raises(ValueError, match="a policy with memory steps its environments itself: leave out actors="):
        job_of("ppo", Problem(env="CartPole-v1", actors=2, steps=100, backbone="lstm"), n_steps=32, batch_size=32)
    for name in ("recurrent_dqn", "bc"):
        with pytest.raises(ValueError, match=f"^{name} .*leave out actors="):
            job_of(name, Problem(env="CartPole-v1", demos=None if name != "bc" else "x", actors=2, steps=100))
    assert [fleet for fleet in Here.made if not fleet.closed] == []
