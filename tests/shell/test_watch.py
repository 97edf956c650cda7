"""Watching agents: in a window, in a film where there is no screen, and several in one film."""

from pathlib import Path
from typing import Any

import pytest

import agentlib
from agentlib.policies.acting import RandomActor
from agentlib.shell.main import main

image = pytest.importorskip("PIL.Image")
pytest.importorskip("pygame")
CARTPOLE = ["--env", "CartPole-v1", "--max-steps", "9"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder_without_a_screen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def output(capsys, *arguments, code=0):
    assert main(list(arguments)) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err


def test_without_a_screen_a_film_is_written(capsys):
    expected = "there is no screen: the film is in watch.gif\n1 episode, 9 steps, return 9\n"
    assert output(capsys, "watch", "scripted", *CARTPOLE) == expected
    with image.open("watch.gif") as film:
        assert film.size == (600, 400)
        assert film.n_frames > 5
    assert "the film is in watch-2.gif\n" in output(capsys, "watch", "random", *CARTPOLE)
    assert "the film is in watch-3.gif\n" in output(capsys, "watch", "random", *CARTPOLE)
    assert "the film is in other.gif\n" in output(capsys, "watch", "scripted", *CARTPOLE, "--out", "other.gif")
    assert "a video is written as .gif or .mp4" in output(capsys, "watch", "random", *CARTPOLE, "--out", "x", code=1)


def test_with_a_screen_a_window_is_opened(capsys, monkeypatch):
    """SDL draws into memory, as a window that nobody sees."""
    import pygame

    monkeypatch.setenv("DISPLAY", ":0")
    sizes: list[tuple[int, int]] = []
    display: Any = pygame.display
    monkeypatch.setattr(pygame.display, "flip", lambda: sizes.append(display.get_surface().get_size()))
    assert output(capsys, "watch", "scripted", *CARTPOLE) == "1 episode, 9 steps, return 9\n"
    assert sizes == [(600, 400)] * 10
    assert not list(Path().iterdir())


def test_an_environment_without_a_window_is_filmed(capsys, monkeypatch):
    from gymnasium.envs.classic_control import CartPoleEnv

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(CartPoleEnv, "metadata", {"render_modes": ["rgb_array"], "render_fps": 50})
    expected = "CartPole-v1 has no window of its own: the film is in watch.gif\n"
    assert output(capsys, "watch", "scripted", *CARTPOLE).startswith(expected)


def test_several_actors_are_filmed_side_by_side(capsys):
    text = output(capsys, "record", "scripted", "random", *CARTPOLE, "--width", "60", "--seed", "3")
    world = agentlib.envs.making.make_env("CartPole-v1")
    random = RandomActor(world.observation_space, world.action_space, 3)
    score = agentlib.evaluate(random, world, episodes=1, seed=3, max_steps=9)
    assert text == f"grid.gif: 2 agents, returns: scripted 9, random {score.mean:.4g}\n"
    with image.open("grid.gif") as film:
        assert film.size == (124, 40)
    for flags in (["--episodes", "2"], ["--noise", "0.5"]):
        message = output(capsys, "record", "scripted", "random", *CARTPOLE, *flags, code=2)
        assert "several actors are filmed for one episode each" in message
    message = output(capsys, "record", "scripted", "random", *CARTPOLE, "--out", "a.safetensors", code=1)
    assert "a video is written as .gif or .mp4, not as 'a.safetensors'" in message
