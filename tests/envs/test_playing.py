"""A person at the keyboard, played by a script: what keys do, what is seen, and what happens at the end."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agentlib.envs.experts import cartpole_expert
from agentlib.envs.playing import ExpertLeft, Person, Terminal, Window, blocks, keys_for, render_mode_for, seen
from agentlib.envs.vector import Environments
from agentlib.experience import Aggregate, record_episodes
from agentlib.experience.asking import TakeoverGate
from tests.experience.test_aggregate import Zeros


class Script:
    """A terminal whose lines are known beforehand."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.shown = list(lines), [""]
        self.terminal = Terminal(read=self.read, write=self.shown.append)

    def read(self) -> str:
        return self.lines.pop(0) + "\n" if self.lines else ""


def a_person(*lines, keys=None):
    script = Script(*lines)
    return Person(keys, script.terminal), script


class Keyed(gymnasium.Env):
    """An environment that says what keys do, in the ways that there are; it counts its steps."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, keys: Any) -> None:
        self.keys = keys

    def get_keys_to_action(self):
        return self.keys


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"a": 0, ("d", "w"): 1, (ord("x"), ord(" ")): 2, (): 3}, {"a": 0, "dw": 1, " x": 2, "": 3}),
        ({276: 0, (275,): 2, 0x40000052: 1}, {"←": 0, "→": 2, "↑": 1}),
        ({None: 1}, {"": 1}),
    ],
)
def test_maps_of_environments_are_read(keys, expected):
    digits = {"0": 0, "1": 1, "2": 2, "3": 3}
    assert keys_for(Keyed(keys)) == digits | expected
    assert keys_for(gymnasium.make("CartPole-v1"), keys={"q": 1}) == {"q": 1}


def test_environments_of_gymnasium_have_keys():
    assert keys_for(gymnasium.make("MountainCar-v0"))["→"] == 2
    assert keys_for(gymnasium.make("CartPole-v1")) == {"0": 0, "1": 1}
    continuous = gymnasium.make("Pendulum-v1")
    assert keys_for(continuous, {"a": [1.0]}) == {"a": [1.0]}
    with pytest.raises(ValueError, match="no keys are known for Box"):
        keys_for(continuous)
    with pytest.raises(ValueError, match=r"key 'a' does 7, which is not in Discrete\(2\)"):
        keys_for(gymnasium.make("CartPole-v1"), {"a": 7})


def test_a_person_types_keys_and_enter_repeats():
    person, script = a_person("1", "", "0", "\x1b[C", "x", "1", keys={"0": 0, "1": 1, "→": 1})
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    assert [person(env, observation) for _ in range(5)] == [1, 1, 0, 1, 1]
    assert "'x' does nothing here" in "".join(script.shown)
    assert f"{observation[0]:.3f}" in script.shown[1]  # CartPole that renders nothing is seen in numbers
    with pytest.raises(ExpertLeft):
        person(env, observation)


def test_the_first_enter_does_what_the_map_says_or_the_first_key():
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    assert a_person("", keys={"b": 1, "a": 0})[0](env, observation) == 1
    assert a_person("", keys={"b": 1, "": 0})[0](env, observation) == 0
    with pytest.raises(ExpertLeft):
        a_person("q")[0](env, observation)


def test_what_is_seen():
    lake = gymnasium.make("FrozenLake-v1", render_mode="ansi")
    observation, _ = lake.reset(seed=0)
    assert "FHFH" in seen(lake, observation)
    rgb = gymnasium.make("agentlib/Catch-v0", render_mode="rgb_array")
    frame, _ = rgb.reset(seed=0)
    assert "\u2580" in seen(rgb, frame)
    assert render_mode_for("FrozenLake-v1", {}) == "ansi"
    assert render_mode_for("agentlib/Catch-v0", {}) == "rgb_array"
    assert render_mode_for("agentlib/Identity-v0", {}) is None


def test_a_picture_in_half_blocks():
    frame = np.zeros((4, 3, 3), np.uint8)
    frame[0], frame[3, 2] = (255, 0, 0), (0, 0, 7)
    lines = blocks(frame).split("\n")
    assert len(lines) == 2
    assert lines[0].count("\x1b[38;2;255;0;0m\x1b[48;2;0;0;0m\u2580") == 3
    assert lines[1].endswith("\x1b[48;2;0;0;7m\u2580\x1b[0m")
    assert len(blocks(np.zeros((400, 600, 3), np.uint8)).split("\n")) <= 24


def test_what_a_person_plays_is_recorded():
    person, _ = a_person(*"0101", keys={"0": 0, "1": 1})
    found = record_episodes(person, "CartPole-v1", 3, seed=5)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=5)
    assert found[0].actions.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(found[0].observations[0], observation)
    assert (len(found), found[0].terminated) == (1, False)  # the person left: what was played is kept


def test_a_person_labels_for_dagger_and_leaves():
    person, script = a_person("1", "1", "0")
    source = Aggregate(gymnasium.make("CartPole-v1"), Zeros(), person, round_steps=10, batch_size=2)
    source.collect()
    assert (source.labels, source.left) == (3, True)
    assert source.demonstrations.column("label").tolist() == [1, 1, 0]
    assert source.demonstrations.column("action").tolist() == [0, 0, 0]
    assert len(script.shown) == 5 + 1  # four questions, and a new line at the end


def test_a_person_takes_over():
    """Enter lets the learner go on; a key acts, is the label, and is asked for only once."""
    env = gymnasium.make("CartPole-v1")
    envs = Environments(env)
    person, script = a_person("", "1", "", "1")
    source = Aggregate(envs, Zeros(), person, gate=TakeoverGate(person, envs), round_steps=10, batch_size=2)
    source.collect()
    (episode,) = source.demonstrations
    assert episode.actions.tolist() == [0, 1, 0, 1]
    assert episode.labelled.tolist() == episode.interventions.tolist() == [False, True, False, True]
    assert source.labels == 2
    assert "the learner would do 0" in script.shown[1]


def headless(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import warnings

    with warnings.catch_warnings(action="ignore"):  # pygame imports deprecated modules
        return Window(rate=1000)


def test_a_window_takes_keys_while_they_are_held_down(monkeypatch):
    window = headless(monkeypatch)
    pygame = window.pygame
    env = gymnasium.make("agentlib/Catch-v0", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    person = Person({"a": 0, "": 1, "→": 2}, window)
    assert person(env, observation) == 1
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT))
    assert [person(env, observation) for _ in range(2)] == [2, 2]
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_RIGHT))
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_a))
    assert person(env, observation) == 0
    assert window.screen.get_size() == (288, 288)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    with pytest.raises(ExpertLeft):
        person(env, observation)
    assert window.screen is None


def test_an_unknown_key_in_a_window_is_no_question(monkeypatch):
    """A window does not wait: a key without a meaning is no key."""
    window = headless(monkeypatch)
    env = gymnasium.make("agentlib/Catch-v0", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    person = Person({"a": 0, "": 1}, window)
    person(env, observation)
    window.pygame.event.post(window.pygame.event.Event(window.pygame.KEYDOWN, key=window.pygame.K_z))
    assert person(env, observation) == 1
    window.close()
    with pytest.raises(ValueError, match="rgb_array"):
        window.ask(gymnasium.make("CartPole-v1"), observation, "")


def test_a_scripted_person_plays_whole_episodes():
    """The expert's keys, typed: what comes out is what the expert would record."""

    class Typist:
        waits = True

        def ask(self, env, observation, question):
            return str(int(cartpole_expert(observation)))

    found = record_episodes(Person(None, Typist()), "CartPole-v1", 1, seed=0)
    expected = record_episodes(cartpole_expert, "CartPole-v1", 1, seed=0)
    np.testing.assert_array_equal(found[0].actions, expected[0].actions)
    np.testing.assert_array_equal(found[0].observations, expected[0].observations)
