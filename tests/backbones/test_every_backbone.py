"""What every backbone does, whatever it computes: rebuilt from JSON, saved, compiled, exported, mapped over, moved."""

import copy
import json

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils._pytree import tree_map

from agentlib.backbones import BACKBONES, from_spec, load_backbone, save_backbone, spec_of
from agentlib.core import Target
from agentlib.engine.compiled import compiler_found
from tests.backbones.examples import EXAMPLES

BATCH = 4


def features_of(network, inputs) -> Tensor:
    """The features; a network with memory gives its next state too."""
    output = network(*inputs)
    return output[0] if isinstance(output, tuple) else output


def change_rows(tree, start):
    """The first row again from row `start` on, in each tensor of a tree."""
    return tree_map(lambda x: torch.cat([x[:start], x[:1].expand(len(x) - start, *x.shape[1:])]), tree)


def detached_state(network):
    return {name: value.detach() for name, value in [*network.named_parameters(), *network.named_buffers()]}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if ":" in name else ()) for name in EXAMPLES])
def example(request):
    return EXAMPLES[request.param]


@pytest.fixture
def network(example):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return example.build()


@pytest.fixture
def inputs(example):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return example.inputs(BATCH)


@pytest.fixture
def excused(example, request):
    """For a check that an example says it fails: it does, with that message."""

    def check(name, run):
        if name not in example.fails:
            run()
            return
        with pytest.raises((AssertionError, RuntimeError, UserWarning), match=example.fails[name]):
            run()

    return check


def test_every_name_has_an_example():
    assert {spec_of(example.build())["name"] for example in EXAMPLES.values()} == set(BACKBONES)


def test_features(example, network, inputs):
    kept = copy.deepcopy(inputs)
    features = features_of(network, inputs)
    assert features.shape == example.shape(BATCH, getattr(network, "feature_dim", 0))
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert features.std() > 1e-3
    torch.testing.assert_close(inputs, kept, rtol=0, atol=0)  # left alone


def test_rebuilt_from_json(network, inputs):
    spec = json.loads(json.dumps(spec_of(network), allow_nan=False))
    again = from_spec(spec)
    assert type(again) is type(network)
    assert spec_of(again) == spec
    again.load_state_dict(network.state_dict())
    assert torch.equal(features_of(again.eval(), inputs), features_of(network.eval(), inputs))
    newer = {"name": spec["name"], "arguments": {**spec["arguments"], "of_the_future": 1}}
    with pytest.raises(ValueError, match=r"do not fit.*'of_the_future'.*update agentlib"):
        from_spec(newer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded(network, inputs, tmp_path, dtype):
    network.to(dtype).eval()
    before = torch.get_rng_state()
    again = load_backbone(save_backbone(network, tmp_path / "backbone"))
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.training
    mine, other = network.state_dict(), again.state_dict()
    assert list(mine) == list(other)
    for name, value in mine.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name])
    assert torch.equal(features_of(again, inputs), features_of(network, inputs))


def test_maps(network, inputs):
    if not hasattr(network, "maps"):
        return
    for mode in (True, False):
        maps = network.train(mode).maps(*inputs)
        assert maps
        assert all(isinstance(one, Tensor) and len(one) == BATCH and torch.isfinite(one).all() for one in maps)


def test_gradients_reach_all_parameters(network, inputs):
    features = features_of(network, inputs)
    if not list(network.parameters()):
        return
    gradients = torch.autograd.grad((features * torch.randn_like(features)).sum(), list(network.parameters()))
    still = [name for (name, _), slope in zip(network.named_parameters(), gradients, strict=True) if not slope.any()]
    assert still == []


def test_passes_repeat(network, inputs, excused):
    def run():
        network.eval()
        assert torch.equal(features_of(network, inputs), features_of(network, inputs))
        network.train()
        passes = []
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):  # dropout draws
                torch.manual_seed(3)
                passes.append(features_of(network, inputs))
        assert torch.equal(*passes), "the second pass differs"

    excused("repeats", run)


def test_samples_do_not_mix(network, inputs, excused):
    def run():
        passes = []
        for one in (inputs, change_rows(inputs, 2)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                passes.append(features_of(copy.deepcopy(network).train(), one))
        first, second = passes
        torch.testing.assert_close(first[:2], second[:2], msg="a sample's output depends on the others")

    excused("independent", run)
    network.eval()  # then each sample is on its own, even with batch normalization
    changed = features_of(network, change_rows(inputs, 2))
    torch.testing.assert_close(features_of(network, inputs)[:2], changed[:2])


def test_computes_in_float64(network, inputs):
    with torch.no_grad():
        single = features_of(network.eval(), inputs)
        double = features_of(network.double(), inputs)
    if list(network.parameters()):
        assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double.double(), rtol=1e-3, atol=1e-4)


def test_functional_call(network, inputs):
    network.eval()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1
    state = detached_state(other)
    output = functional_call(network, state, inputs)
    output = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(output, features_of(other, inputs))


def test_vmap_over_networks(example, inputs, excused):
    """An ensemble: stacked weights, one call."""
    networks = [example.build().eval() for _ in range(3)]
    if not networks[0].state_dict():
        return  # nothing to stack
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0]).to("meta")

    def call(one, two):
        output = functional_call(base, (one, two), inputs)
        return output[0] if isinstance(output, tuple) else output

    def run():
        found = vmap(call)(parameters, buffers)
        expected = torch.stack([features_of(one, inputs) for one in networks])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    excused("vmap over networks", run)


def test_vmap_over_samples(network, inputs, excused):
    """Gradients per sample, in training mode."""
    if not list(network.parameters()):
        return
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def loss(weights, sample):
        output = functional_call(network, (weights, buffers), tree_map(lambda x: x[None], sample))
        return (output[0] if isinstance(output, tuple) else output).square().sum()

    def run():
        before = copy.deepcopy(network)
        slopes = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
        for row in range(BATCH):
            sample = tree_map(lambda x, row=row: x[row : row + 1], inputs)
            again = copy.deepcopy(before)
            expected = torch.autograd.grad(features_of(again, sample).square().sum(), list(again.parameters()))
            for found, one in zip(slopes.values(), expected, strict=True):
                torch.testing.assert_close(found[row], one, rtol=1e-3, atol=1e-4)

    excused("vmap over samples", run)


@pytest.mark.slow
def test_traced_in_one_graph(example, network, inputs):
    """In training mode, with gradients; what fails something there, in eval mode too."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for training in (True, False) if example.fails else (True,):
        network.train(training)
        other = copy.deepcopy(network)
        expected = features_of(network, inputs)
        torch.compiler.reset()
        compiled = torch.compile(other, fullgraph=True, dynamic=False, backend="aot_eager")
        found = features_of(compiled, inputs)
        torch.testing.assert_close(found, expected)
        if list(network.parameters()):
            slopes, expected_slopes = (  # a parameter may be of use in training mode alone
                torch.autograd.grad(one.square().sum(), list(its.parameters()), materialize_grads=True)
                for one, its in ((found, other), (expected, network))
            )
            torch.testing.assert_close(slopes, expected_slopes, rtol=1e-3, atol=1e-4)
        for mine, its in zip(network.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(mine, its)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
@pytest.mark.parametrize("name", ["mlp: all options", "resnet", "unet"])
def test_compiled(name):
    example = EXAMPLES[name]
    network, inputs = example.build().eval(), example.inputs(BATCH)
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=False)
    torch.testing.assert_close(features_of(compiled, inputs), features_of(network, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exported(network, inputs):
    network.eval()
    program = torch.export.export(network, inputs)
    torch.testing.assert_close(features_of(program.module(), inputs), features_of(network, inputs))


def test_autocast_to_bfloat16(network, inputs):
    network.eval()
    expected = features_of(network, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = features_of(network, inputs)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
    if list(network.parameters()):
        slopes = torch.autograd.grad(found.float().square().sum(), list(network.parameters()), materialize_grads=True)
        assert all(slope.dtype == torch.float32 and torch.isfinite(slope).all() for slope in slopes)


def test_a_target_follows_with_parameters_and_buffers(example, network, inputs):
    source = example.build()
    target = Target(source)
    source.load_state_dict(network.state_dict())
    target.follow()
    torch.testing.assert_close(features_of(target, inputs), features_of(network.eval(), inputs))
    for name, value in network.state_dict().items():
        assert torch.equal(value, target.network.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_the_seed_gives_the_weights(example):
    def built(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.cat([p.detach().ravel() for p in example.build().parameters()] or [torch.zeros(0)])

    assert torch.equal(built(0), built(0))
    assert len(built(0)) == 0 or not torch.equal(built(0), built(1))


@pytest.mark.gpu
def test_on_a_gpu(network, inputs):
    network.eval()
    expected = features_of(network, inputs)
    moved = copy.deepcopy(network).to("cuda")
    there = tree_map(lambda x: x.to("cuda"), inputs)
    found = features_of(moved, there)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(features_of(moved, there).float().cpu(), expected, rtol=0.1, atol=0.1)
