"""GPT-2's weights under the names that Hugging Face gives them (Radford et al. 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentlib.backbones import TransformerDecoder
from agentlib.backbones.files import tensors_of
from agentlib.core.names import one_line, shown
from agentlib.core.randomness import host_generator_kept
from agentlib.data.tokens import tokenizer_in
from agentlib.learners.language.language_model import LanguageModel

NAMES = {
    "attention_norm": "ln_1",
    "attention.inputs": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.0": "mlp.c_fc",
    "mlp.3": "mlp.c_proj",
}
"""The parts of a layer, by our names; theirs have the matrices of linear layers transposed."""
WIDTH = 64
"""Of each head, in all sizes of GPT-2."""


def gpt2_network(
    vocabulary: int = 50_257, context: int = 1024, dim: int = 768, layers: int = 12, heads: int = 12
) -> TransformerDecoder:
    """A transformer of GPT-2's kind; the defaults are its smallest size, of 124,439,808 numbers."""
    return TransformerDecoder(
        None, dim, layers, heads, vocabulary=vocabulary, positions="learned", max_length=context, window=context,
        activation="gelu_tanh",
    )  # fmt: skip


def load_gpt2(path: str | Path, heads: int | None = None) -> LanguageModel:
    """A GPT-2 in eval mode, from the safetensors file that `transformers` writes, or the folder with it.

    Args:
        path: the file, or a folder with `model.safetensors`, and `tokenizer.json` if text is to be read and written.
        heads: of each attention, which the weights do not tell; by default each has a width of 64.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds other weights than GPT-2's; the message says which.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(path)
    file = folder / "model.safetensors" if folder.is_dir() else folder
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    try:
        with safe_open(file, "pt", device="cpu") as opened:
            given = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(opened).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no safetensors file, or it is damaged: {one_line(error)}") from None
    if "wte.weight" not in given or "wpe.weight" not in given:
        raise ValueError(f"{file} holds no GPT-2: it lacks wte.weight or wpe.weight; it has {shown(sorted(given)[:5])}")
    if given["wte.weight"].dim() != 2 or given["wpe.weight"].dim() != 2:
        raise ValueError(f"{file} holds no GPT-2: wte.weight and wpe.weight are no matrices")
    (vocabulary, dim), context = given["wte.weight"].shape, len(given["wpe.weight"])
    layers = len({name.split(".")[1] for name in given if name.startswith("h.")})
    for name in (f"h.{number}.attn.c_attn.weight" for number in range(layers)):  # before memory is taken for all
        if name not in given or given[name].shape != (dim, 3 * dim):
            raise ValueError(f"{file} holds no GPT-2: {name} is missing, or not of the shape {(dim, 3 * dim)}")
    head = given.get("lm_head.weight", given["wte.weight"])
    if not torch.equal(head, given["wte.weight"]):
        raise ValueError(f"{file} holds no GPT-2: lm_head.weight is another matrix than wte.weight")
    with host_generator_kept():
        network = gpt2_network(vocabulary, context, dim, layers, heads or max(dim // WIDTH, 1))
    tokenizer = (
        tokenizer_in(str(file.parent / "tokenizer.json")) if (file.parent / "tokenizer.json").is_file() else None
    )
    model = LanguageModel(network, None if tokenizer is None else tokenizer.to_json(), context)
    _fill(model, given, file)
    return model.eval()


@torch.no_grad()
def _fill(model: LanguageModel, given: dict[str, Tensor], file: Path) -> None:
    """Copies weights by their names.

    Raises:
        ValueError: one is missing, or has another shape.
    """
    places: dict[str, Any] = {"wte": model.backbone.embedding.content, "wpe": model.backbone.embedding.table}
    places["ln_f"] = model.backbone.stack.norm
    for number, layer in enumerate(model.backbone.stack.layers):
        places |= {f"h.{number}.{theirs}": layer.get_submodule(ours) for ours, theirs in NAMES.items()}
    for name, module in places.items():
        for part, parameter in module.named_parameters():
            tensor = given.get(f"{name}.{part}")
            if tensor is not None and isinstance(module, torch.nn.Linear):
                tensor = tensor.t() if part == "weight" else tensor
            if tensor is None or tensor.shape != parameter.shape:
                found = "is missing" if tensor is None else f"has the shape {tuple(tensor.shape)}"
                raise ValueError(f"{file} holds no GPT-2: {name}.{part} {found}, not {tuple(parameter.shape)}")
            parameter.copy_(tensor)
