"""The gallery of the examples, docs/gallery.md, with a picture for each, and the grid at the head of the README.

    python docs/pictures/gallery.py                   # the page, from the examples' first lines
    python docs/pictures/gallery.py cartpole detour   # these pictures again, from runs of their own, and the page
    python docs/pictures/gallery.py all               # all of them, in about five minutes (extras plots and video)

Nothing is drawn by hand: a picture is of an agent or a model that was trained for it, of a measurement in
`docs/results`, or, of examples with nothing to see, of their own code.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import agentlib

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "gallery"
SIZE = (360, 270)
"""Pixels of a picture, 4 to 3."""
MOST_BYTES = 30_000
GRID = {
    "cartpole": "DQN balances a pole",
    "pendulum": "SAC swings one up",
    "taxi": "a table of values drives a taxi",
    "detour": "diffusion goes left or right",
    "digits": "a GAN writes digits",
    "gaussians": "diffusion finds eight modes",
    "shapes": "a detector boxes shapes",
    "sinusoids": "MAML learns from ten points",
}
"""The pictures of the README, and their captions."""
GROUPS = {
    "Agents": {
        "train_dqn": "cartpole",
        "train_ppo": "ppo",
        "train_sac": "pendulum",
        "goals_with_her": "her_reach",
        "rainbow_pixels": "rainbow_catch",
        "compare_with_sb3": "speed",
        "embed_agent": "code",
        "act_without_torch": "code",
        "serve_over_http": "code",
    },
    "Imitation": {
        "bc_from_minari": "imitation_ten_episodes",
        "dagger_with_sb3_expert": "dagger_falling_rate",
        "dagger_with_you": "taxi",
        "diffusion_policy": "detour",
        "few_shot_imitation": "maml_few_shot_imitation",
        "pretrain_then_imitate": "code",
    },
    "Attacks and alarms": {"attack_an_agent": "attacked_dqn", "alarm": "alarms_cartpole"},
    "Pictures and text": {"see_shapes": "shapes", "train_gpt": "code", "translate": "code", "fine_tune": "code"},
    "Underneath": {"search_settings": "code", "backprop_by_hand": "code", "write_your_own_learner": "code"},
}
"""The examples, and which picture each has; one of `docs/results` is drawn from its numbers."""


def panel(square: bool = False) -> tuple[Any, Any]:
    """An empty figure of the size of a picture."""
    from agentlib.plots.pictures import new_figure

    figure, axes = new_figure((2.7 if square else 3.6, 2.7))
    axes.tick_params(labelsize=7)
    return figure, axes


def image_of(figure: Any) -> Image.Image:
    """A figure as an image."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def frames(agent: Any, env: str, count: int, every: int, seed: int) -> Image.Image:
    """Frames of one episode above each other, the latest one strongest."""
    import gymnasium
    from PIL import Image

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing is shown on a screen
    world = gymnasium.make(env, render_mode="rgb_array")
    observation, _ = world.reset(seed=seed)
    seen = [np.asarray(world.render())]
    for step in range(1, count * every):
        observation, _, terminated, truncated, _ = world.step(agent.act(observation))
        if step % every == 0:
            seen.append(np.asarray(world.render()))
        if terminated or truncated:
            break
    world.close()
    weights = np.linspace(1.0, 0.25, len(seen))[::-1, None, None, None]
    return Image.fromarray((255 - ((255 - np.stack(seen)) * weights).max(0)).astype(np.uint8))


def cartpole() -> Image.Image:
    """An episode of DQN."""
    agent = agentlib.train("dqn", env="CartPole-v1", steps=30_000, progress=False)
    picture = frames(agent, "CartPole-v1", 8, 25, seed=3)
    return picture.crop((0, 100, picture.width, picture.height))  # less of the sky


def pendulum() -> Image.Image:
    """An episode of SAC."""
    agent = agentlib.train("sac", env="Pendulum-v1", steps=4_000, net_arch=(64, 64), progress=False)
    picture = frames(agent, "Pendulum-v1", 12, 3, seed=2)
    margin = picture.width // 5
    return picture.crop((margin, margin, picture.width - margin, picture.height - margin))


def taxi() -> Image.Image:
    """The first frame of an episode of a table of values."""
    agent = agentlib.train("q_table", env="Taxi-v4", progress=False)
    return frames(agent, "Taxi-v4", 1, 1, seed=5)


def ppo() -> Image.Image:
    """The learning curve of PPO."""
    curve = list[tuple[int, float]]()
    seen = lambda clock, metrics: curve.append((clock.steps, metrics.get("rollout/ep_rew_mean", np.nan)))  # noqa: E731
    agentlib.train("ppo", env="CartPole-v1", steps=50_000, progress=False, callback=seen)
    figure, axes = panel()
    axes.plot(*np.array(curve).T, color="#0072B2", linewidth=2)
    axes.set_title("PPO on CartPole-v1: mean return by steps", fontsize=8, loc="left")
    return image_of(figure)


def detour() -> Image.Image:
    """Twenty episodes of a diffusion policy."""
    import gymnasium

    from agentlib.envs.experts import expert_for
    from agentlib.experience.recording import record_episodes

    name = "agentlib/Detour-v0"
    demos = record_episodes(expert_for(name), name, episodes=100)
    agent = agentlib.train("diffusion_bc", demos=demos, steps=4_000, progress=False)
    env = gymnasium.make(name, render_mode="rgb_array")
    figure, axes = panel(square=True)
    for seed in range(20):
        path, done = [env.reset(seed=seed)[0]], False
        if not seed:
            axes.imshow(np.asarray(env.render()), extent=(-1, 1, -1, 1))
        while not done:
            action, _ = agent.predict(path[-1], deterministic=False)
            observation, _, terminated, truncated, _ = env.step(action)
            path.append(observation)
            done = terminated or truncated
        axes.plot(*np.array(path).T, color="#0072B2", linewidth=1, alpha=0.6)
    axes.set_axis_off()
    return image_of(figure)


def digits() -> Image.Image:
    """Samples of a conditional GAN, its labels in turn."""
    import torch
    from PIL import Image

    model = agentlib.train("gan", data="digits", steps=3_000, progress=False).model
    label = torch.arange(12) % 10
    drawn = model.sample(12, label, generator=torch.Generator().manual_seed(0))  # (12, 1, 8, 8)
    drawn = torch.nn.functional.pad(drawn, (1, 1, 1, 1))  # apart from each other
    rows = drawn.reshape(3, 4, 10, 10).permute(0, 2, 1, 3).reshape(30, 40)
    return Image.fromarray((255 * (1 - rows.clamp(0, 1))).byte().numpy()).resize(SIZE, Image.Resampling.NEAREST)


def gaussians() -> Image.Image:
    """Samples of a diffusion model of points."""
    import torch

    model = agentlib.train("diffusion", data="8gaussians", steps=3_000, progress=False).model
    x, y = model.sample(4_000, generator=torch.Generator().manual_seed(0)).T.numpy()
    figure, axes = panel(square=True)
    axes.hist2d(x, y, bins=90, cmap="viridis")
    axes.set_axis_off()
    return image_of(figure)


def shapes() -> Image.Image:
    """Boxes of a detector in pictures that it has not seen."""
    import torch

    from agentlib.data import shape_scenes
    from agentlib.plots import scenes

    result = agentlib.train("detection", data=shape_scenes(600), steps=500, progress=False)
    new = shape_scenes(4, seed=1)
    with torch.no_grad():
        found = result.model.answer(new.images)
    return image_of(scenes.boxes(new.images[:2].float() / 255, {"found": found[:2]}, new.classes))


def sinusoids() -> Image.Image:
    """A new task, before and after MAML's adaptation."""
    import tempfile

    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        result = agentlib.train("maml", data="sinusoids", steps=1_500, progress=False, out=Path(folder) / "maml")
        picture = Image.open(next(path for path in result.pictures if path.stem == "tasks")).convert("RGB")
    return picture.crop((0, 0, int(0.29 * picture.width), picture.height))  # the first of three tasks


DRAWN: dict[str, Callable[[], Image.Image]] = {
    one.__name__: one for one in (cartpole, pendulum, taxi, ppo, detour, digits, gaussians, shapes, sinusoids)
}

BARS = {
    "her_reach": ("Goals reached, 5 seeds", {"with hindsight": "with", "without": "without"}),
    "rainbow_catch": ("Catch: mean return, 5 seeds", {"Rainbow": "rainbow", "DQN": "dqn", "SB3's DQN": "sb3"}),
    "imitation_ten_episodes": ("CartPole from ten episodes", {"cloned": "cartpole"}),
    "dagger_falling_rate": (
        "MountainCar: mean return, 20 seeds",
        {"agentlib": "mountain_car_ours", "imitation": "mountain_car_theirs"},
    ),
    "maml_few_shot_imitation": (
        "Return after 20 labelled steps",
        {"MAML, 0 steps": "maml_0", "MAML, 1 step": "maml_1", "joint, 1 step": "joint_1", "joint, 10": "joint_10"},
    ),
    "attacked_dqn": (
        "Return, calm and attacked",
        {"DQN": "before", "attacked": "before_attack", "robust": "after", "robust, attacked": "after_attack"},
    ),
    "alarms_cartpole": (
        "Alarm: area under the curve",
        {"stuck sensor": "stuck", "dead sensor": "dead", "softmax, stuck": "softmax_stuck"},
    ),
}
"""Files of `docs/results`, their titles, and the numbers that are shown."""


def measured(name: str) -> Image.Image:
    """Bars of numbers that were measured."""
    title, shown = BARS[name]
    claims = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))["claims"]
    values = {claim["number"]: claim["value"] for claim in claims}
    return bars(title, {label: values[number] for label, number in shown.items()})


def speed() -> Image.Image:
    """How many times as fast as others, by the medians of `docs/benchmarks`."""
    names = {"DQN": "dqn_warm", "PPO": "ppo", "SAC": "sac", "TD3": "td3"}
    times = {
        label: json.loads((ROOT / f"docs/benchmarks/{name}.json").read_text())["times"] for label, name in names.items()
    }
    ratios = {label: float(np.median(np.array(one["theirs"]) / one["ours"])) for label, one in times.items()}
    return bars("Times as fast as Stable-Baselines3", ratios)


def bars(title: str, values: dict[str, float]) -> Image.Image:
    """Lying bars, each with its number."""
    figure, axes = panel()
    places = axes.barh(list(values), list(values.values()), color=["#0072B2", "#D55E00", "#009E73", "#CC79A7"])
    axes.bar_label(places, fmt="%.3g", fontsize=8, padding=3)
    axes.set_title(title, fontsize=9, loc="left")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    return image_of(figure)


CODE = {
    "embed_agent": "    agent = agentlib.Agent.load(path)",
    "act_without_torch": "    session = onnxruntime",
    "serve_over_http": "        def do_POST(self) -> None:",
    "pretrain_then_imitate": "    views = Batches(",
    "train_gpt": "    result = agentlib.train(",
    "translate": "    result = agentlib.train(",
    "fine_tune": "        for tuning, rate in",
    "search_settings": "    found = agentlib.sweep(",
    "backprop_by_hand": "    a1 = sigmoid(",
    "write_your_own_learner": "    def losses(",
}
"""Where the code of an example begins that its picture shows."""


def code(example: str) -> Image.Image:
    """Lines of an example, as they stand in its file."""
    lines = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(CODE[example]))
    indent = len(CODE[example]) - len(CODE[example].lstrip())
    part = itertools.takewhile(lambda line: not line or line.startswith(" " * indent), lines[first : first + 12])
    shown = textwrap.dedent("\n".join(part)).splitlines()
    figure, axes = panel()
    axes.set_axis_off()
    text = "\n".join(line if len(line) <= 56 else f"{line[:55]}…" for line in shown)
    axes.text(0, 1, text, family="monospace", fontsize=7.5, va="top", color="#333333", linespacing=1.5)
    return image_of(figure)


def written(name: str, image: Image.Image) -> None:
    """The picture as a small file: fitted into the size on white, with few colours."""
    from PIL import Image as images
    from PIL import ImageOps

    image = ImageOps.pad(image, SIZE, images.Resampling.LANCZOS, color="white")
    for colours in (128, 64, 32, 16):
        buffer = io.BytesIO()
        image.quantize(colours, dither=images.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < MOST_BYTES:
            break
    (FOLDER / f"{name}.png").write_bytes(buffer.getvalue())


def write_grid() -> None:
    """All pictures of the README beside each other, with their captions."""
    from PIL import Image as images

    from agentlib.plots.pictures import new_figure

    figure, axes = new_figure((9.6, 4.4), 2, 4)
    for one, (name, caption) in zip(np.ravel(axes), GRID.items(), strict=True):
        one.imshow(np.asarray(images.open(FOLDER / f"{name}.png").convert("RGB")))
        one.set_axis_off()
        one.set_title(caption, fontsize=9, loc="center", color="#333333")
    image_of(figure).quantize(256, dither=images.Dither.NONE).save(FOLDER / "grid.png", optimize=True)


def page() -> str:
    """The gallery in Markdown: each example with its picture, and its first line."""
    lines = [
        "# Gallery",
        "",
        "Each of these is a short program that runs as it is. `docs/pictures/gallery.py` makes this page and the",
        "pictures, from runs, from [measured results](results.md), or from the code itself.",
        "",
        "![Six agents at work, each labelled with its learner](pictures/gallery/agents.gif)",
        "",
        "Six agents after a short training. `docs/pictures/film.py` trains them and makes this film; it has their",
        "environments and the numbers of their steps.",
        "",
    ]
    for group, examples in GROUPS.items():
        lines += [f"## {group}", "", "| | |", "|---|---|"]
        for example, picture in examples.items():
            text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8"))) or ""
            image = f"![{example}](pictures/gallery/{example if picture == 'code' else picture}.png)"
            lines.append(f"| {image} | [{example}](../examples/{example}.py): {text.splitlines()[0]} |")
        lines.append("")
    return "\n".join(lines)


def pictures() -> dict[str, Callable[[], Image.Image]]:
    """How each picture is made, by its name."""
    quick = {name: partial(measured, name) for name in BARS} | {name: partial(code, name) for name in CODE}
    return DRAWN | quick | {"speed": speed}


def main(names: list[str]) -> None:
    """Makes the pictures of these names, and the page."""
    every = pictures()
    FOLDER.mkdir(exist_ok=True)
    for name in every if names == ["all"] else names:
        written(name, every[name]())
    if names:
        write_grid()
    (ROOT / "docs" / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
