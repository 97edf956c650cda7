import pytest
import torch
from torch import nn

from agentlib.backbones import CNN, MLP
from agentlib.core.randomness import fresh_weights
from agentlib.data import shape_scenes
from agentlib.learners.vision.style import gram, style_loss, stylize
from agentlib.learners.vision.vgg import DEVIATION, MEAN, VGG


@pytest.fixture(scope="module")
def network():
    with fresh_weights(0):
        return CNN((3, 16, 16), (8, "average", 16), norm="none", activation="tanh")


@pytest.fixture(scope="module")
def images():
    return shape_scenes(2, seed=3, size=16).images.float() / 255


def test_gram_matrices():
    maps = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("bchw,bdhw->bcd", maps, maps) / 12
    torch.testing.assert_close(gram(maps), expected)
    places = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gram(maps.flatten(2)[:, :, places].unflatten(2, (4, 3))), expected)
    assert float(style_loss([maps[:1]], [expected[:1]])) == pytest.approx(0.0, abs=1e-12)
    # The paper's 1 / (4 N^2 M^2) |F F' - S S'|^2
    other = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(2))
    flat = maps[:1].flatten(2)
    paper = (flat @ flat.mT - other @ other.mT).square().sum() / (4 * 5**2 * 12**2)
    assert float(style_loss([maps[:1]], [other @ other.mT / 12])) == pytest.approx(float(paper), rel=1e-5)
    both = style_loss([maps[:1]] * 2, [other @ other.mT / 12] * 2, [3.0, 2.0])
    assert float(both) == pytest.approx(5.0 * float(paper), rel=1e-5)


def test_the_style_comes_near_and_the_content_comes_back(network, images):
    content, style = images
    before = [parameter.clone() for parameter in network.parameters()]
    noise = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    styled = stylize(network, content, style, content_weight=0.0, start=noise, steps=8)
    assert styled.style[-1] < 0.01 * styled.style[0]
    back = stylize(network, content, style, style_weight=0.0, content_layer=0, start=noise, steps=8)
    assert back.content[-1] < 1e-3 * back.content[0]
    assert styled.image.shape == (1, 3, 16, 16)
    assert float(styled.image.min()) >= 0.0
    assert float(styled.image.max()) <= 1.0
    assert all(map(torch.equal, before, network.parameters()))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    same = stylize(network, content, style, steps=0)
    assert torch.equal(same.image[0], content)
    assert same.content == [0.0]


def test_what_does_not_fit_is_refused(network, images):
    with pytest.raises(ValueError, match=r"images of one shape \(C, H, W\), not \(3, 16, 16\), \(3, 8, 8\)"):
        stylize(network, images[0], images[1][:, :8, :8])
    with pytest.raises(ValueError, match="needs a network with maps"):
        stylize(MLP(768), *images)


def test_parts_of_the_network_that_were_in_eval_mode_stay_in_it(network, images):
    network.train()
    frozen = list(network.modules())[-1].eval()
    stylize(network, *images, steps=0)
    assert network.training
    assert not frozen.training


def plain_vgg(pooling):
    """As torchvision's vgg11, with an eighth of its channels, and random weights."""
    modules, channels = [], 3
    for layer in (8, "pool", 16, "pool", 32, 32, "pool", 64, 64, "pool", 64, 64, "pool"):
        if isinstance(layer, str):
            modules.append(pooling(2))
        else:
            modules += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU()]
            channels = layer
    return nn.Sequential(*modules)


@pytest.mark.parametrize(("name", "pooling"), [("average", nn.AvgPool2d), ("max", nn.MaxPool2d)])
def test_the_weights_of_a_vgg_are_read_by_their_names(name, pooling):
    with fresh_weights(0):
        plain = plain_vgg(pooling)
    state = {f"features.{key}": value for key, value in plain.state_dict().items()}
    network = VGG(state | {"classifier.0.weight": torch.zeros(8, 8)}, name)
    assert network.names == ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"]
    images = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    x = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    expected = []
    for module in plain:
        x = module(x)
        if isinstance(module, nn.ReLU):
            expected.append(x)
    for ours, theirs in zip(network.maps(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_image_in_the_style_of_another_by_a_vgg(images):
    with fresh_weights(0):
        state = {f"features.{key}": value for key, value in plain_vgg(nn.MaxPool2d).state_dict().items()}
    network = VGG(state)
    layers = [network.names.index(f"conv{block}_1") for block in (1, 2, 3)]
    styled = stylize(network, *images, layers=layers, content_layer=network.names.index("conv3_2"), steps=3)
    assert styled.style[-1] < styled.style[0]
    with pytest.raises(ValueError, match=r"no state dict of torchvision's VGG without batch normalization"):
        VGG(state | {"features.1.weight": torch.ones(8)})
    with pytest.raises(ValueError, match=r"no state dict of torchvision's VGG"):
        VGG({"conv1.weight": torch.ones(8, 3, 3, 3)})
    with pytest.raises(ValueError, match=r"no state dict of torchvision's VGG"):
        VGG({"features.0.weight": torch.ones(8, 3, 3, 3)})  # without biases
