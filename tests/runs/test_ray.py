"""Actors by Ray: whole runs, and what becomes of the host's Ray. Starting Ray takes seconds: one for most tests."""

import os
import time
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
import pytest

import agentlib
from agentlib.envs.checks import EnvironmentFailure
from agentlib.experience import ray_fleet
from tests.host import changes, host_state

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's sockets and files
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
SETTINGS: dict[str, Any] = {
    "steps": 2_048,
    "learning_starts": 256,
    "train_freq": 16,
    "gradient_steps": 1,
    "seed": 3,
    "compile": False,
    "progress": False,
}


@pytest.fixture(scope="module")
def cluster():
    """The host's own Ray."""
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield
    ray.shutdown()


class Fatal(gymnasium.Wrapper):
    """Ends its process in the 400th step of all, once; `marker` is the file that says that it did."""

    def __init__(self, marker):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.marker, self.steps = marker, 0

    def step(self, action):
        self.steps += 1
        if self.steps == 400:
            with suppress(FileExistsError), open(self.marker, "x"):  # the first of the actors that come here
                os._exit(1)
        return self.env.step(action)


class Failing(gymnasium.Wrapper):
    def step(self, action):
        raise ArithmeticError("the world has ended")


def failing():
    return Failing(gymnasium.make("CartPole-v1"))


def trained(**given):
    return agentlib.train("dqn", **SETTINGS | {"env": "CartPole-v1", "actors": 2} | given)


def weights(agent):
    return {name: part.numpy().tobytes() for name, part in agent.policy.state_dict().items()}


def comes(is_so):
    """Whether something becomes true: Ray tells what is free a little later."""
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.5)
    return is_so()


def test_two_runs_are_equal_and_a_death_changes_nothing(cluster, tmp_path):
    marker, other_marker = tmp_path / "died", tmp_path / "will not die"
    other_marker.touch()
    one = trained(env=lambda: Fatal(str(other_marker)))

    other = trained(env=lambda: Fatal(str(marker)))

    assert marker.exists()
    assert weights(one) == weights(other)
    assert ray.is_initialized(), "who has started Ray stops it"
    assert comes(lambda: ray.available_resources().get("CPU") == 2), "actors are gone"


def test_a_run_that_was_stopped_goes_on_bit_for_bit(cluster, tmp_path):
    whole = trained()

    class Stop(Exception):
        pass

    def stop(clock, metrics):
        if clock.steps > 1_300:
            raise Stop

    with pytest.raises(Stop):
        trained(out=tmp_path / "run", callback=stop)
    resumed = agentlib.train(resume=tmp_path / "run", progress=False)

    assert weights(whole) == weights(resumed)


def on_policy(**given):
    settings: dict[str, Any] = {"steps": 2_048, "n_steps": 256, "n_envs": 2, "seed": 3, "env": "CartPole-v1"}
    return agentlib.train("ppo", **settings | {"compile": False, "progress": False} | given)


def test_rollouts_equal_those_without_ray_though_an_actor_dies(cluster, tmp_path):
    marker, will_not_die = tmp_path / "died", tmp_path / "will not die"
    will_not_die.touch()

    one, other = on_policy(env=lambda: Fatal(str(will_not_die))), on_policy(env=lambda: Fatal(str(marker)), actors=2)

    assert marker.exists()
    assert weights(one) == weights(other)


def test_rollouts_go_on_bit_for_bit(cluster, tmp_path):
    whole = on_policy(actors=2)
    on_policy(actors=2, out=tmp_path / "run", callback=lambda clock, metrics: clock.steps < 1_200)

    resumed = agentlib.train(resume=tmp_path / "run", progress=False)

    assert weights(whole) == weights(resumed)


def test_an_error_of_an_environment_ends_the_run_with_its_traceback(cluster):
    with pytest.raises(EnvironmentFailure, match="the world has ended") as caught:
        trained(env=failing)

    assert "in step" in caught.value.__notes__[0]


def test_too_few_processors_are_refused(cluster):
    with pytest.raises(ValueError, match="3 actors need 3 CPUs, and Ray has 2"):
        trained(actors=3)


@pytest.mark.parametrize("blocks", [100, 1_000])
def test_the_object_store_does_not_fill(cluster, blocks):
    fleet = ray_fleet.RayFleet(1)
    fleet.remote, fleet.parts = ray.remote(Echo), None
    fleet.handles = [fleet.remote.remote(None, 0)]
    before = ray.available_resources()["object_store_memory"]
    for _ in range(blocks):
        fleet.result(fleet.call(0, "echo", fleet.put(np.zeros(1 << 18))))
    free = lambda: ray.available_resources()["object_store_memory"]  # noqa: E731
    assert comes(lambda: free() > before - (1 << 24)), f"{2 * blocks} MB went through it"
    fleet.close()


class Echo:
    def __init__(self, parts, index):
        pass

    def echo(self, value):
        return value


def test_a_ray_that_was_started_here_is_stopped_and_the_host_is_as_before():
    if ray.is_initialized():
        ray.shutdown()
    before = host_state()

    trained()

    assert not ray.is_initialized()
    assert changes(before, host_state()) == []
