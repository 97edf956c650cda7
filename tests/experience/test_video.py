"""Films of several agents side by side, and films during training."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import agentlib
from agentlib.experience import video
from agentlib.runs.folder import RunFolder
from agentlib.runs.train import train
from tests.tiny import tiny_run

image = pytest.importorskip("PIL.Image")


class Painted(gymnasium.Env):
    """Pays the action, lasts `length` steps, and is of one colour, which grows brighter by 10 a step."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(4)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, length: int = 3, height: int = 6, render_mode: str | None = "rgb_array") -> None:
        self.length, self.height, self.render_mode = length, height, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), float(action), self.steps >= self.length, False, {}

    def render(self):
        return np.full((self.height, 12, 3), 10 * self.steps, np.uint8)


class Constant:
    """Always takes one action."""

    def __init__(self, action: int) -> None:
        self.action = action

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.int64(self.action), None


def frames_of(path: Path) -> list[np.ndarray]:
    with image.open(path) as film:
        found = []
        for index in range(film.n_frames):
            film.seek(index)
            found.append(np.asarray(film.convert("RGB")))
        return found


def test_a_grid_shows_each_agent_at_its_place_and_one_that_has_ended_stands_still(tmp_path):
    worlds = [partial(Painted, 2), partial(Painted, 4, 3), partial(Painted, 3)]
    out = tmp_path / "films" / "grid.gif"
    returns = video.record_grid([Constant(1), Constant(2), Constant(3)], worlds, out, width=12)
    assert returns.tolist() == [2, 8, 9]
    shown = frames_of(out)
    assert [frame.shape for frame in shown] == [(6 + 4 + 6, 12 + 4 + 12, 3)] * 4
    for step, frame in enumerate(shown, start=1):
        assert np.unique(frame[:6, :12]).tolist() == [10 * min(step, 2)]
        assert np.unique(frame[1:4, 16:]).tolist() == [10 * step]  # lower, and in the middle of its place
        assert np.unique(frame[10:, :12]).tolist() == [10 * min(step, 3)]
        assert np.unique(frame[10:, 16:]).tolist() == [160]


def test_a_grid_needs_an_environment_for_each_agent(tmp_path):
    with pytest.raises(ValueError, match="one environment for each agent, not 1 for 2"):
        video.record_grid([Constant(0)] * 2, [Painted], tmp_path / "grid.gif")
    with pytest.raises(ValueError, match="one environment for each agent, not 0 for 0"):
        video.record_grid([], [], tmp_path / "grid.gif")


def test_a_run_films_the_untrained_agent_and_then_every_so_many_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    out = tmp_path / "run"
    options: Any = {"env": Painted, "steps": 60, "out": out, "video_every": 25}
    agent = tiny_run(**options)
    films = sorted((out / "videos").iterdir())
    steps = [int(film.stem.removeprefix("step_")) for film in films]
    assert steps[0] == 0
    assert [step // 25 for step in steps] == [0, 1, 2]
    assert {film.suffix for film in films} == {".gif"}
    assert [frame[0, 0, 0] for frame in frames_of(films[0])] == [0, 10, 20, 30]
    assert 'src="data:image/gif;base64,' in (out / "report.html").read_text(encoding="utf-8")
    assert RunFolder(out).record()["video_every"] == 25
    again = tiny_run(**options | {"out": tmp_path / "other", "video_every": None})
    for ours, theirs in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())  # filming changes nothing
    longer = train(agent=agent, steps=30, progress=False)  # goes on without a folder, and so without films
    assert isinstance(longer, agentlib.Agent)


def test_a_run_that_is_resumed_goes_on_filming(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    out = tmp_path / "run"
    tiny_run(env=Painted, steps=40, out=out, video_every=25, callback=lambda clock, now: clock.steps < 30)
    before = {film.name for film in (out / "videos").iterdir()}
    train(resume=out, env=Painted, steps=80, progress=False)
    after = {film.name for film in (out / "videos").iterdir()}
    assert len(before) == 2
    assert before < after
    assert sorted(int(name[5:17]) // 25 for name in after) == [0, 1, 2, 3]
    assert json.loads((out / "config.json").read_text())["video_every"] == 25


def test_what_cannot_be_filmed_is_said_before_training(tmp_path, monkeypatch):
    out = tmp_path / "run"
    blind = partial(Painted, render_mode=None)
    monkeypatch.setattr(Painted, "render", lambda self: None if self.render_mode is None else np.zeros((4, 4, 3)))
    for options, message in [
        ({"env": blind, "out": out}, r"does not render pictures \('rgb_array'\)"),
        ({"env": Painted}, r"video_every needs a folder for its films: give out=\.\.\."),
        ({"env": Painted(), "out": out}, "video_every needs env= as an id or a factory"),
        ({"env": Painted, "out": out, "video_every": 0}, "video_every must be a whole number from 1, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny_run(steps=40, **{"video_every": 10} | options)
    with pytest.raises(ValueError, match="no episodes to film: leave out video_every"):
        train("classifier", data="digits", steps=1, video_every=1, out=out, progress=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'agentlib-rl\[video\]'"):
        tiny_run(env=Painted, steps=40, out=out, video_every=10)
    assert not out.exists()  # so that the same call goes after the mend
