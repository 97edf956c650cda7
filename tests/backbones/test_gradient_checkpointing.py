"""Layers that are computed again in the backward pass: the same gradients, of fewer saved numbers."""

from typing import Any

import pytest
import torch

from agentlib.backbones import (
    MLP,
    EncoderDecoder,
    TransformerDecoder,
    TransformerEncoder,
    ViT,
    from_spec,
    with_gradient_checkpointing,
)
from agentlib.core.recipe import Problem
from agentlib.engine import run
from agentlib.engine.tape import CannotCompile
from agentlib.runs.plan import job_of

SIZES: dict[str, Any] = {"dim": 16, "layers": 4, "heads": 2, "dropout": 0.2}
NETWORKS = {
    "encoder": (lambda **more: TransformerEncoder(5, **SIZES, **more), torch.randn(3, 12, 5)),
    "decoder": (lambda **more: TransformerDecoder(5, **SIZES, window=12, **more), torch.randn(3, 12, 5)),
    "vit": (lambda **more: ViT((3, 12, 12), **SIZES, **more), torch.rand(3, 3, 12, 12)),
}


def gradients(network: Any, *inputs: Any) -> tuple[list[Any], int]:
    """Those of all parameters, with the dropout of one seed, and the bytes that are saved for them."""
    saved = dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.manual_seed(3)
        output = network(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        before = torch.get_rng_state()
        found = torch.autograd.grad(output.pow(2).mean(), list(network.parameters()), allow_unused=True)
        assert torch.equal(torch.get_rng_state(), before)  # the masks are drawn once
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return list(found), sum(size for place, size in saved.items() if place not in weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradients_are_those_of_layers_that_are_kept(name):
    """With dropout, to 1e-12; of a layer that is computed again no more than a tenth is saved."""
    make, x = NETWORKS[name]
    usual: Any = make().double()
    other: Any = make(gradient_checkpointing=True).double()
    other.load_state_dict(usual.state_dict())
    (expected, whole), (found, saved) = gradients(usual, x.double()), gradients(other, x.double())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    assert saved < 0.1 * whole
    assert from_spec(other.spec).gradient_checkpointing
    assert not from_spec(usual.spec).gradient_checkpointing


def test_a_built_network_is_given_the_option():
    def make() -> EncoderDecoder:
        more = {"vocabulary": 7, "positions": "sinusoidal", **SIZES}
        return EncoderDecoder(TransformerEncoder(None, **more), TransformerDecoder(None, **more, cross=True)).double()

    usual, other = make(), with_gradient_checkpointing(make())
    other.load_state_dict(usual.state_dict())
    tokens = torch.randint(7, (3, 12))
    (expected, whole), (found, saved) = gradients(usual, tokens, tokens), gradients(other, tokens, tokens)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    assert saved < 0.2 * whole
    with pytest.raises(ValueError, match="is for transformers, not for a MLP"):
        with_gradient_checkpointing(MLP(3, (4,)))


def test_without_gradients_nothing_is_computed_again():
    network = TransformerEncoder(5, **SIZES, gradient_checkpointing=True)
    with torch.no_grad():
        assert network(torch.randn(2, 3, 5)).grad_fn is None


@pytest.mark.parametrize("name", ["gpt", "bert", "seq2seq"])
def test_updates_are_the_same(name):
    """Bit for bit, with dropout, and in parts of a batch; compiled they are refused with one line."""
    data = "reversal" if name == "seq2seq" else "markov"
    sizes: dict[str, Any] = {"embed_dim": 16, "n_layers": 2, "n_heads": 2, "batch_size": 6, "dropout": 0.1}
    sizes |= {"gradient_accumulation_steps": 2} if name == "gpt" else {}
    weights = []
    for option in (False, True):
        problem = Problem(data=data, steps=2, device="cpu")
        job: Any = job_of(name, problem, gradient_checkpointing=option, **sizes)
        for _ in run(job.learner, job.source, 2, compile=False):
            pass
        weights.append(job.learner.state_dict())
    for key, value in weights[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, weights[1][key]), key
    with pytest.raises(CannotCompile, match="with gradient_checkpointing layers are computed again"):
        next(run(job.learner, job.source, 1, compile=True))
    with pytest.warns(UserWarning, match="uncompiled and slower: with gradient_checkpointing"):
        next(run(job.learner, job.source, 1, compile="try"))


@pytest.mark.parametrize("name", ["gpt", "seq2seq"])
def test_a_network_without_attention_refuses(name):
    data = "reversal" if name == "seq2seq" else "markov"
    with pytest.raises(ValueError, match="gradient_checkpointing is for transformers"):
        job_of(name, Problem(data=data, steps=1, backbone="lstm"), gradient_checkpointing=True)
