"""`agentlib sample`: new examples, or text, by a generative model that a run has left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentlib.shell.flags import Watched, count, flag, progress_of, whole_numbers
from agentlib.shell.stopping import UsageError


@dataclass(frozen=True, kw_only=True)
class Sample(Watched):
    """Draw examples by a generative model: as a picture (.png), as arrays (.npz), which `--data` reads, or as text."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR|FILE", help_behavior_hint="")]
    """The run's folder, such as runs/vae-digits-1, or its model.safetensors."""
    n: Annotated[int | None, flag("N")] = None
    """Number of examples, or of texts; the default is 100 examples, or one text."""
    label: Annotated[int | None, flag("K")] = None
    """The label of all examples of a conditional model, a number from 0; the default is all labels in turn."""
    seed: int = 0
    """Seed of the examples."""
    out: Annotated[Path | None, flag("FILE")] = None
    """The file to write; the default is beside the model: samples.png of images and points, samples.npz of others."""
    prompt: Annotated[str, flag("TEXT")] = "\n"
    """The text that a model of language goes on with; the default is a new line."""
    length: Annotated[int, flag("N")] = 200
    """Number of tokens of a text, at most."""
    temperature: float = 1.0
    """Logits are divided by it: less than 1 is more likely text, and 0 takes the best token each time."""
    top_k: Annotated[int | None, flag("K")] = None
    """Draw tokens of a text among the K best; the default is among all."""
    top_p: Annotated[float | None, flag("P")] = None
    """Draw tokens of a text among as few as have the probability P together; the default is among all."""
    beams: int = 1
    """Search for the most probable text with this many beams, in place of drawing one."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Sample, prog="agentlib sample", args=arguments, registry=whole_numbers())
    from agentlib.core.progress import showing
    from agentlib.runs.models import load_model

    model, about = load_model(options.file)
    if options.n is not None and options.n < 1:
        raise UsageError(f"--n must be a whole number from 1, not {options.n}")
    if hasattr(model, "generate"):
        return _print_text(model, options)
    if not hasattr(model, "sample"):
        raise UsageError(f"{options.file} holds a {type(model).__name__}, which draws no samples: see agentlib predict")
    with showing(progress_of(options.progress)):
        x, label = _drawn(model, about, options)
    folder = options.file if options.file.is_dir() else options.file.parent
    is_drawable = (x.dim() == 4 and x.shape[1] in (1, 3)) or x.shape[1:] == (2,)
    out = options.out or folder / f"samples.{'png' if is_drawable else 'npz'}"
    _write(out, x, label, is_drawable)
    print(f"{out}: {count(len(x), 'example')} of shape {tuple(x.shape[1:])}")
    return 0


def _print_text(model: Any, options: Sample) -> int:
    """Prints a prompt and what follows it, as it comes; a terminal acts on none of its characters but new lines."""
    import torch

    from agentlib.core.names import printable

    if options.label is not None or options.out is not None:
        raise UsageError("text has no --label, and goes to the terminal: leave out --label and --out")
    chosen = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "beams")}
    generator = torch.Generator().manual_seed(options.seed)
    n, prompt = options.n or 1, options.prompt + "\n" * hasattr(model, "translate")
    for text in range(1, n + 1):
        pieces = model.generate(options.prompt, options.length, generator=generator, **chosen)
        for number, piece in enumerate(pieces):
            start = (f"--- text {text} of {n}\n" if n > 1 else "") + prompt
            print(printable(piece if number else start + piece, kept="\n\t"), end="", flush=True)
        print()
    return 0


def _drawn(model: Any, about: dict[str, Any], options: Sample) -> tuple[Any, Any]:
    """The examples, and their labels if the model is conditional."""
    import torch

    from agentlib.backbones import DiffusionModel

    is_diffusion = isinstance(model, DiffusionModel)
    n_classes = int(getattr(model.denoiser, "condition_dim", 0) if is_diffusion else getattr(model, "n_classes", 0))
    if about.get("conditions") == "numbers":
        raise UsageError(
            f"the model's conditions are rows of {n_classes} numbers, and no labels: draw in Python, by "
            "`agentlib.runs.models.load_model(...)[0].sample(n, conditions)`"
        )
    if options.label is not None and not 0 <= options.label < n_classes:
        labels = f"its labels are 0 to {n_classes - 1}" if n_classes else "it is not conditional: leave out --label"
        raise UsageError(f"the model has no label {options.label}: {labels}")
    how: dict[str, Any] = {"generator": torch.Generator().manual_seed(options.seed)}
    label, n = None, options.n or 100
    if n_classes:
        label = torch.arange(n) * n_classes // n if options.label is None else torch.full((n,), options.label)
    if is_diffusion:
        how |= {"steps": about.get("sample_steps"), "sampler": about.get("sampler")}
        if label is not None:
            how |= {"condition": torch.eye(n_classes)[label], "guidance_scale": about.get("guidance_scale", 1.0)}
    elif label is not None:
        how["label"] = label
    with torch.no_grad():
        return model.sample(n, **how), label


def _write(out: Path, x: Any, label: Any, is_drawable: bool) -> None:
    import numpy as np

    from agentlib.backbones.files import replacing
    from agentlib.plots import charts, pictures

    if out.suffix not in (".png", ".npz") or (out.suffix == ".png" and not is_drawable):
        raise UsageError(f"samples are written as .npz, and images or points also as .png, not as {out.name}")
    if out.suffix == ".png":
        pictures.save(charts.image_grid(x, title="Samples") if x.dim() == 4 else charts.points(x, "Samples"), out)
        return
    arrays = {"x": x.numpy()} | ({} if label is None else {"y": label.numpy()})
    with replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
