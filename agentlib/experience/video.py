"""Videos of an agent: the episodes that `evaluate` plays, as .gif or .mp4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agentlib.envs.making import make_env
from agentlib.experience.evaluation import Evaluation, Predictor, evaluate

USUAL_RATE = 30
"""Frames a second where the environment does not say."""
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
    out = Path(out)
    if out.suffix not in (".gif", ".mp4"):
        raise ValueError(f"a video is written as .gif or .mp4, not as {out.name!r}")
    world = make_env(env, env_kwargs=env_kwargs, render_mode="rgb_array", training=False)
    try:
        rate = float(world.metadata.get("render_fps") or USUAL_RATE)
        out.parent.mkdir(parents=True, exist_ok=True)
        with (_gif if out.suffix == ".gif" else _mp4)(out, rate) as write:
            return evaluate(agent, _Filmed(world, write), episodes=episodes, seed=seed, max_steps=max_steps)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"{error}, or pip install 'agentlib-rl[video]'") from None
    finally:
        world.close()


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
