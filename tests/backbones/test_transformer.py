"""Our transformers against torch's, and what only ours can do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from agentlib.backbones import EncoderDecoder, TransformerDecoder, TransformerEncoder, from_spec
from agentlib.backbones.attention import Layer, MultiHeadAttention, Stack, attend, rotated, sinusoids

B, T, S, D, HEADS = 3, 6, 5, 8, 2


def assert_close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    ours.inputs.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    ours.output.load_state_dict(theirs.out_proj.state_dict())


def copy_layer(ours: Layer, theirs: Any) -> None:
    """The weights of a TransformerEncoderLayer or TransformerDecoderLayer, biases and norms made different first."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    copy_attention(ours.attention, theirs.self_attn)
    norms = [ours.attention_norm, ours.mlp_norm]
    if ours.cross is not None and ours.cross_norm is not None:
        copy_attention(ours.cross, theirs.multihead_attn)
        norms.insert(1, ours.cross_norm)
    for number, norm in enumerate(norms, 1):
        norm.load_state_dict(getattr(theirs, f"norm{number}").state_dict())
    ours.mlp[0].load_state_dict(theirs.linear1.state_dict())
    ours.mlp[3].load_state_dict(theirs.linear2.state_dict())


def causal_block(steps: int) -> Tensor:
    """Torch's polarity: True is blocked."""
    return torch.ones(steps, steps, dtype=torch.bool).triu(1)


PADDING = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 0]]).bool()  # (B, S), True is there


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("masked", ["no mask", "bools", "floats", "padding"])
@pytest.mark.parametrize("crossed", [False, True], ids=["self", "cross"])
def test_attention_equals_torch(crossed, masked, second_order):
    theirs = nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention(D, HEADS, second_order=second_order).double()
    copy_attention(ours, theirs)
    x = randn(B, S, D).requires_grad_()
    memory = randn(B, S, D).requires_grad_() if crossed else x
    mask, their_mask, their_padding = None, None, None
    if masked == "bools":
        mask = torch.rand(S, S) < 0.6
        mask |= torch.eye(S, dtype=torch.bool)
        their_mask = ~mask
    elif masked == "floats":
        mask = their_mask = randn(S, S)
    elif masked == "padding":
        mask, their_padding = PADDING[:, None, None, :], ~PADDING
    output, _ = ours(x, memory if crossed else None, mask)
    expected, _ = theirs(x, memory, memory, attn_mask=their_mask, key_padding_mask=their_padding, need_weights=False)
    assert_close(output, expected)
    probe = torch.randn_like(output)
    names = [ours.inputs.weight, ours.inputs.bias, *ours.output.parameters()]
    their_names = [theirs.in_proj_weight, theirs.in_proj_bias, *theirs.out_proj.parameters()]
    leaves = [x, memory] if crossed else [x]
    gradients = torch.autograd.grad(output, [*leaves, *names], probe)
    assert_close(gradients, torch.autograd.grad(expected, [*leaves, *their_names], probe))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("masked", [None, "causal", "padding"])
def test_encoder_layer_equals_torch(norm_first, activation, masked):
    theirs = nn.TransformerEncoderLayer(D, HEADS, 16, 0.0, activation, 1e-5, True, norm_first).double()
    ours = Layer(D, HEADS, 16, norm_first=norm_first, activation=activation).double()
    copy_layer(ours, theirs)
    x = randn(B, S, D).requires_grad_()
    if masked == "causal":
        output, _ = ours(x, causal=True)
        expected = theirs(x, src_mask=causal_block(S))
    elif masked == "padding":
        output, _ = ours(x, PADDING[:, None, None, :])
        expected = theirs(x, src_key_padding_mask=~PADDING)
    else:
        output, _ = ours(x)
        expected = theirs(x)
    assert_close(output, expected)
    probe = torch.randn_like(output)
    chosen: list[Any] = [
        ours.mlp[0].weight,
        ours.attention.inputs.weight,
        ours.attention_norm.weight,
        ours.mlp_norm.bias,
    ]
    their_chosen: list[Any] = [
        theirs.linear1.weight,
        theirs.self_attn.in_proj_weight,
        theirs.norm1.weight,
        theirs.norm2.bias,
    ]
    gradients = torch.autograd.grad(output, [x, *chosen], probe)
    assert_close(gradients, torch.autograd.grad(expected, [x, *their_chosen], probe))


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_decoder_layer_equals_torch(norm_first):
    theirs = nn.TransformerDecoderLayer(D, HEADS, 16, 0.0, "gelu", 1e-5, True, norm_first).double()
    ours = Layer(D, HEADS, 16, cross=True, norm_first=norm_first).double()
    copy_layer(ours, theirs)
    x, memory = randn(B, T, D).requires_grad_(), randn(B, S, D).requires_grad_()
    output, _ = ours(x, causal=True, memory=memory, memory_mask=PADDING[:, None, None, :])
    expected = theirs(x, memory, tgt_mask=causal_block(T), memory_key_padding_mask=~PADDING)
    assert_close(output, expected)
    assert ours.cross is not None
    probe = torch.randn_like(output)
    gradients = torch.autograd.grad(output, [x, memory, ours.cross.inputs.weight], probe)
    their_gradients = torch.autograd.grad(expected, [x, memory, theirs.multihead_attn.in_proj_weight], probe)
    assert_close(gradients, their_gradients)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_whole_encoder_equals_torch(norm_first):
    """Torch leaves the last norm of a pre-norm encoder to its user; ours has it."""
    one = nn.TransformerEncoderLayer(D, HEADS, 4 * D, 0.0, "gelu", 1e-5, True, norm_first)
    last = nn.LayerNorm(D) if norm_first else None
    theirs = nn.TransformerEncoder(one, 3, last, enable_nested_tensor=False).double()
    ours = TransformerEncoder(D, D, 3, HEADS, positions="none", norm_first=norm_first).double()
    with torch.no_grad():
        ours.embedding.content.weight.copy_(torch.eye(D))
        nn.init.zeros_(ours.embedding.content.get_parameter("bias"))
    for layer, their_layer in zip(ours.stack.layers, theirs.layers, strict=True):
        assert isinstance(layer, Layer)
        copy_layer(layer, their_layer)
    x = randn(B, S, D)
    tokens = theirs(x, src_key_padding_mask=~PADDING)
    assert_close(ours.maps(x, PADDING)[-1], tokens)
    assert_close(ours(x, PADDING), (tokens * PADDING[..., None]).sum(1) / PADDING.sum(1, keepdim=True))


def test_a_row_that_may_read_nothing_gives_numbers():
    mask = torch.tensor([True, False])[:, None, None, None].expand(2, 1, T, T)
    q, k, v = (torch.randn(2, HEADS, T, 4, requires_grad=True) for _ in range(3))
    for second_order in (False, True):
        output = attend(q, k, v, mask, second_order=second_order)
        assert torch.isfinite(output).all()
        assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(output.sum(), (q, k, v)))


def test_rotary_positions_see_distances_only():
    q, k = randn(1, 1, T, D), randn(1, 1, T, D)
    step = torch.arange(T)[None]
    products = rotated(q, step) @ rotated(k, step).mT
    assert_close(rotated(q, step + 1000) @ rotated(k, step + 1000).mT, products)
    assert_close(rotated(q, torch.zeros_like(step)), q)
    pair = rotated(torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64), torch.tensor([[2]]))[0, 0, 0]
    two = torch.tensor(2.0, dtype=torch.float64)
    assert_close(pair, torch.stack([two.cos(), two.sin()]))


def test_sinusoids_are_the_papers():
    position = randn(4)
    pairs = [f(position / 10_000 ** (2 * i / D)) for i in range(D // 2) for f in (torch.sin, torch.cos)]
    assert_close(sinusoids(position, D, torch.float64), torch.stack(pairs, 1))


# The decoder: causality, cache, window, resets ------------------------------------------------------------------------

KINDS = ["rotary", "learned", "sinusoidal", "none"]


def decoder(**arguments: Any) -> TransformerDecoder:
    return TransformerDecoder(4, D, 2, HEADS, **{"window": 4, **arguments}).double().eval()


@pytest.mark.parametrize("positions", KINDS)
@pytest.mark.parametrize("window", [1, 3, 64])
def test_no_step_sees_the_future_or_what_lies_behind_the_window(window, positions):
    network = decoder(window=window, positions=positions, second_order=True)
    jacobian: Any = jacrev(lambda x: network(x[None])[0][0])
    seen = jacobian(randn(T, 4)).abs().sum((1, 3))  # (T, T): of the features at t, by the input at s
    lag = torch.arange(T)[:, None] - torch.arange(T)
    visible = (lag >= 0) & (lag <= 2 * (window - 1))  # two layers
    assert (seen[~visible] == 0).all()
    assert (seen[visible] > 0).all()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("positions", KINDS)
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_step_by_step_equals_the_whole(chunk, positions, norm_first):
    """Longer than the window, so that the cache is full and moves on."""
    network = decoder(positions=positions, norm_first=norm_first)
    x = randn(B, 15, 4)
    whole, end = network(x)
    outputs, state = [], None
    for piece in x.split(chunk, 1):
        output, state = network(piece, state)
        outputs.append(output)
    assert_close(torch.cat(outputs, 1), whole)
    assert_close(state, end)


@pytest.mark.parametrize("positions", KINDS)
@pytest.mark.parametrize("window", [4, 64])
def test_an_episode_that_starts_inside_a_sequence_is_read_as_if_alone(positions, window):
    network = decoder(window=window, positions=positions)
    x = randn(2, 9, 4)
    start = torch.zeros(2, 9, dtype=torch.bool)
    start[0, 5] = start[1, 0] = start[1, 7] = True
    _, before = network(randn(2, 6, 4))
    outputs, end = network(x, before, start)
    for row, first, last in ((0, 5, 9), (1, 0, 7), (1, 7, 9)):
        alone, alone_end = network(x[row : row + 1, first:last])
        assert_close(outputs[row : row + 1, first:last], alone)
    assert end[2].tolist() == [4, 2]
    following, _ = network(randn(2, 3, 4).fill_(0.5), end)
    alone, _ = network(randn(1, 3, 4).fill_(0.5), alone_end)
    assert_close(following[1:], alone)
    assert_close(network(x, before, start[:1].expand(2, -1))[0][1, :5], network(x, before)[0][1, :5])


def test_without_positions_and_mask_the_order_does_not_matter():
    network = TransformerEncoder(4, D, 2, HEADS, positions="none").double()
    x, order = randn(B, T, 4), torch.randperm(T)
    assert_close(network.maps(x[:, order])[-1], network.maps(x)[-1][:, order])
    assert_close(network(x[:, order]), network(x))
    placed = TransformerEncoder(4, D, 2, HEADS).double()
    assert not torch.allclose(placed(x[:, order]), placed(x))


def test_padding_of_an_encoder_is_not_read():
    network = TransformerEncoder(4, D, 2, HEADS).double()
    x = randn(B, S, 4)
    other = torch.where(PADDING[..., None], x, torch.full_like(x, 100.0))
    assert_close(network(other, PADDING), network(x, PADDING))
    assert_close(network(x[:1, :4], PADDING[:1, :4]), network(x[:1], PADDING[:1]))


def test_encoder_decoder_step_by_step_equals_the_whole():
    encoder = TransformerEncoder(dim=D, heads=HEADS, vocabulary=11, positions="sinusoidal").double()
    network = EncoderDecoder(encoder, TransformerDecoder(dim=D, heads=HEADS, vocabulary=7, cross=True).double())
    source, target = torch.randint(11, (B, S)), torch.randint(7, (B, T))
    whole = network(source, target, PADDING)
    memory, state, outputs = network.read(source, PADDING), None, []
    for token in target.split(1, 1):
        output, state = network.decoder(token, state, memory=memory, memory_mask=PADDING)
        outputs.append(output)
    assert_close(torch.cat(outputs, 1), whole)
    changed = source.clone()
    changed[0, 4], changed[2, 1] = (changed[0, 4] + 1) % 11, (changed[2, 1] + 1) % 11  # padding
    assert_close(network(changed, target, PADDING), whole)
    again = from_spec(network.spec).double()
    again.load_state_dict(network.state_dict())
    assert_close(again(source, target, PADDING), whole)


# Start, derivatives, transformations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 4, 16])
def test_residual_branches_start_small_enough_that_depth_does_not_matter(layers):
    stack = Stack([Layer(64, 4, 256) for _ in range(layers)])
    stack.norm = nn.Identity()
    x = torch.randn(16, 10, 64)
    growth = (stack(x)[0][-1] - x).std() / x.std()
    assert 0.3 < growth < 1.5


@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
def test_contents_and_positions_start_at_one_size(kind):
    embedding = kind(vocabulary=200, positions="learned").embedding
    assert embedding.content.weight.std().item() == pytest.approx(0.5**0.5, rel=0.05)
    assert embedding.table.weight.std().item() == pytest.approx(0.5**0.5, rel=0.05)


def test_gradients_of_gradients():
    x = randn(1, 3, 2).requires_grad_()
    for network in (
        TransformerEncoder(2, 4, 1, 2, second_order=True).double(),
        TransformerDecoder(2, 4, 1, 2, second_order=True, window=2).double(),
    ):
        assert torch.autograd.gradgradcheck(lambda x, network=network: network.maps(x)[-1], (x,))


@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
def test_vmap_over_weights(kind):
    networks = [kind(4, D, 2, HEADS, second_order=True) for _ in range(3)]
    x = torch.randn(B, T, 4)
    stacked, _ = torch.func.stack_module_state(networks)

    def tokens(weights: dict[str, Tensor]) -> Tensor:
        output = functional_call(networks[0], weights, (x,))
        return output[0] if isinstance(output, tuple) else output

    outputs = torch.func.vmap(tokens)(stacked)
    expected = [tokens(dict(network.named_parameters())) for network in networks]
    torch.testing.assert_close(outputs, torch.stack(expected))


@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
def test_dropout_is_for_training_only(kind):
    network = kind(4, D, 2, HEADS, dropout=0.5)
    x = torch.randn(B, T, 4)
    assert not torch.equal(network.maps(x)[-1], network.maps(x)[-1])
    network.eval()
    torch.testing.assert_close(network.maps(x)[-1], network.maps(x)[-1])


def test_dropout_of_attention_is_inverted():
    torch.manual_seed(0)
    value = torch.eye(400)[None, None]
    query = key = torch.zeros(1, 1, 400, 4)
    weights = attend(query, key, value, dropout=0.25)
    assert (weights == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert weights.sum(-1).mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "network",
    [
        TransformerEncoder(4, D, 1, HEADS, 12, dropout=0.1, pool="first", norm_first=False),
        TransformerEncoder(dim=D, heads=HEADS, vocabulary=9, positions="sinusoidal", activation="relu"),
        TransformerDecoder(4, D, 1, HEADS, window=3, second_order=True),
    ],
    ids=["encoder", "tokens", "decoder"],
)
def test_spec_rebuilds(network):
    again = from_spec(network.spec).eval()
    assert again.spec == network.spec
    again.load_state_dict(network.state_dict())
    x = torch.randint(9, (B, T)) if network.vocabulary else torch.randn(B, T, 4)
    torch.testing.assert_close(again(x), network.eval()(x))


def other(name: str) -> Any:
    return name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TransformerEncoder(4, 10, heads=4), "4 heads do not divide the width 10"),
        (lambda: TransformerEncoder(4, positions=other("rotray")), "unknown positions 'rotray'; close matches: rotary"),
        (lambda: TransformerDecoder(4, 6, heads=2), "dim / heads must be even, not 3"),
        (lambda: TransformerDecoder(4, vocabulary=3), "input_dim.* or vocabulary.*: one of them"),
        (lambda: TransformerDecoder(4, window=0), "at least one step, not 0"),
        (lambda: TransformerEncoder(4, layers=0), "at least one layer"),
        (lambda: TransformerEncoder(4, pool=other("max")), "unknown pool 'max'"),
        (lambda: TransformerEncoder(4, max_length=5)(torch.zeros(1, 6, 4)), "6 steps is longer than the 5 learned"),
        (lambda: TransformerEncoder(4)(torch.zeros(1, 6, 3)), r"reads \(B, T, 4\), not \(1, 6, 3\)"),
        (lambda: TransformerEncoder(vocabulary=4)(torch.zeros(1, 6, 4)), r"reads \(B, T\), not \(1, 6, 4\)"),
        (lambda: TransformerDecoder(4, cross=True)(torch.zeros(1, 6, 4)), "cross=True reads memory="),
        (lambda: TransformerDecoder(4, cross=True).whole(torch.zeros(1, 6, 4)), "cross=True reads memory="),
        (lambda: EncoderDecoder(TransformerEncoder(4), TransformerDecoder(4)), "build it with cross=True"),
        (lambda: EncoderDecoder(TransformerEncoder(4), TransformerDecoder(4, 32, cross=True)), "not 64 and 32"),
    ],
)
def test_errors_say_what_fits(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
def test_bfloat16_autocast(kind):
    network = kind(4, 32)
    x = torch.randn(B, T, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = network.maps(x)[-1]
    torch.testing.assert_close(low.float(), network.maps(x)[-1], rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_an_encoder_decoder_learns_to_reverse():
    """Eight digits, backwards: without attention to the source the best guess is one of ten."""
    torch.manual_seed(0)
    encoder = TransformerEncoder(dim=32, vocabulary=10, max_length=8)
    network = EncoderDecoder(encoder, TransformerDecoder(dim=32, vocabulary=11, positions="learned", cross=True))
    head = nn.Linear(32, 10)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], 3e-3)
    for _ in range(300):
        source = torch.randint(10, (64, 8))
        goal = source.flip(1)
        asked = torch.cat([torch.full((64, 1), 10), goal[:, :-1]], 1)
        logits = head(network(source, asked))
        loss = functional.cross_entropy(logits.flatten(0, 1), goal.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(-1) == goal).float().mean() > 0.98
