"""`agentlib predict`: what a trained model says of examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentlib.core.progress import showing, watched
from agentlib.shell.flags import Watched, flag, progress_of
from agentlib.shell.stopping import UsageError

DRAWN = 8
"""Pictures in a drawing, at most."""
CHUNK = 1_000
"""Examples that a network sees at once."""


@dataclass(frozen=True, kw_only=True)
class Predict(Watched):
    """Print classes, numbers, actions or objects for examples; of an autoencoder or a backbone, write their outputs."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR|FILE", help_behavior_hint="")]
    """The run's folder, such as runs/classifier-digits-1, or its agent, model or backbone."""
    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT", help_behavior_hint="")]
    """The examples: an image, a folder of images, a table (.csv), arrays (.npz, .npy), or the name of a data set."""
    out: Annotated[Path | None, flag("FILE")] = None
    """Write the predictions as an array into this .npz file, too; of a model of scenes as a picture into a .png."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Predict, prog="agentlib predict", args=arguments)
    from agentlib.data.inputs import inputs

    suffix = ".npz" if options.out is None else options.out.suffix
    if suffix not in (".npz", ".png"):
        raise UsageError(f"predictions are written as .npz, or as .png of scenes, not as {options.out}")
    with showing(progress_of(options.progress)):
        network, shape = _loaded(options.file)
        if suffix == ".png" and not (hasattr(network, "describe") and hasattr(network, "classes")):
            raise UsageError(f"{options.file} says nothing of scenes that could be drawn: write .npz")
        names, x = inputs(options.input, shape)
        if hasattr(network, "act"):
            predictions = _answers(network, names, x)
        else:
            predictions = _transformed(network, x)
            if hasattr(network, "describe"):
                _print_descriptions(network, names, predictions)
            elif options.out is None:
                raise UsageError(f"{options.file} makes arrays {predictions.shape}: say where to, --out FILE.npz")
    if options.out is not None and suffix == ".npz":
        _write(options.out, predictions)
        print(f"{options.out}: {predictions.shape}")
    elif options.out is not None:
        _draw(options.out, network, x, predictions)
    return 0


def _loaded(path: Path) -> tuple[Any, tuple[int, ...] | None]:
    """An agent, or a network, and the shape of an example as far as it is known."""
    from agentlib.agent import Agent
    from agentlib.backbones import load_backbone
    from agentlib.backbones.files import header
    from agentlib.runs.models import load_model

    kinds = ("agent", "model", "backbone")
    found = [path / f"{kind}.safetensors" for kind in kinds] if path.is_dir() else [path]
    path = next((one for one in found if one.is_file()), path)
    kind = header(path)[0].get("agentlib", "") if path.is_file() else ""
    if '"agentlib model"' in kind:
        model = load_model(path)[0]
        return model, getattr(model, "shape", None) if hasattr(model, "describe") else None
    if '"agentlib backbone"' in kind:
        return load_backbone(path), None
    agent = Agent.load(path)
    if agent.has_memory:
        raise UsageError(f"{path} is an agent with memory, which acts in episodes: agentlib evaluate {path}")
    return agent, agent.observation_space.shape


def _answers(agent: Any, names: list[str], x: Any) -> Any:
    """Prints a line for each example; returns the answers."""
    import numpy as np

    if agent.observation_space.dtype != x.dtype:
        x = x.astype(agent.observation_space.dtype)
    classes, found = agent.about.get("classes") or [], []
    for start in watched(range(0, len(x), CHUNK), "predicting"):
        part = slice(start, start + CHUNK)
        answers = np.asarray(agent.act(x[part]))
        try:
            shares = [f" ({share:.3f})" for share in agent.confidence(x[part])]
        except TypeError:
            shares = [""] * len(answers)
        apart = _disagreements(agent, x[part])
        for name, answer, share, words in zip(names[part], answers, shares, apart, strict=True):
            text = str(classes[int(answer)]) if answer.ndim == 0 and int(answer) < len(classes) else f"{answer}"
            print(f"{name}: {text}{share}{words}")
        found.append(answers)
    return np.concatenate(found)


def _disagreements(agent: Any, x: Any) -> list[str]:
    """How far the members of an ensemble are apart, in words for each example; nothing for other agents."""
    import torch

    from agentlib.core.spaces import to_tensors

    if not hasattr(agent.policy, "disagreement"):
        return [""] * len(x)
    with torch.no_grad():
        output, _ = agent.policy(to_tensors(agent.observation_space, x, agent.device))
        return [f", disagreement {share:.3f}" for share in agent.policy.disagreement(output).tolist()]


def _print_descriptions(network: Any, names: list[str], answers: Any) -> None:
    """Prints a line about each picture."""
    import torch

    for name, answer in zip(names, torch.from_numpy(answers), strict=True):
        print(f"{name}: {network.describe(answer)}")


def transform_of(network: Any) -> Any:
    """The function that gives answers about pictures, reconstructions or features; None if there is none.

    A network with memory has none: it reads sequences, and gives a state, too.
    """
    function = getattr(network, "reconstruct", network if hasattr(network, "feature_dim") else None)
    function = getattr(network, "answer", function)
    if function is None and hasattr(network, "backbone") and not hasattr(network, "output_of"):
        function = network.backbone
    return None if getattr(function, "is_sequence", False) else function


def _transformed(network: Any, x: Any) -> Any:
    import numpy as np
    import torch

    function = transform_of(network)
    if function is None:
        kind = type(network).__name__
        raise UsageError(f"the file holds a {kind}, which takes no examples: agentlib sample draws from a generator")
    with torch.no_grad():
        parts = watched(torch.from_numpy(x).split(CHUNK), "predicting")
        return np.concatenate([function(part).numpy() for part in parts])


def _draw(out: Path, network: Any, x: Any, predictions: Any) -> None:
    """Draws the first examples and what the network says of them."""
    import torch

    from agentlib.plots import pictures
    from agentlib.plots.scenes import answered

    images = torch.from_numpy(x[:DRAWN])
    images = images if images.is_floating_point() else images.float() / 255.0
    pictures.save(answered(images, torch.from_numpy(predictions[:DRAWN]), network.classes), out)
    print(f"{out}: {len(images)} of {len(x)} pictures")


def _write(out: Path, predictions: Any) -> None:
    import numpy as np

    from agentlib.backbones.files import replacing

    with replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, prediction=predictions)
