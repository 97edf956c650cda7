"""Videos of an agent, or of several side by side: the episodes that `evaluate` plays, as .gif or .mp4."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agentlib.envs.making import limited, make_env
from agentlib.experience.evaluation import (
    Evaluation,
    Predictor,
    check_spaces,
    episode_seed,
    evaluate,
    modes_kept,
    playing,
)

USUAL_RATE = 30
"""Frames a second where the environment does not say."""
TILE = 320
"""Width of one agent's picture in a grid, in pixels."""
GAP = 4
"""Pixels between the pictures of a grid."""
Frame = NDArray[np.uint8]


def record(
    agent: Predictor,
    env: str | Callable[..., gymnasium.Env[Any, Any]],
    out: str | Path,
    *,
    env_kwargs: dict[str, Any] | None = None,
    episodes: int = 1,
    seed: int = 0,
    max_steps: int | None = None,
) -> Evaluation:
    """Plays episodes as `evaluate` does, records them, and returns what `evaluate` returns.

    Args:
        agent: anything with `predict`.
        env: an environment id, or a function that makes an environment whose `render_mode` is "rgb_array".
        out: the video, .gif or .mp4.
        env_kwargs: for the environment's constructor.
        episodes: how many.
        seed: of the episodes.
        max_steps: of an episode, as `evaluate` has it.

    Raises:
        ImportError: a package for drawing or writing videos is absent; the message names the extra.
        ValueError: another suffix, or an environment that does not render.
    """
    with _drawing(), ExitStack() as stack:
        world = _world(env, env_kwargs, stack)
        with _writer(Path(out), world) as write:
            return evaluate(agent, _Filmed(world, write), episodes=episodes, seed=seed, max_steps=max_steps)


def record_grid(
    agents: Sequence[Predictor],
    envs: Sequence[str | Callable[..., gymnasium.Env[Any, Any]]],
    out: str | Path,
    *,
    env_kwargs: Sequence[dict[str, Any]] | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    width: int = TILE,
) -> NDArray[np.float64]:
    """Plays one episode with each of several agents, films them side by side, and returns their returns, (agents,).

    The episodes run together, a step a frame; an agent that has ended stands still on its last picture.

    Args:
        agents: each anything with `predict`; they may be the same one.
        envs: the environment of each, as `record` takes it.
        out: the video, .gif or .mp4.
        env_kwargs: for the constructor of each.
        seed: of the episode, the same for all.
        max_steps: of an episode, as `evaluate` has it.
        width: of each picture, in pixels; its height follows.

    Raises:
        ImportError, ValueError: as `record` does; or there is no agent, or not one environment for each.
    """
    if not agents or len(agents) != len(envs):
        raise ValueError(f"a grid has one environment for each agent, not {len(envs)} for {len(agents)}")
    kwargs = env_kwargs if env_kwargs is not None else [{}] * len(envs)
    frames: list[Frame] = [np.zeros((1, 1, 3), np.uint8)] * len(agents)

    def keep(index: int, frame: Frame) -> None:
        frames[index] = _scaled(frame, width)

    with _drawing(), ExitStack() as stack:
        worlds = [_world(env, each, stack) for env, each in zip(envs, kwargs, strict=True)]
        write = stack.enter_context(_writer(Path(out), worlds[0]))
        episodes = []
        for index, (agent, world) in enumerate(zip(agents, worlds, strict=True)):
            check_spaces(agent, world)
            stack.enter_context(modes_kept(agent))
            filmed = limited(_Filmed(world, partial(keep, index)), max_steps)
            episodes.append(playing(agent, filmed, episode_seed(seed, 0)))
        returns, going = np.zeros(len(agents)), set(range(len(agents)))
        while going:
            for index in sorted(going):
                reward = next(episodes[index], None)
                if reward is None:
                    going.remove(index)
                else:
                    returns[index] += reward
            if going:
                write(_tiled(frames))
        return returns


def usual_suffix() -> str:
    """`.mp4` where imageio can write it, and else `.gif`."""
    return ".mp4" if find_spec("imageio") and find_spec("imageio_ffmpeg") else ".gif"


@contextmanager
def _drawing() -> Iterator[None]:
    """Names the extra where an environment lacks the package by which it draws."""
    try:
        yield
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"{error}, or pip install 'agentlib-rl[video]'") from None


def _world(env: Any, env_kwargs: dict[str, Any] | None, stack: ExitStack) -> gymnasium.Env[Any, Any]:
    """An environment that draws, and is closed with the stack."""
    world = make_env(env, env_kwargs=env_kwargs, render_mode="rgb_array", training=False)
    stack.callback(world.close)
    return world


@contextmanager
def _writer(out: Path, world: gymnasium.Env[Any, Any]) -> Iterator[Callable[[Frame], None]]:
    """Writes frames to a file, as many a second as the environment makes."""
    if out.suffix not in (".gif", ".mp4"):
        raise ValueError(f"a video is written as .gif or .mp4, not as {out.name!r}")
    rate = float(world.metadata.get("render_fps") or USUAL_RATE)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (_gif if out.suffix == ".gif" else _mp4)(out, rate) as write:
        yield write


def _scaled(frame: Frame, width: int) -> Frame:
    """A picture of that width, (H', W, 3)."""
    from PIL import Image  # `_writer` has said if it is absent

    height = max(round(frame.shape[0] * width / frame.shape[1]), 1)
    kind = Image.Resampling.BOX if width < frame.shape[1] else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(frame).resize((width, height), kind))


def _tiled(frames: Sequence[Frame]) -> Frame:
    """Pictures of one width in a grid that is nearly square, with gaps; lower ones are centred, (H, W, 3)."""
    columns = math.ceil(math.sqrt(len(frames)))
    height, width = max(frame.shape[0] for frame in frames) + GAP, frames[0].shape[1] + GAP
    grid = np.full((math.ceil(len(frames) / columns) * height - GAP, columns * width - GAP, 3), 160, np.uint8)
    for index, frame in enumerate(frames):
        top = index // columns * height + (height - GAP - frame.shape[0]) // 2
        left = index % columns * width
        grid[top : top + frame.shape[0], left : left + width - GAP] = frame
    return grid


class _Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Hands each frame to a function."""

    def __init__(self, env: gymnasium.Env[Any, Any], write: Callable[[Frame], None]) -> None:
        super().__init__(env)
        self._write = write

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._film()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self._film()
        return result

    def _film(self) -> None:
        try:
            frame = self.env.render()
        except NotImplementedError:
            frame = None
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            modes = ", ".join(self.env.metadata.get("render_modes", ())) or "none"
            raise ValueError(f"the environment does not render pictures ('rgb_array'); its render modes: {modes}")
        self._write(frame)


@contextmanager
def _gif(path: Path, rate: float) -> Iterator[Callable[[Frame], None]]:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("videos need Pillow: pip install 'agentlib-rl[video]'") from None
    frames: list[Image.Image] = []
    yield lambda frame: frames.append(Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE))
    if frames:
        # A GIF counts hundredths of a second, and viewers slow down what is quicker than two of them.
        duration = 10 * max(round(100 / rate), 2)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)


@contextmanager
def _mp4(path: Path, rate: float) -> Iterator[Callable[[Frame], None]]:
    try:
        imageio = import_module("imageio.v2")
        import_module("imageio_ffmpeg")  # with which imageio writes .mp4
    except ImportError:
        raise ImportError("videos as .mp4 need imageio with ffmpeg: pip install 'agentlib-rl[video]'") from None
    with imageio.get_writer(path, fps=rate, macro_block_size=2) as writer:
        yield writer.append_data
