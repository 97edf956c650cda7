"""Our recurrent networks against torch's, and what only ours can do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from agentlib.backbones import GRU, LSTM, RNN, from_spec
from agentlib.backbones.recurrent import Recurrent

B, T, D, H = 3, 7, 4, 5
CASES = [
    pytest.param(RNN, nn.RNN, {}, id="rnn"),
    pytest.param(RNN, nn.RNN, {"nonlinearity": "relu"}, id="rnn-relu"),
    pytest.param(LSTM, nn.LSTM, {}, id="lstm"),
    pytest.param(GRU, nn.GRU, {}, id="gru"),
]
SIZES = [
    pytest.param(n, both, id=f"{n} layers, {'both ways' if both else 'forward'}") for n in (1, 2) for both in (0, 1)
]
CELLS = [RNN, LSTM, GRU]


def parts(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def random_state(network: Recurrent, batch_size: int = B) -> Any:
    state = tuple(torch.randn_like(part).requires_grad_() for part in parts(network.initial_state(batch_size)))
    return state if network.parts == 2 else state[0]


def torchs(state: Any) -> Any:
    """Torch has the layers before the batch."""
    turned = tuple(part.transpose(0, 1).contiguous() for part in parts(state))
    return turned if isinstance(state, tuple) else turned[0]


def assert_close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("layers", "both"), SIZES)
@pytest.mark.parametrize(("kind", "torch_kind", "extra"), CASES)
def test_equals_torch(kind, torch_kind, extra, layers, both, padded):
    """Outputs, states and gradients, with weights copied by `load_state_dict`."""
    theirs = torch_kind(D, H, layers, batch_first=True, bidirectional=bool(both), **extra).double()
    ours = kind(D, H, layers, bool(both), **extra).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    state = random_state(ours)
    leaves = [x, *parts(state)]
    lengths = torch.tensor([4, 7, 1]) if padded else None

    outputs, end = ours(x, state, lengths=lengths)
    read: Any = x
    if lengths is not None:
        read = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, expected_end = theirs(read, torchs(state))
    if lengths is not None:
        expected, _ = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    assert_close(outputs, expected)
    assert_close(torchs(end), expected_end)

    probe = torch.randn_like(outputs)
    gradients = []
    for network, out, last in ((ours, outputs, end), (theirs, expected, expected_end)):
        loss = (out * probe).sum() + sum(part.square().sum() for part in parts(last))
        gradients.append(torch.autograd.grad(loss, [*leaves, *network.parameters()]))
    assert_close(*gradients)


@pytest.mark.parametrize("kind", CELLS)
def test_chunks_with_the_state_handed_on_equal_the_whole(kind):
    network = kind(D, H, 2)
    x = torch.randn(B, T, D)
    whole, end = network(x)
    first, state = network(x[:, :3])
    second, last = network(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_an_episode_that_starts_inside_a_sequence_is_read_as_if_alone(kind, both):
    network = kind(D, H, 2, both)
    x = torch.randn(2, T, D)
    start = torch.zeros(2, T, dtype=torch.bool)
    start[0, 3], start[1, 0] = True, True
    # The backward direction begins at the end of the sequence, with its state.
    outputs, end = network(x, None if both else random_state(network, 2), episode_start=start)
    alone, alone_end = network(x[:1, 3:])
    torch.testing.assert_close(outputs[:1, 3:], alone)
    fresh, fresh_end = network(x[1:])
    torch.testing.assert_close(outputs[1:], fresh)
    if not both:
        for part, first, second in zip(parts(end), parts(alone_end), parts(fresh_end), strict=True):
            torch.testing.assert_close(part, torch.cat([first, second]))


@pytest.mark.parametrize("kind", CELLS)
def test_a_state_that_is_not_finite_does_not_survive_a_reset(kind):
    network = kind(D, H)
    broken = tuple(torch.full_like(part, torch.nan) for part in parts(network.initial_state(1)))
    start = torch.ones(1, 1, dtype=torch.bool)
    outputs, _ = network(torch.randn(1, 1, D), broken if network.parts == 2 else broken[0], start)
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("kind", CELLS)
def test_each_direction_sees_only_its_side(kind):
    network = kind(1, H, 1, True)
    slopes: Any = jacrev(lambda x: network(x[None, :, None])[0][0])
    seen = slopes(torch.randn(T)).abs()  # (T, 2H, T)
    forward, backward = seen[:, :H].sum(1), seen[:, H:].sum(1)  # (T, T): of the features at t, by the input at s
    assert (forward.triu(1) == 0).all()
    assert (backward.tril(-1) == 0).all()
    assert (forward.tril() + forward.triu(1) + backward.triu() > 0)[torch.eye(T, dtype=torch.bool)].all()


def test_backwards_an_episode_does_not_see_the_next_one():
    network = LSTM(1, H, 1, True)
    start = torch.zeros(1, T, dtype=torch.bool)
    start[0, 4] = True
    jacobian: Any = jacrev(lambda x: network(x[None, :, None], None, start)[0][0])
    slopes = jacobian(torch.randn(T)).abs().sum(1)  # (T, T)
    assert (slopes[:4, 4:] == 0).all()
    assert (slopes[4:, :4] == 0).all()
    assert (slopes[:4, :4] > 0).all()


def test_padding_neither_matters_nor_is_read():
    network = GRU(D, H, 2, True)
    x = torch.randn(B, T, D)
    lengths = torch.tensor([2, 7, 5])
    outputs, end = network(x, lengths=lengths)
    inside = torch.arange(T) < lengths[:, None]
    other = torch.where(inside[..., None], x, torch.full_like(x, 1e3))
    torch.testing.assert_close(network(other, lengths=lengths), (outputs, end))
    assert (outputs[~inside] == 0).all()


@pytest.mark.parametrize("radius", [0.5, 0.9, 1.0, 1.1])
def test_the_gradient_of_a_linear_network_goes_with_the_radius_to_the_power_of_time(radius):
    """h_T = U^T h_0, and U a rotation times the radius: |dh_T/dh_0| = radius^T, exactly."""
    network = RNN(1, 2, nonlinearity="identity").double()
    rotation = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    network.load_state_dict({**network.state_dict(), "weight_hh_l0": radius * rotation})
    h = torch.randn(1, 1, 2, dtype=torch.float64, requires_grad=True)
    for steps in (1, 10, 50):
        _, end = network(torch.zeros(1, steps, 1), h)
        (slope,) = torch.autograd.grad(end[0, 0, 0], h)
        assert slope.norm().item() == pytest.approx(radius**steps, rel=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_of_gradients(kind):
    network = kind(2, 3).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: network(x)[0], (x,))


@pytest.mark.parametrize("kind", CELLS)
def test_vmap_over_weights(kind):
    networks = [kind(D, H) for _ in range(3)]
    x = torch.randn(B, T, D)
    stacked, _ = torch.func.stack_module_state(networks)
    outputs = torch.func.vmap(lambda weights: functional_call(networks[0], weights, (x,))[0])(stacked)
    torch.testing.assert_close(outputs, torch.stack([network(x)[0] for network in networks]))


@pytest.mark.parametrize("kind", CELLS)
def test_maps_are_the_features_of_each_layer(kind):
    network = kind(D, H, 3)
    x = torch.randn(B, T, D)
    lowest, _, highest = network.maps(x)
    torch.testing.assert_close(highest, network(x)[0])
    alone = kind(D, H, 1)
    alone.load_state_dict({name: value for name, value in network.state_dict().items() if name.endswith("_l0")})
    torch.testing.assert_close(lowest, alone(x)[0])


def test_the_forget_gate_starts_open():
    """In the sum of both biases, as in Jozefowicz et al.: the mean of the gate's bias is the one asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        closed = LSTM(D, H, 2, forget_bias=0.0)
        torch.manual_seed(1)
        opened = LSTM(D, H, 2)
    for (name, with_bias), without in zip(opened.named_parameters(), closed.parameters(), strict=True):
        gate = torch.zeros_like(with_bias)
        if name.startswith("bias_ih"):
            gate[H : 2 * H] = 1.0
        torch.testing.assert_close(with_bias - without, gate)


@pytest.mark.parametrize("network", [RNN(D, H, 2, True, "relu"), LSTM(D, H, forget_bias=0.5), GRU(D, H)], ids=str)
def test_spec_rebuilds(network):
    again = from_spec(network.spec)
    assert again.spec == network.spec
    again.load_state_dict(network.state_dict())
    x = torch.randn(B, T, D)
    torch.testing.assert_close(again(x)[0], network(x)[0])


def test_errors_say_what_fits():
    with pytest.raises(ValueError, match=r"lstm reads \(B, T, 4\), not \(3, 4\)"):
        LSTM(D, H)(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="unknown nonlinearity 'tahn'; close matches: tanh"):
        RNN(D, H, nonlinearity="tahn")
    with pytest.raises(ValueError, match="at least 1"):
        GRU(D, 0)


@pytest.mark.slow
def test_an_lstm_remembers_what_a_plain_network_forgets():
    """The adding problem: the sum of two numbers of fifty. Guessing the mean costs 1/6 (Hochreiter & Schmidhuber)."""
    losses: dict[Any, float] = {RNN: 1 / 6, LSTM: 1 / 6}
    for kind in losses:
        torch.manual_seed(0)
        network, head = kind(2, 32), nn.Linear(32, 1)
        parameters = [*network.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        for _ in range(500):
            number, marks = torch.rand(64, 50), torch.zeros(64, 50)
            marks.scatter_(1, torch.stack([torch.randint(25, (64,)), 25 + torch.randint(25, (64,))], 1), 1.0)
            goal = (number * marks).sum(1)
            loss = (head(network(torch.stack([number, marks], -1))[0][:, -1])[:, 0] - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses[kind] = 0.95 * losses[kind] + 0.05 * loss.item()
    assert losses[LSTM] < 0.03
    assert losses[RNN] > 0.10
