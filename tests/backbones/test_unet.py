"""The U-Net against plain functions, on sides of any size, with and without a condition."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from agentlib.backbones import CNN, MapDecoder, ResNet, UNet


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stirred(network):
    """All weights moved, so that those that start at zero count."""
    for i, parameter in enumerate(network.parameters()):
        parameter.data += 0.1 * numbers(*parameter.shape, seed=i)
    return network


def conv(x, layer, stride=1):
    return functional.conv2d(x, layer.weight, layer.bias, stride, layer.kernel_size[0] // 2)


def norm(x, layer):
    return functional.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)


def block(x, module, condition):
    h = conv(functional.silu(norm(x, module.enter[0])), module.enter[2])
    scale, shift = (condition @ module.condition.weight.T + module.condition.bias)[:, :, None, None].chunk(2, 1)
    h = conv(functional.silu(norm(h, module.norm) * (1 + scale) + shift), module.leave[1])
    return h + (x if isinstance(module.skip, nn.Identity) else conv(x, module.skip))


def test_equals_plain_functions():
    network = stirred(seeded(lambda: UNet((2, 7, 10), 3, widths=(16, 24, 32), condition_dim=5)).double())
    x, condition = numbers(2, 2, 7, 10), numbers(2, 5, seed=2)
    padded = functional.pad(x, (0, 2, 0, 1), mode="replicate")  # to 8 x 12, multiples of 4
    a = block(conv(padded, network.enter), network.blocks[0], condition)
    b = block(conv(a, network.steps[0], 2), network.blocks[1], condition)
    c = block(conv(b, network.steps[1], 2), network.blocks[2], condition)
    decoder = network.decoder
    up = conv(c.repeat_interleave(2, 2).repeat_interleave(2, 3), decoder.steps[0])
    up = block(torch.cat([up, b], 1), decoder.blocks[0], condition)
    up = conv(up.repeat_interleave(2, 2).repeat_interleave(2, 3), decoder.steps[1])
    up = block(torch.cat([up, a], 1), decoder.blocks[1], condition)
    expected = conv(functional.silu(norm(up, decoder.output[0])), decoder.output[2])[..., :7, :10]
    torch.testing.assert_close(network(x, condition), expected, rtol=0, atol=1e-10)
    for found, wanted in zip(network.maps(x, condition), [a, b, c], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sides", [(8, 8), (9, 8), (5, 13), (3, 3)])
def test_sides_of_any_size(sides):
    network = UNet((1, *sides), 4, widths=(8, 8, 8))
    assert network(torch.rand(2, 1, *sides)).shape == (2, 4, *sides)


def test_the_condition():
    network = seeded(lambda: UNet((1, 8, 8), widths=(8, 16), condition_dim=3))
    x, condition = torch.rand(2, 1, 8, 8), torch.randn(2, 3)
    assert torch.equal(network(x), network(x, condition))  # a fresh network does not look at it
    stirred(network)
    assert torch.equal(network(x), network(x, torch.zeros(2, 3)))
    assert not torch.allclose(network(x), network(x, condition), atol=1e-3)
    with pytest.raises(ValueError, match=r"shape \(2, 4\), and \(2, 3\) is needed"):
        network(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"takes no condition: build it with condition_dim"):
        UNet((1, 8, 8))(x, condition)


def test_skips_carry_what_the_coarse_maps_have_lost():
    """Without what the encoder had at full size, an output cannot follow single pixels."""
    network = stirred(seeded(lambda: UNet((1, 8, 8), widths=(8, 16))).double())
    x = numbers(1, 1, 8, 8)
    fine, coarse = network.maps(x)
    with_skip = network.decoder([fine, coarse])
    without = network.decoder([torch.zeros_like(fine), coarse])
    assert float((with_skip - without).detach().abs().max()) > 0.1


@pytest.mark.parametrize("build", [lambda: ResNet((3, 33, 40), (1, 1), 8), lambda: CNN((3, 33, 40), (8, "max", 16), 4)])
def test_a_decoder_takes_the_maps_of_any_encoder(build):
    encoder = build()
    x = torch.rand(2, 3, 33, 40)
    maps = encoder.maps(x)[1:]
    decoder = MapDecoder([one.shape[1] for one in maps], 5)
    assert decoder(maps).shape == (2, 5, *maps[0].shape[-2:])
    assert decoder(maps, sides=encoder.layout.sides).shape == (2, 5, 33, 40)
    with pytest.raises(ValueError, match="built for maps of"):
        decoder(maps[:-1])


@pytest.mark.slow
def test_learns_to_find_shapes():
    """Squares and crosses in noise, from few images: mean intersection over union, background included."""
    from agentlib.backbones import adam
    from agentlib.core import Clock, Step

    def scenes(count, generator):
        labels = torch.zeros(count, 15, 17, dtype=torch.long)
        for picture in labels:
            for kind in (1, 2):
                row, column = (int(torch.randint(0, high, (), generator=generator)) for high in (10, 12))
                if kind == 1:
                    picture[row : row + 5, column : column + 5] = 1
                else:
                    picture[row : row + 5, column + 2] = 2
                    picture[row + 2, column : column + 5] = 2
        images = (labels > 0).float()[:, None] + 0.3 * torch.randn(count, 1, 15, 17, generator=generator)
        return images, labels

    generator = torch.Generator().manual_seed(0)
    images, labels = scenes(256, generator)
    held_out, truth = scenes(64, generator)
    network = seeded(lambda: UNet((1, 15, 17), 3, widths=(16, 32)))
    step = Step(network, adam(3e-3))
    for _ in range(120):
        rows = torch.randint(0, 256, (32,), generator=generator)
        step(functional.cross_entropy(network(images[rows]), labels[rows]), Clock(0, 0, 0.0))
    with torch.no_grad():
        found = network(held_out).argmax(1)
    overlap = [
        ((found == kind) & (truth == kind)).sum() / ((found == kind) | (truth == kind)).sum() for kind in range(3)
    ]
    assert float(torch.stack(overlap).mean()) > 0.8
