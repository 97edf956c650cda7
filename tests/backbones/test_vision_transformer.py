"""ViT and Swin against the models of `transformers`, built from their configs with random weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from agentlib.backbones import Swin, ViT, from_spec
from agentlib.backbones.attention import Layer
from agentlib.backbones.vision_transformer import SwinLayer, joined, neighbours, offsets, windows


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def count(network: nn.Module, classes: int = 1000) -> int:
    """With a linear head on the features."""
    return sum(p.numel() for p in network.parameters()) + classes * (int(network.feature_dim) + 1)  # type: ignore[arg-type]


def roughened(network: nn.Module) -> nn.Module:
    """Every weight made different from its neutral start."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def copy_layer(ours: Layer, theirs: Any, norms: tuple[nn.Module, nn.Module], mlp: Any) -> None:
    """From `transformers`, which keeps query, key and value apart."""
    parts = [theirs.q_proj, theirs.k_proj, theirs.v_proj]
    ours.attention.inputs.load_state_dict(
        {name: torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias")}
    )
    ours.attention.output.load_state_dict(theirs.o_proj.state_dict())
    ours.attention_norm.load_state_dict(norms[0].state_dict())
    ours.mlp_norm.load_state_dict(norms[1].state_dict())
    ours.mlp[0].load_state_dict(mlp.fc1.state_dict())
    ours.mlp[3].load_state_dict(mlp.fc2.state_dict())


def their_vit(shape: tuple[int, int, int], patch: int, dim: int, layers: int, heads: int) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=shape[1:], patch_size=patch, num_channels=shape[0], hidden_size=dim, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * dim, layer_norm_eps=1e-6,
    )  # fmt: skip
    return roughened(transformers.ViTModel(config, add_pooling_layer=False))


@pytest.mark.slow  # importing `transformers` takes seconds
@pytest.mark.parametrize(
    ("shape", "patch", "dim", "layers", "heads"),
    [
        pytest.param((3, 32, 32), 4, 24, 3, 4, id="small"),
        pytest.param((1, 8, 8), 2, 16, 2, 2, id="digits"),
        pytest.param((2, 16, 32), 8, 16, 1, 2, id="wide"),
        pytest.param((3, 224, 224), 16, 768, 12, 12, id="ViT-B/16"),
    ],
)
def test_vit_equals_transformers(shape, patch, dim, layers, heads):
    theirs = their_vit(shape, patch, dim, layers, heads)
    ours = ViT(shape, patch, dim, layers, heads).eval()
    ours.patches.load_state_dict(theirs.embeddings.patch_embeddings.projection.state_dict())
    assert ours.class_token is not None
    with torch.no_grad():
        ours.class_token.copy_(theirs.embeddings.cls_token)
        ours.positions.copy_(theirs.embeddings.position_embeddings)
    for layer, other in zip(ours.stack.layers, theirs.layers, strict=True):
        assert isinstance(layer, Layer)
        copy_layer(layer, other.attention, (other.layernorm_before, other.layernorm_after), other.mlp)
    ours.stack.norm.load_state_dict(theirs.layernorm.state_dict())
    image = torch.rand(2, *shape)
    with torch.no_grad():
        tokens = theirs(image).last_hidden_state
        torch.testing.assert_close(ours.maps(image)[-1], tokens, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(image), tokens[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "patch", "dim", "depths", "heads", "window"),
    [
        pytest.param((3, 32, 32), 4, 12, (2, 2), (2, 3), 4, id="small"),
        pytest.param((1, 48, 24), 2, 8, (2, 1, 1), (2, 2, 4), 3, id="long"),
        pytest.param((3, 224, 224), 4, 96, (2, 2, 6, 2), (3, 6, 12, 24), 7, id="Swin-T"),
    ],
)
def test_swin_equals_transformers(shape, patch, dim, depths, heads, window):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=shape[1:], patch_size=patch, num_channels=shape[0], embed_dim=dim, depths=list(depths),
        num_heads=list(heads), window_size=window,
    )  # fmt: skip
    theirs: Any = roughened(transformers.SwinModel(config))
    ours = Swin(shape, patch, dim, depths, heads, window).eval()
    ours.patches.load_state_dict(theirs.embeddings.patch_embeddings.projection.state_dict())
    ours.patch_norm.load_state_dict(theirs.embeddings.norm.state_dict())
    ours.norm.load_state_dict(theirs.layernorm.state_dict())
    for stage, other_stage in zip(ours.stages, theirs.encoder.layers, strict=True):
        assert isinstance(stage, nn.Sequential)
        for layer, other in zip(stage, other_stage.blocks, strict=True):
            assert isinstance(layer, SwinLayer)
            copy_layer(layer.layer, other.attention, (other.layernorm_before, other.layernorm_after), other.mlp)
            with torch.no_grad():
                layer.bias.copy_(other.attention.relative_position_bias.relative_position_bias_table)
    for merging, other_stage in zip(ours.mergings, theirs.encoder.layers, strict=False):
        merging.norm.load_state_dict(other_stage.downsample.norm.state_dict())  # type: ignore[union-attr]
        merging.reduce.load_state_dict(other_stage.downsample.reduction.state_dict())  # type: ignore[union-attr]
    image = torch.rand(2, *shape)
    with torch.no_grad():
        expected = theirs(image)
        tokens = ours.maps(image)[-1].flatten(2).mT
        torch.testing.assert_close(tokens, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(image), expected.pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_sizes_of_the_published_networks():
    with torch.device("meta"):
        assert count(ViT((3, 224, 224), 16, 768, 12, 12)) == 86_567_656
        assert count(Swin((3, 224, 224))) == 28_288_354


# Parts ----------------------------------------------------------------------------------------------------------------


def test_a_strided_convolution_is_a_linear_layer_on_patches():
    network = ViT((3, 8, 12), patch=4, dim=10, heads=2).double()
    image = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    patches = nn.functional.unfold(image, 4, stride=4).mT  # (B, 6, 48)
    linear = nn.functional.linear(patches, network.patches.weight.flatten(1), network.patches.bias)
    torch.testing.assert_close(network.embed(image)[:, 1:], linear + network.positions[:, 1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_windows_join_to_what_they_were_cut_from(side):
    x = torch.randn(3, 8, 12, 5)
    cut = windows(x, side)
    assert cut.shape == (3 * (8 // side) * (12 // side), side**2, 5)
    assert torch.equal(joined(cut, side, 8, 12), x)
    assert torch.equal(cut[1], x[0, :side, side : 2 * side].reshape(-1, 5))


def test_offsets_number_each_offset_once():
    side = 3
    number = offsets(side)
    seen: dict[int, set[tuple[int, int]]] = {}
    for i in range(side**2):
        for j in range(side**2):
            step = (i // side - j // side, i % side - j % side)
            seen.setdefault(int(number[i, j]), set()).add(step)
    assert sorted(seen) == list(range((2 * side - 1) ** 2))
    assert all(len(steps) == 1 for steps in seen.values())


@pytest.mark.parametrize(("height", "width", "side", "shift"), [(8, 8, 4, 2), (6, 9, 3, 1), (14, 21, 7, 3)])
def test_only_real_neighbours_read_each_other(height, width, side, shift):
    """By the true places of the tokens: in one window, and nearer than its side, which wrapped pairs are not."""
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    cut = windows(place.roll((-shift, -shift), (0, 1))[None], side)  # (windows, side^2, 2)
    distance = (cut[:, :, None] - cut[:, None]).abs().amax(-1)
    assert torch.equal(neighbours(height, width, side, shift), distance < side)


def test_shifted_windows_see_across_borders_but_not_around():
    layer = SwinLayer((8, 8), 4, 2, Layer(4, 2, 8, second_order=True))
    x = torch.randn(1, 8, 8, 4)

    def seen_by(row: int, column: int) -> Tensor:
        jacobian: Any = torch.func.jacrev(lambda x: layer(x)[0, row, column].sum())
        return jacobian(x)[0].abs().sum(-1) > 0  # (8, 8)

    middle = torch.zeros(8, 8, dtype=torch.bool)
    middle[2:6, 2:6] = True
    assert torch.equal(seen_by(3, 4), middle)  # two windows without the shift
    corner = torch.zeros(8, 8, dtype=torch.bool)
    corner[:2, :2] = True
    assert torch.equal(seen_by(0, 0), corner)  # in one window with the other three corners, unread


# As a backbone --------------------------------------------------------------------------------------------------------

SMALL = [
    pytest.param(lambda: ViT((1, 8, 8), 2, 16, 2, 2), (1, 8, 8), id="vit-digits"),
    pytest.param(lambda: ViT((36, 36, 3), 4, 16, 1, 2, pool="mean", channels_last=True), (36, 36, 3), id="vit-36"),
    pytest.param(lambda: Swin((3, 32, 32), 4, 8, (2, 2), (1, 2), 4), (3, 32, 32), id="swin-32"),
    pytest.param(lambda: Swin((1, 36, 36), 2, 8, (2, 1), (2, 2), 9, dropout=0.1), (1, 36, 36), id="swin-36"),
    pytest.param(lambda: Swin((1, 8, 8), 1, 8, (2, 2), (2, 2), 4), (1, 8, 8), id="swin-digits"),
]


@pytest.mark.parametrize(("build", "shape"), SMALL)
def test_features_maps_and_spec(build, shape):
    network = build().eval()
    image = torch.randint(256, (3, *shape), dtype=torch.uint8)
    features = network(image)
    assert features.shape == (3, network.feature_dim)
    torch.testing.assert_close(network(image.float() / 255), features)
    last = network.maps(image)[-1]
    if isinstance(network, Swin):
        torch.testing.assert_close(last.mean((2, 3)), features)
    else:
        torch.testing.assert_close(last[:, 0] if network.pool == "class" else last.mean(1), features)
    again = from_spec(network.spec).eval()
    assert again.spec == network.spec
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(image), features)


@pytest.mark.parametrize("kind", [ViT, Swin])
def test_gradients_of_gradients_and_vmap(kind):
    extra: dict[str, Any] = {"second_order": True}
    extra |= {"patch": 1, "dim": 4, "heads": (2,), "depths": (2,), "window": 2} if kind is Swin else {}
    extra |= {"patch": 2, "dim": 4, "heads": 2, "layers": 1} if kind is ViT else {}
    networks = [kind((1, 4, 4), **extra).double() for _ in range(2)]
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(networks[0], (x,))
    stacked, _ = torch.func.stack_module_state(networks)
    outputs = torch.func.vmap(lambda weights: functional_call(networks[0], weights, (x,)))(stacked)
    torch.testing.assert_close(outputs, torch.stack([network(x) for network in networks]))


@pytest.mark.parametrize("kind", [ViT, Swin])
def test_bfloat16_autocast(kind):
    network = kind((3, 32, 32), dim=32, heads=4) if kind is ViT else Swin((3, 32, 32), 4, 16, (2, 2), (2, 2), 4)
    image = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(image)
    torch.testing.assert_close(low.float(), network(image), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ViT((3, 30, 32), 4), r"4x4 do not tile an image of 30x32; sides that do: \[1, 2\]"),
        (lambda: ViT((3, 32, 32), 4, 30), "4 heads do not divide the width 30"),
        (lambda: ViT((3, 32, 32), pool="max"), "unknown pool 'max'"),  # type: ignore[arg-type]
        (lambda: Swin((3, 40, 40)), r"7x7 do not tile the 10x10 tokens of stage 1; sides that do: \[1, 2, 5, 10\]"),
        (lambda: Swin((1, 36, 36), 4, 8, (1, 1), (1, 1), 3), "9x9 tokens of stage 1 cannot be merged"),
        (lambda: Swin((3, 32, 32), depths=(2, 2)), "name the same stages"),
    ],
)
def test_errors_say_what_fits(build, message):
    with pytest.raises(ValueError, match=message):
        build()
