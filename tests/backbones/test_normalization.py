"""Each normalization against its formula; the running one against scikit-learn's StandardScaler."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from agentlib.backbones import MLP, Chain, DiffusionModel, MLPDenoiser, RunningNorm
from agentlib.backbones.combine import scale_of
from agentlib.backbones.layers import NORMS, groups_for, norm_named, normalized
from agentlib.policies import Predictor


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standardized(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + eps).sqrt()


def over_groups(x, groups):
    split = x.reshape(len(x), groups, -1)
    return standardized(split, (2,)).reshape(x.shape)


OF_VECTORS = {
    "none": lambda x: x,
    "layer": lambda x: standardized(x, (1,)),
    "channel": lambda x: standardized(x, (1,)),
    "group": lambda x: over_groups(x, 3),
    "rms": lambda x: x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt(),
    "batch": lambda x: standardized(x, (0,)),
}
OF_MAPS = {
    "none": lambda x: x,
    "layer": lambda x: standardized(x, (1, 2, 3)),
    "channel": lambda x: standardized(x, (1,)),
    "group": lambda x: over_groups(x, 3),
    "rms": lambda x: x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt(),
    "batch": lambda x: standardized(x, (0, 2, 3)),
}


@pytest.mark.parametrize("maps", [False, True], ids=["vectors", "maps"])
@pytest.mark.parametrize("name", OF_MAPS)
def test_equals_the_formula(name, maps):
    """With one gain and one shift for each channel, outputs and gradients."""
    x = (3.0 + 2.0 * numbers(5, 24, *((4, 3) if maps else ()))).requires_grad_()
    layer: Any = norm_named(name, 24, maps=maps).double()
    ones = [1, 24] + [1, 1] * maps
    gain, shift = torch.ones(ones, dtype=torch.float64), torch.zeros(ones, dtype=torch.float64)
    if name != "none":
        layer.weight.data += 0.3 * numbers(24)
        gain = layer.weight.detach().reshape(ones)
    if getattr(layer, "bias", None) is not None:
        layer.bias.data += 0.3 * numbers(24, seed=2)
        shift = layer.bias.detach().reshape(ones)
    expected = (OF_MAPS if maps else OF_VECTORS)[name](x) * gain + shift
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weights = numbers(*x.shape, seed=3)
    slopes = [torch.autograd.grad((one * weights).sum(), x)[0] for one in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


def test_layer_norm_of_maps_is_torchs_over_channels_height_and_width():
    x = numbers(4, 16, 5, 3)
    ours, theirs = norm_named("layer", 16, maps=True).double(), nn.LayerNorm((16, 5, 3)).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_groups():
    assert {width: groups_for(width) for width in (1, 8, 15, 16, 24, 64, 100, 256, 1024)} == {
        1: 1, 8: 1, 15: 1, 16: 2, 24: 3, 64: 8, 100: 10, 256: 32, 1024: 32,
    }  # fmt: skip
    for width in range(1, 300):
        assert width % groups_for(width) == 0
        assert groups_for(width) == 1 or width // groups_for(width) >= 8


def test_batch_norm_remembers_the_unbiased_variance_and_uses_the_biased():
    layer: Any = norm_named("batch", 3).double()
    x = 2.0 + numbers(10, 3)
    torch.testing.assert_close(layer(x), standardized(x, (0,)), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_mean, 0.1 * x.mean(0))
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x.var(0, correction=1))
    layer.eval()
    expected = (x - layer.running_mean) / (layer.running_var + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: nn.Linear(20, 30), lambda: nn.Conv2d(3, 8, 3)], ids=["linear", "conv"])
def test_spectral_norm_divides_by_the_largest_singular_value(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = make().double()
        weight = plain.weight.detach().clone().flatten(1)
        layer: Any = normalized(plain, "spectral")[0]
        x = numbers(2, 20) if isinstance(plain, nn.Linear) else numbers(2, 3, 6, 6)
        for _ in range(300):  # each pass in training mode is one step of the power iteration
            layer(x)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.eval().requires_grad_(False)
    layer(x)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    torch.testing.assert_close(layer.weight.flatten(1), weight / torch.linalg.svdvals(weight)[0], rtol=0, atol=1e-4)
    assert abs(float(torch.linalg.svdvals(layer.weight.flatten(1))[0]) - 1.0) < 1e-4


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Conv2d(3, 5, 3)], ids=["linear", "conv"])
def test_weight_norm_equals_torchs(make):
    one = make().double()
    two = make().double()
    two.load_state_dict(one.state_dict())
    x = numbers(2, 4) if isinstance(one, nn.Linear) else numbers(2, 3, 5, 5)
    before = one(x)
    (ours,), theirs = normalized(one, "weight"), parametrizations.weight_norm(two)
    torch.testing.assert_close(ours(x), before, rtol=0, atol=1e-12)  # the weight is what it was
    for factor in (1.0, 3.0):  # the direction's length is without effect
        direction = dict(ours.named_parameters())["parametrizations.weight.original1"]
        direction.data *= factor
        torch.testing.assert_close(ours(x), before, rtol=0, atol=1e-12)
    direction.data /= 3.0
    weights = numbers(*before.shape, seed=2)
    mine = torch.autograd.grad((ours(x) * weights).sum(), list(ours.parameters()))
    other = torch.autograd.grad((theirs(x) * weights).sum(), list(theirs.parameters()))
    for slope, expected in zip(mine, other, strict=True):
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-10)


def test_normalized_layers():
    assert [type(one) for one in normalized(nn.Linear(2, 8), "layer")] == [nn.Linear, nn.LayerNorm]
    assert [type(one) for one in normalized(nn.Conv2d(2, 8, 1), "layer")] == [nn.Conv2d, nn.GroupNorm]
    assert len(normalized(nn.Linear(2, 8), "none")) == 1
    for name in NORMS:
        assert nn.Sequential(*normalized(nn.Linear(2, 8), name))(torch.ones(3, 2)).shape == (3, 8)
    with pytest.raises(ValueError, match="unknown normalization 'grupo'; close matches: group"):
        norm_named("grupo", 8, maps=True)


# Running statistics of observations ------------------------------------------------------------------------------


def batches_of(data, seed=0):
    generator = np.random.default_rng(seed)
    cuts = np.sort(generator.choice(np.arange(1, len(data)), 12, replace=False))
    return [torch.from_numpy(part) for part in np.split(data, cuts)]


def test_running_norm_equals_standard_scaler():
    from sklearn.preprocessing import StandardScaler  # takes seconds

    data = np.random.default_rng(1).normal(size=(500, 6)) * [1, 10, 0.1, 1e-3, 5, 0] + [0, 5, -3, 1, 1e4, 7]
    norm, scaler = RunningNorm((6,), clip=100.0), StandardScaler()
    for part in batches_of(data):
        norm.observe(part)
        scaler.partial_fit(part.numpy())
    torch.testing.assert_close(norm.mean.numpy(), scaler.mean_, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.variance.numpy(), scaler.var_, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(norm.mean.numpy(), data.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.variance.numpy(), data.var(0), rtol=1e-9, atol=1e-12)
    assert norm.count == len(data)
    expected = scaler.transform(data)
    found = norm(torch.from_numpy(data)).numpy()
    np.testing.assert_allclose(found[:, [0, 1, 4]], expected[:, [0, 1, 4]], rtol=1e-5, atol=1e-5)
    assert np.all(found[:, 5] == 0.0)  # a constant number
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.from_numpy(data))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_one_observation_at_a_time_far_from_zero():
    """Sums of squares would cancel here: the numbers are 1e8 away from zero with a deviation of 1."""
    data = 1e8 + np.random.default_rng(2).normal(size=(300, 2))
    norm = RunningNorm((2,))
    for row in data:
        norm.observe(torch.from_numpy(row[None]))
    np.testing.assert_allclose(norm.variance.numpy(), data.var(0), rtol=1e-6)


def test_statistics_stay_in_float64():
    """float32 counts to 2^24 and no further."""
    network = Chain([RunningNorm((2,)), MLP(2, (4,))]).float().half()
    norm = network.stages[0]
    assert isinstance(norm, RunningNorm)
    assert {buffer.dtype for buffer in norm.buffers()} == {torch.float64}
    norm.count.fill_(2.0**24)
    network.observe(torch.ones(1, 2))
    assert norm.count == 2**24 + 1
    assert norm.mean[0] > 0.0
    assert norm(torch.ones(1, 2)).dtype == torch.float32
    assert norm.to("meta").count.is_meta
    assert not norm.to_empty(device="cpu").count.is_meta


def test_cuts_what_is_far_out():
    norm = RunningNorm((1,), clip=3.0)
    norm.observe(torch.tensor([[-1.0], [1.0]]))
    assert norm(torch.tensor([[100.0], [-100.0], [0.5]])).flatten().tolist() == [3.0, -3.0, 0.5]


def test_is_what_functional_layer_norm_computes_on_tokens():
    tokens = numbers(2, 7, 12)
    torch.testing.assert_close(norm_named("layer", 12).double()(tokens), functional.layer_norm(tokens, (12,)))


def test_a_number_that_never_varied_is_not_scaled():
    """Divided by the root of its variance, 0, and of 1e-8, it would move by 10 where it moves by .001."""
    constant = torch.tensor([0.1, -7e5, 0.0]).expand(999, 3)
    seen = torch.cat([constant, torch.randn(999, 1, generator=torch.Generator().manual_seed(0))], 1)
    norm = RunningNorm((4,))
    for part in seen.split(100):
        norm.observe(part)
    assert norm.variance[:3].tolist() == [0.0, 0.0, 0.0]
    later = norm(torch.tensor([[0.101, -7e5 + 1.0, 0.001, 2.0]]))[0]
    torch.testing.assert_close(later[:3], torch.tensor([0.001, 1.0, 0.001]), rtol=1e-4, atol=1e-6)
    assert float(later[3]) == pytest.approx(float((2.0 - norm.mean[3]) / norm.variance[3].sqrt()), rel=1e-6)
    norm.observe(torch.tensor([[0.2, -7e5, 0.0, 0.0]]))  # now it varies
    assert norm.variance[0] == pytest.approx(0.1**2 * 999 / 1000**2, rel=1e-5)


def test_scales_of_data_that_does_not_vary():
    data = torch.tensor([0.1, 3.0]).repeat(1000, 1)
    data[0, 1] = 5.0
    assert scale_of(data).tolist() == [1.0, float(data[:, 1].std(correction=0))]
    predictor = Predictor(MLP(1, ()), 2)
    predictor.fit_scale(data)
    assert predictor.scale[0] == 1.0
    model = DiffusionModel(MLPDenoiser((2,)), (2,))
    model.standardize(data[1:])
    assert model.scale.tolist() == [1.0, 1.0]
