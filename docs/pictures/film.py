"""The film at the head of the README and of the gallery: six agents at work, each trained here first.

python docs/pictures/film.py      # in about four minutes (extra video); agents of an earlier call are in runs/film
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import agentlib
from agentlib.envs.experts import expert_for
from agentlib.experience.recording import record_episodes
from agentlib.experience.video import record_grid

FILM = Path(__file__).parent / "gallery" / "agents.gif"
TRAINED = Path("runs/film")
SIZE, STRIP = (208, 168), 20
"""Pixels of one agent's picture, and of the strip above it, in which its label stands."""
SEED = 2
"""Of the episodes. After so short a training SAC swings the pendulum up for 6 of the seeds 0 to 7, 2 among them."""
STEPS, EVERY = 240, 2
"""Steps of the film, and of which of them a frame is kept."""
MOST_BYTES = 1_500_000
COLOURS = 48


def detour() -> agentlib.Agent:
    """A diffusion policy that imitates an expert that passes left as often as right."""
    demos = record_episodes(expert_for("agentlib/Detour-v0"), "agentlib/Detour-v0", episodes=100)
    return agentlib.train("diffusion_bc", demos=demos, steps=4_000, progress=False)


def trained(what: str, env: str, **settings: Any) -> Callable[[], agentlib.Agent]:
    """How an agent is made, when it is needed."""
    return partial(agentlib.train, what, env=env, progress=False, **settings)


QUICK: dict[str, Any] = {
    "learning_rate": 5e-4,
    "batch_size": 64,
    "net_arch": (64, 64),
    "train_freq": 4,
    "gradient_steps": 4,
    "tau": 0.01,
    "target_update_interval": 1,
    "exploration_fraction": 0.1,
}
"""Those of `make demo`."""
AGENTS: dict[str, tuple[str, Callable[[], agentlib.Agent], int]] = {
    "DQN": ("CartPole-v1", trained("dqn", "CartPole-v1", steps=20_000, **QUICK), 1),
    "SAC": ("Pendulum-v1", trained("sac", "Pendulum-v1", steps=4_000, net_arch=(64, 64)), 1),
    "PPO": ("Acrobot-v1", trained("ppo", "Acrobot-v1", steps=100_000), 1),
    "DAgger": ("MountainCar-v0", trained("dagger", "MountainCar-v0", expert=expert_for("MountainCar-v0")), 1),
    "Table of values": ("Taxi-v4", trained("q_table", "Taxi-v4"), 8),
    "Diffusion policy": ("agentlib/Detour-v0", detour, 3),
}
"""Each one's label, environment and training, and how many steps of the film one of its own takes."""


class Lasting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Begins again where an episode ends, takes its time for a step, and draws small pictures with a label."""

    def __init__(self, env: gymnasium.Env[Any, Any], label: str, hold: int) -> None:
        super().__init__(env)
        self._label, self._hold, self._clock = label, hold, 0
        self._picture: NDArray[np.uint8] | None = None
        self._last: Any = None
        self._is_over = False

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        self._last = self.env.reset(**settings)
        self._picture = None
        return self._last

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._clock += 1
        if self._clock % self._hold == 0:
            self._picture = None
            if self._is_over:
                self._last, self._is_over = self.env.reset(), False
            else:
                observation, _, terminated, truncated, information = self.env.step(action)
                self._last, self._is_over = (observation, information), terminated or truncated
        return self._last[0], 0.0, False, False, self._last[1]

    def render(self) -> Any:
        from PIL import Image, ImageDraw, ImageFont, ImageOps

        if self._picture is None:
            frame: Any = self.env.render()
            image = Image.new("RGB", SIZE, "white")
            space = SIZE[0], SIZE[1] - STRIP
            image.paste(
                ImageOps.pad(Image.fromarray(frame), space, Image.Resampling.LANCZOS, color="white"), (0, STRIP)
            )
            font = ImageFont.load_default(13)
            ImageDraw.Draw(image).text((6, 2), self._label, font=font, fill="#333333")
            self._picture = np.asarray(image)
        return self._picture


def filmed(agents: list[agentlib.Agent], out: Path) -> None:
    """All agents side by side, in few colours and with one palette."""
    from PIL import Image, ImageSequence

    worlds = [
        lambda env=env, label=label, hold=hold, **_: Lasting(
            gymnasium.make(env, render_mode="rgb_array", max_episode_steps=300), label, hold
        )
        for label, (env, _, hold) in AGENTS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.gif"
        record_grid(agents, worlds, raw, seed=SEED, max_steps=STEPS, width=SIZE[0])
        with Image.open(raw) as film:
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)][::EVERY]
    palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames[:: len(frames) // 6]]))
    palette = palette.quantize(COLOURS)
    few = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    few[0].save(out, save_all=True, append_images=few[1:], duration=80, loop=0, optimize=True)


def main() -> None:
    """Trains the agents, and films them."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing is shown on a screen
    TRAINED.mkdir(parents=True, exist_ok=True)
    agents = []
    for label, (env, train, _) in AGENTS.items():
        file = TRAINED / f"{env.rpartition('/')[2]}.safetensors"
        if not file.exists():
            train().save(file)
            print(f"{label} on {env}: {agentlib.evaluate(agentlib.Agent.load(file), env, episodes=5).mean:.4g}")
        agents.append(agentlib.Agent.load(file))
    filmed(agents, FILM)
    print(f"{FILM}: {FILM.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
