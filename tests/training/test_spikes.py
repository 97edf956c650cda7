"""Five hard cases of the contracts, about fifty lines each.

    prioritized DQN   L = E[w huber(Q(s, a) - y)], priorities |Q(s, a) - y|^alpha        (Schaul et al. 2016)
    WGAN-GP           L = E[f(G(z))] - E[f(x)] + lambda E[(|grad f(x_hat)| - 1)^2]         (Gulrajani et al. 2017)
    MAML              L = sum_i L_i(theta - alpha grad L_i(theta; support); query)         (Finn et al. 2017)
    recurrent DQN     state_{t+1}, Q_t = LSTM(s_t, state_t), after a burn-in                (Kapturowski et al. 2019)
    DINO              L = H(softmax((teacher(v) - center) / tau_t), softmax(student(v') / tau_s))   (Caron et al. 2021)

Each keeps the contract; each is compiled as one graph, equals its eager self, and goes on from a file bit for bit.
Two are there because of what surrounds the update (feedback, stored states), two because of what is inside it
(gradients of gradients), one for its schedule.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from agentlib.backbones import MLP, Clock, Cosine, Rule, adam, at, sgd
from agentlib.data import Replay, ReplayBuffer
from agentlib.learners import DQN, DQNConfig
from agentlib.policies import EpsilonGreedy, GreedyActor, QPolicy
from agentlib.testing import check_learner
from agentlib.training import Learner, Source, Step, Target, Update, run
from agentlib.training.checkpoints import load_checkpoint, save_checkpoint
from agentlib.training.compiled import compiler_found


class seeded:
    """The default generator, seeded inside and given back."""

    def __init__(self, seed: int) -> None:
        self.fork, self.seed = torch.random.fork_rng(devices=[]), seed

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


def network(n_in: int, n_out: int, activation: str = "relu") -> nn.Sequential:
    return nn.Sequential(MLP(n_in, (16, 16), activation), nn.Linear(16, n_out))


# Prioritized DQN: the source wants something back --------------------------------------------------------------------


class PrioritizedDQN(DQN):
    @classmethod
    def tiny(cls, seed=0, rule: Rule | None = None):
        import gymnasium

        env = gymnasium.make("CartPole-v1")
        config = DQNConfig(double=True, prioritized=True, n_steps=3, target_update_interval=20, buffer_size=300)
        with seeded(seed):
            policy = QPolicy(MLP(4, hidden=(16, 16)), n_actions=2)
        assert isinstance(env.action_space, spaces.Discrete)
        replay = Replay(
            env,
            actor=GreedyActor(policy, env.observation_space),
            buffer=ReplayBuffer(env.observation_space, env.action_space, config.buffer_size, prioritized=True),
            exploration=EpsilonGreedy(env.action_space, epsilon=0.2, random_steps=64, seed=seed),
            batch_size=16,
            learning_starts=64,
            n_steps=config.n_steps,
            importance_exponent=config.importance_exponent,
            total_steps=400,
            seed=seed,
        )
        return cls(policy, rule or adam(1e-3), config), replay


# WGAN-GP: several batches per update, gradients of gradients ---------------------------------------------------------


class Images(NamedTuple):
    real: Tensor  # (critic steps, B, 2)
    clock: Clock


class EightGaussians(Source):
    def __init__(self, batch_size: int, batches: int, seed: int) -> None:
        super().__init__(seed)
        self.batch_size, self.batches = batch_size, batches

    def sample(self) -> Images:
        shape = (self.batches, self.batch_size)
        angle = torch.randint(8, shape) * (2 * math.pi / 8)
        centers = 2 * torch.stack([angle.cos(), angle.sin()], -1)  # (n, B, 2)
        return Images(centers + 0.05 * torch.randn(*shape, 2), self.batch_clock)


def gradient_penalty(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """E[(|grad f(x)| - 1)^2] at points `(B, d)`."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


class WGANGP(Learner):
    batches_per_update = 2

    def __init__(self, generator: nn.Module, critic: nn.Module, rule: Rule) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic
        self.generator_step, self.critic_step = Step(generator, rule), Step(critic, rule)

    def update(self, batch: Images) -> Update:
        for real in batch.real.unbind():  # unrolled
            fake = self.generator(torch.randn_like(real)).detach()  # (B, 2)
            mix = torch.rand(len(real), 1)
            distance = self.critic(real).mean() - self.critic(fake).mean()
            critic_loss = 10 * gradient_penalty(self.critic, mix * real + (1 - mix) * fake) - distance
            self.critic_step(critic_loss, batch.clock)
        generator_loss = -self.critic(self.generator(torch.randn_like(real))).mean()
        self.generator_step(generator_loss, batch.clock)
        return Update(
            {"critic_loss": critic_loss.detach(), "generator_loss": generator_loss.detach(), "w1": distance.detach()}
        )

    @classmethod
    def tiny(cls, seed=0, rule: Rule | None = None):
        with seeded(seed):
            learner = cls(network(2, 2), network(2, 1), rule or adam(1e-3, betas=(0.0, 0.9)))
        return learner, EightGaussians(16, learner.batches_per_update, seed)


# MAML: the gradient of a step ----------------------------------------------------------------------------------------


class Tasks(NamedTuple):
    support: tuple[Tensor, Tensor]  # each (tasks, shots, 1)
    query: tuple[Tensor, Tensor]
    clock: Clock


class Sinusoids(Source):
    """y = A sin(x + phase); the tasks are made in Python, by a generator of its own."""

    points: Tensor

    def __init__(self, n_tasks: int, shots: int, seed: int) -> None:
        super().__init__(seed)
        self.n_tasks, self.shots = n_tasks, shots
        self.register_buffer("points", torch.zeros(2, 2, n_tasks, shots, 1))  # (x and y, support and query, ...)

    def advance(self) -> None:
        shape = (2, self.n_tasks, self.shots, 1)
        x = self.generator.uniform(-5, 5, shape)
        amplitude = self.generator.uniform(0.1, 5, (self.n_tasks, 1, 1))
        phase = self.generator.uniform(0, np.pi, (self.n_tasks, 1, 1))
        self.points.copy_(torch.from_numpy(np.stack([x, amplitude * np.sin(x + phase)])))

    def sample(self) -> Tasks:
        (x, query_x), (y, query_y) = self.points.unbind()
        return Tasks((x, y), (query_x, query_y), self.batch_clock)


Parameters = Mapping[str, Tensor]
Loss = Callable[[Parameters, Any], Tensor]


def adapted(loss: Loss, parameters: Parameters, support: Any, rate: float) -> Parameters:
    """One step downhill from the parameters, differentiable."""
    slopes = grad(loss)(dict(parameters), support)
    return {name: parameters[name] - rate * slopes[name] for name in parameters}


def maml_loss(loss: Loss, parameters: Parameters, support: Any, query: Any, rate: float) -> Tensor:
    """The losses `(tasks,)` after a step on each task's support."""
    return vmap(lambda seen, asked: loss(adapted(loss, parameters, seen, rate), asked))(support, query)


class MAML(Learner):
    def __init__(self, net: nn.Module, rule: Rule, inner_rate: float = 0.1) -> None:
        super().__init__()
        self.net, self.inner_rate = net, inner_rate
        self.step = Step(net, rule, max_grad_norm=10.0)

    def loss(self, parameters: Parameters, points: tuple[Tensor, Tensor]) -> Tensor:
        x, y = points
        return functional.mse_loss(functional_call(self.net, dict(parameters), (x,)), y)

    def update(self, batch: Tasks) -> Update:
        parameters = dict(self.net.named_parameters())
        loss = maml_loss(self.loss, parameters, batch.support, batch.query, self.inner_rate).mean()
        with torch.no_grad():
            before = vmap(lambda asked: self.loss(parameters, asked))(batch.query).mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "loss_before": before})

    @classmethod
    def tiny(cls, seed=0, rule: Rule | None = None):
        with seeded(seed):
            return cls(network(1, 1, "tanh"), rule or adam(1e-2)), Sinusoids(8, 10, seed)


# Recurrent DQN: stored states and a burn-in --------------------------------------------------------------------------

State = tuple[Tensor, Tensor]


class LSTM(nn.Module):
    """Written out, since nn.LSTM does not compile. `(B, T, d)` to `(B, T, n)`."""

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        self.gates = nn.Linear(n_in + n, 4 * n)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        outputs = []
        for moment in x.unbind(1):
            i, f, g, o = self.gates(torch.cat([moment, h], 1)).chunk(4, 1)
            c = (f + 1).sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


class RecurrentQ(nn.Module):
    def __init__(self, n_in: int, n: int, n_actions: int) -> None:
        super().__init__()
        self.width, self.lstm, self.head = n, LSTM(n_in, n), nn.Linear(n, n_actions)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        features, state = self.lstm(x, state)
        return self.head(features), state


class Sequences(NamedTuple):
    observation: Tensor  # (B, T + 1, d)
    action: Tensor  # (B, T)
    reward: Tensor
    terminated: Tensor
    state: State  # each (B, n), before the first observation
    clock: Clock


class Recall(Source):
    """A cue of -1 or 1 is shown for one moment; at the end of four, the action that it names pays 1.

    A whole episode is played per `advance`, and kept with the state that the actor had at each moment.
    """

    LENGTH = 4
    observation: Tensor
    action: Tensor
    reward: Tensor
    h: Tensor
    c: Tensor
    episodes: Tensor

    def __init__(self, actor: Callable[[Tensor, State], tuple[Tensor, State]], width: int, sizes, seed: int) -> None:
        super().__init__(seed)
        self.actor, self.width = actor, width  # a callable, not a submodule
        self.batch_size, self.unroll, self.capacity = sizes
        shapes = {"observation": (self.LENGTH + 1, 2), "action": (self.LENGTH,), "reward": (self.LENGTH,)}
        for name, shape in (shapes | {"h": (self.LENGTH, width), "c": (self.LENGTH, width)}).items():
            self.register_buffer(name, torch.zeros(self.capacity, *shape))
        self.register_buffer("episodes", torch.zeros((), dtype=torch.int64))

    def advance(self) -> None:
        self.play(epsilon=0.3)
        while self.episodes < self.batch_size:
            self.play(epsilon=1.0)

    @torch.no_grad()
    def play(self, epsilon: float) -> float:
        row, cue = int(self.episodes) % self.capacity, int(self.generator.integers(2))
        state = torch.zeros(1, self.width), torch.zeros(1, self.width)
        self.observation[row] = 0.0
        self.observation[row, 0, 0] = 2.0 * cue - 1.0
        self.observation[row, self.LENGTH - 1, 1] = 1.0  # now
        for t in range(self.LENGTH):
            self.h[row, t], self.c[row, t] = state[0][0], state[1][0]
            values, state = self.actor(self.observation[row, t][None, None], state)
            explores = self.generator.random() < epsilon
            action = int(self.generator.integers(2)) if explores else int(values.argmax())
            paid = float(t == self.LENGTH - 1 and action == cue)
            self.action[row, t], self.reward[row, t] = action, paid
        self.episodes += 1
        return paid

    def sample(self) -> Sequences:
        count = self.episodes.clamp(max=self.capacity)
        row = (torch.rand(self.batch_size, dtype=torch.float64) * count).long()
        start = torch.randint(self.LENGTH - self.unroll + 1, (self.batch_size,))
        when = start[:, None] + torch.arange(self.unroll)  # (B, T)
        moments = start[:, None] + torch.arange(self.unroll + 1)  # (B, T + 1)
        return Sequences(
            self.observation[row[:, None], moments],
            self.action[row[:, None], when].long(),
            self.reward[row[:, None], when],
            (when == self.LENGTH - 1).float(),
            (self.h[row, start], self.c[row, start]),
            self.batch_clock,
        )


class RecurrentDQN(Learner):
    def __init__(self, policy: RecurrentQ, rule: Rule, burn_in: int = 1) -> None:
        super().__init__()
        self.policy, self.target, self.burn_in = policy, Target(policy), burn_in
        self.step = Step(policy, rule, max_grad_norm=10.0)

    def update(self, batch: Sequences) -> Update:
        first, rest = batch.observation.split([self.burn_in, batch.observation.shape[1] - self.burn_in], 1)
        with torch.no_grad():  # the stored state is old: let it settle
            _, state = self.policy(first, batch.state)
            _, target_state = self.target(first, batch.state)
            next_values = self.target(rest, target_state)[0][:, 1:].amax(-1)  # (B, T')
            ends = batch.terminated[:, self.burn_in :]
            y = batch.reward[:, self.burn_in :] + 0.95 * (1 - ends) * next_values
        values, _ = self.policy(rest[:, :-1], state)
        value = values.gather(-1, batch.action[:, self.burn_in :, None])[..., 0]
        loss = functional.mse_loss(value, y)
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach()}, per_sample=(value - y).detach().abs().mean(1))

    def before_update(self, clock: Clock) -> None:
        if clock.updates % 10 == 0:
            self.target.follow(self.policy)

    @classmethod
    def tiny(cls, seed=0, rule: Rule | None = None):
        with seeded(seed):
            policy = RecurrentQ(2, 8, 2)
        source = Recall(lambda x, state: policy(x, state), 8, (16, 3, 200), seed)
        return cls(policy, rule or adam(1e-2)), source


# DINO: a teacher that follows by a schedule, a center, dropout --------------------------------------------------------


class Views(NamedTuple):
    first: Tensor
    second: Tensor
    clock: Clock


class TwoViews(Source):
    """Two noisy views of points around four centers, shuffled per epoch."""

    data: Tensor
    order: Tensor
    place: Tensor

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__(seed)
        self.batch_size = batch_size
        centers = np.random.default_rng(0).normal(size=(4, 6))
        self.register_buffer("data", torch.tensor(np.repeat(centers, 12, 0), dtype=torch.float32))
        self.register_buffer("order", torch.zeros(len(self.data), dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def advance(self) -> None:
        batches = len(self.data) // self.batch_size
        if self.updates % batches == 0:
            self.order.copy_(torch.from_numpy(self.generator.permutation(len(self.data))))
        self.place.fill_(self.updates % batches)

    def sample(self) -> Views:
        index = self.order[self.place * self.batch_size + torch.arange(self.batch_size)]
        x = self.data[index]
        return Views(x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x), self.batch_clock)


class DINO(Learner):
    center: Tensor

    def __init__(self, student: nn.Module, out_dim: int, rule: Rule, temperature: float = 0.1) -> None:
        super().__init__()
        self.student, self.teacher = student, Target(student)
        self.momentum, self.temperature = Cosine(0.9, 1.0), temperature
        self.step = Step(student, rule)
        self.register_buffer("center", torch.zeros(out_dim))

    def update(self, batch: Views) -> Update:
        views = torch.cat([batch.first, batch.second])  # (2B, d)
        with torch.no_grad():
            taught = self.teacher(views)
            goal = ((taught - self.center) / (self.temperature / 2)).softmax(-1)  # sharper than the student
            entropy = -(goal * goal.clamp_min(1e-12).log()).sum(-1).mean()
        told = (self.student(views) / self.temperature).log_softmax(-1)
        loss = -(goal.roll(len(batch.first), 0) * told).sum(-1).mean()  # each view learns from the other
        self.step(loss, batch.clock)
        self.teacher.follow(self.student, 1 - at(self.momentum, batch.clock))
        self.center.lerp_(taught.mean(0), 0.1)
        return Update({"loss": loss.detach(), "teacher_entropy": entropy})

    @classmethod
    def tiny(cls, seed=0, rule: Rule | None = None):
        with seeded(seed):
            student = nn.Sequential(MLP(6, (16,)), nn.Dropout(0.1), nn.Linear(16, 8))
        return cls(student, 8, rule or adam(3e-3)), TwoViews(16, seed)


# What they must show --------------------------------------------------------------------------------------------------

SPIKES = [PrioritizedDQN, WGANGP, MAML, RecurrentDQN, DINO]
by_name = pytest.mark.parametrize("spike", SPIKES, ids=lambda one: one.__name__)


@by_name
def test_contract(spike):
    check_learner(spike)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
@by_name
def test_compiled_equals_eager_and_resumes(spike, tmp_path):
    """Plain SGD: Adam amplifies gradients that are zero but for rounding."""
    eager, eager_source = spike.tiny(0, sgd(1e-2))
    metrics = [update.metrics for _, update in run(eager, eager_source, 20, compile=False)]

    learner, source = spike.tiny(0, sgd(1e-2))
    compiled_metrics = [update.metrics for _, update in run(learner, source, 20, compile=True)]
    for step, compiled_step in zip(metrics, compiled_metrics, strict=True):
        torch.testing.assert_close(compiled_step, step, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(learner.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-5)

    save_checkpoint(tmp_path / "middle.safetensors", learner, source)
    again, source_again = spike.tiny(1, sgd(1e-2))
    load_checkpoint(tmp_path / "middle.safetensors", again, source_again)
    if isinstance(source, Replay):  # the episode under way is not saved: learn from the memory alone
        source.updates_due = source_again.updates_due = 10
    for (_, here), (_, there) in zip(
        run(learner, source, 10, compile=True), run(again, source_again, 10, compile=True), strict=True
    ):
        assert all(torch.equal(here.metrics[name], there.metrics[name]) for name in here.metrics)
    for here, there in zip(learner.parameters(), again.parameters(), strict=True):
        assert torch.equal(here, there)


def test_priorities_are_the_errors():
    learner, source = PrioritizedDQN.tiny()
    feedback, seen = source.feedback, []

    def watched(batch, errors):
        seen.append((batch.index, errors))
        feedback(batch, errors)

    source.feedback = watched
    for _ in run(learner, source, 20, compile=False):
        index, errors = seen[-1]
        torch.testing.assert_close(source.buffer.priorities.get(index), (errors.abs() + 1e-6) ** 0.6)
    assert source.buffer.top == max(1.0, *((errors.abs() + 1e-6).max() ** 0.6 for _, errors in seen))
    batch = source.sample()
    assert batch.weight.max() == 1.0
    assert batch.weight.min() < 1.0


def test_gradient_penalty_of_a_plane():
    """|grad f| is the length of the plane's slope everywhere."""
    x = torch.randn(16, 2)
    slope = torch.tensor([0.6, 0.8])
    assert gradient_penalty(lambda at: at @ slope, x).item() == pytest.approx(0.0, abs=1e-5)
    assert gradient_penalty(lambda at: at @ (3 * slope), x).item() == pytest.approx(4.0, abs=1e-5)


def test_critic_finds_the_distance():
    """From one point to a ring of radius d: sup over slopes k of k d - 10 (k - 1)^2 has k = 1 + d / 20."""
    learner, source = WGANGP.tiny(rule=adam(3e-3, betas=(0.0, 0.9)))
    for parameter in learner.generator[-1].parameters():
        nn.init.zeros_(parameter)
    learner.generator_step.rule = sgd(0.0)
    distances = [update.metrics["w1"].item() for _, update in run(learner, source, 150, compile=False)]
    assert np.mean(distances[-20:]) == pytest.approx(2 * (1 + 2 / 20), abs=0.1)


def test_maml_on_quadratics():
    """Tasks (theta - c)^2 / 2: the gradient is (1 - rate) mean((1 - rate) theta + rate c_support - c_query)."""
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    seen, asked = torch.randn(2, 5, dtype=torch.float64)
    loss = maml_loss(lambda p, c: 0.5 * (p["theta"] - c) ** 2, {"theta": theta}, seen, asked, 0.3).mean()
    (slope,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(slope, 0.7 * (0.7 * theta + 0.3 * seen - asked).mean())


def test_maml_learns_to_adapt():
    learner, source = MAML.tiny()
    metrics = [update.metrics for _, update in run(learner, source, 250, compile=False)]
    before, after = (np.mean([float(m[name]) for m in metrics[-50:]]) for name in ("loss_before", "loss"))
    assert before > 2.5  # no task-agnostic guess is better than 3.01, but for noise
    assert after < 0.6 * before


def test_recurrent_dqn_remembers():
    learner, source = RecurrentDQN.tiny()
    for _ in run(learner, source, 250, compile=False):
        pass
    assert np.mean([source.play(epsilon=0.0) for _ in range(30)]) == 1.0  # chance is a half


def test_stored_states_are_those_of_the_policy():
    learner, source = RecurrentDQN.tiny()
    source.play(epsilon=1.0)
    zero = torch.zeros(1, 8)
    with torch.no_grad():
        for t in range(source.LENGTH):
            assert torch.equal(source.h[0, t], zero[0]) == (t == 0)
            _, (h, c) = learner.policy(source.observation[:1, : t + 1], (zero, zero))
            if t + 1 < source.LENGTH:
                torch.testing.assert_close(source.h[:1, t + 1], h)
                torch.testing.assert_close(source.c[:1, t + 1], c)


def test_lstm_equals_torch():
    ours = LSTM(3, 4)
    theirs: Any = nn.LSTM(3, 4, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.gates.weight[:, :3])
        theirs.weight_hh_l0.copy_(ours.gates.weight[:, 3:])
        theirs.bias_ih_l0.copy_(ours.gates.bias)
        theirs.bias_hh_l0.zero_()
        theirs.bias_hh_l0[4:8] = 1.0  # our forget gates start open
    x, h, c = torch.randn(2, 5, 3), torch.randn(2, 4), torch.randn(2, 4)
    outputs, (last_h, last_c) = ours(x, (h, c))
    expected, (expected_h, expected_c) = theirs(x, (h[None], c[None]))
    torch.testing.assert_close((outputs, last_h[None], last_c[None]), (expected, expected_h, expected_c))


def test_dino_collapse_and_schedule():
    learner, source = DINO.tiny()
    nn.init.zeros_(learner.student[-1].weight)
    nn.init.zeros_(learner.student[-1].bias)
    learner.teacher.follow(learner.student)
    _, update = next(run(learner, source, 1, compile=False))
    assert update.metrics["loss"].item() == pytest.approx(math.log(8), abs=1e-6)
    assert update.metrics["teacher_entropy"].item() == pytest.approx(math.log(8), abs=1e-6)

    # At the end of the run the momentum is 1: the teacher stands still.
    learner, source = DINO.tiny()
    weights = [learner.teacher.network[-1].weight.clone() for _ in run(learner, source, 40, compile=False)]
    steps = [float((b - a).norm()) for a, b in itertools.pairwise(weights)]
    assert steps[-1] < 0.05 * max(steps)
    assert all(step > 0 for step in steps)


def test_dino_does_not_collapse():
    learner, source = DINO.tiny()
    metrics = [update.metrics for _, update in run(learner, source, 300, compile=False)]
    assert 0.02 < metrics[-1]["loss"] < 0.9 * math.log(8)
    points = source.data[::12]
    with torch.no_grad():
        chosen = learner.teacher(points).softmax(-1)
    assert (torch.cdist(chosen, chosen) + 9 * torch.eye(4)).min() > 0.02  # four centers, told apart
