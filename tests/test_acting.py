"""Agents for every action space, with memory, and in several threads."""

import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP, NatureCNN, from_spec
from agentlib.core.host import torch_threads
from agentlib.core.randomness import fresh_weights
from agentlib.core.schedules import Clock
from agentlib.core.spaces import action_from_space, action_to_space, to_tensors
from agentlib.envs.vector import Environments
from agentlib.experience import ReplayBuffer
from agentlib.experience.evaluation import episode_seed
from agentlib.experience.replay import Collector
from agentlib.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    EnsemblePolicy,
    GaussianPolicy,
    GreedyActor,
    QPolicy,
    policy_for,
)
from agentlib.policies.acting import decide
from tests.experience.scripted import Scripted
from tests.tiny import host_generators

OBSERVATIONS = spaces.Box(-1.0, 1.0, (3,), np.float32)
ACTIONS: dict[str, Any] = {
    "discrete": spaces.Discrete(4, start=-1),
    "several": spaces.MultiDiscrete(np.array([[2, 5], [3, 2]]), np.int32, start=np.array([[0, 1], [5, -2]])),
    "switches": spaces.MultiBinary([2, 2]),
    "box": spaces.Box(-0.1, np.array([0.3, 2.0]), (2,), np.float64),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
    "number": spaces.Box(0.0, 1.0, (), np.float32),
    "whole numbers": spaces.Box(-3, 3, (4,), np.int16),
}


def agent_for(action_space, seed=0, std=2.0, **options):
    with fresh_weights(seed):
        policy = policy_for(action_space, MLP(3, (16,), "tanh"), **options)
        for parameter in policy.parameters():
            nn.init.normal_(parameter, std=std)
    return Agent(policy, OBSERVATIONS, action_space)


def observations(count, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("name", ACTIONS)
def test_actions_lie_in_their_space_one_by_one_and_in_batches_before_and_after_a_file(name, squashed, tmp_path):
    space = ACTIONS[name]
    agent = agent_for(space, squashed=squashed)
    batch = agent.act(observations(50))
    assert batch.shape == (50, *space.shape)
    assert batch.dtype == space.dtype
    singles = [agent.act(observation) for observation in observations(50)]
    for single, row in zip(singles, batch, strict=True):
        assert space.contains(single)
        np.testing.assert_allclose(single, row, rtol=1e-6, atol=1e-6)
    for drawn in agent.predict(observations(50))[0]:
        assert space.contains(drawn if isinstance(space, spaces.Discrete) else np.asarray(drawn))
    drawn, state = agent.predict(observations(1)[0])
    assert (drawn.shape, drawn.dtype, state) == (space.shape, space.dtype, None)
    again = Agent.load(agent.save(tmp_path / "agent"))
    np.testing.assert_array_equal(again.act(observations(50)), batch)
    assert again.action_space == space


@pytest.mark.parametrize("name", ACTIONS)
def test_a_policys_actions_and_those_of_the_space_are_turned_into_each_other(name):
    space = ACTIONS[name]
    space.seed(0)
    samples = np.stack([space.sample() for _ in range(20)])
    inside = action_from_space(space, samples)
    np.testing.assert_allclose(action_to_space(space, inside), samples, rtol=1e-6)
    if not isinstance(space, spaces.Box):
        assert inside.min() == 0


def test_predict_draws_from_the_distribution_by_its_own_generator():
    agent = agent_for(spaces.Discrete(3, start=5), std=0.5)
    same = np.repeat(observations(1), 20_000, axis=0)
    agent.reset(seed=3)
    before = host_generators()
    drawn = agent.predict(same)[0]
    np.testing.assert_equal(host_generators(), before)
    output, _ = agent.policy(torch.from_numpy(same[:1]))
    expected = agent.policy.probabilities(output)[0].detach().numpy()
    np.testing.assert_allclose(np.bincount(drawn - 5, minlength=3) / len(drawn), expected, atol=0.015)
    assert (agent.predict(same)[0] != drawn).any()
    agent.reset(seed=3)
    np.testing.assert_array_equal(agent.predict(same)[0], drawn)
    np.testing.assert_array_equal(agent.predict(same, deterministic=True)[0], agent.act(same))


def test_an_ensemble_acts_draws_and_explores(tmp_path):
    with fresh_weights(0):
        stochastic = EnsemblePolicy([policy_for(spaces.Discrete(3), MLP(3, (8,))) for _ in range(3)], "majority")
        values = EnsemblePolicy([QPolicy(MLP(3, (8,)), 3) for _ in range(3)])
    for policy in (stochastic, values):
        agent = Agent(policy, OBSERVATIONS, spaces.Discrete(3), exploration_rate=0.5)
        chosen, drawn = agent.act(observations(300)), agent.predict(observations(300))[0]
        assert 0.1 < (chosen != drawn).mean() < 0.8
        np.testing.assert_array_equal(Agent.load(agent.save(tmp_path / "agent")).act(observations(300)), chosen)
        with pytest.raises(AttributeError, match=r"policy.members\[i\]"):
            _ = agent.backbone


def test_confidence_is_the_probability_of_what_is_done():
    agent = agent_for(ACTIONS["discrete"])
    confidence = agent.confidence(observations(10))
    output, _ = agent.policy(torch.from_numpy(observations(10)))
    np.testing.assert_allclose(confidence, output.softmax(-1).max(-1).values.detach().numpy(), rtol=1e-5)
    assert agent.confidence(observations(10)[3]) == pytest.approx(confidence[3])
    several = agent_for(ACTIONS["several"])
    probability = several.policy.probabilities(several.policy(torch.from_numpy(observations(10)))[0])
    expected = probability.max(-1).values.prod(-1).detach().numpy()
    np.testing.assert_allclose(several.confidence(observations(10)), expected, rtol=1e-4)
    for without in (agent_for(ACTIONS["box"]), Agent(QPolicy(MLP(3), 2), OBSERVATIONS, spaces.Discrete(2))):
        with pytest.raises(TypeError, match="confidence needs"):
            without.confidence(observations(1))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(
    "kind", ["q", "categorical", "gaussian", "squashed", "half bounded", "number", "deterministic", "limited"]
)
def test_numpys_shortcut_for_one_observation_is_the_network(kind, activation):
    box = spaces.Box(np.array([-0.2, 0.0], np.float32), np.array([0.2, 3.0], np.float32))
    half = spaces.Box(np.array([-0.2, 0.0], np.float32), np.array([0.2, np.inf], np.float32))
    with fresh_weights(0):
        backbone = MLP(3, (16, 16), activation)
        policy: Any = {
            "q": lambda: QPolicy(backbone, 4),
            "categorical": lambda: CategoricalPolicy(backbone, 4),
            "gaussian": lambda: GaussianPolicy(backbone, box),
            "squashed": lambda: GaussianPolicy(backbone, box, squashed=True, state_dependent_std=True),
            "half bounded": lambda: GaussianPolicy(backbone, half, squashed=True),
            "number": lambda: GaussianPolicy(backbone, ACTIONS["number"]),
            "deterministic": lambda: DeterministicPolicy(backbone, box),
            "limited": lambda: DeterministicPolicy(backbone, half, squashed=True, limit=0.1),
        }[kind]()
    actor = GreedyActor(policy, OBSERVATIONS)
    assert actor.shortcut is not None
    for observation in observations(200):
        ours, theirs = actor(observation[None]), decide(policy, OBSERVATIONS, observation[None])[0]
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    before = np.concatenate([actor(observation[None]) for observation in observations(50)])
    with torch.no_grad():
        policy.head.weight.mul_(-1.0)
    after = np.concatenate([actor(observation[None]) for observation in observations(50)])
    np.testing.assert_allclose(after, decide(policy, OBSERVATIONS, observations(50))[0], rtol=1e-4, atol=1e-6)
    assert (after != before).any()
    assert GreedyActor(type("Own", (DeterministicPolicy,), {})(backbone, box), OBSERVATIONS).shortcut is None


def halved(policy):
    policy.head.weight = nn.Parameter(policy.head.weight.detach() / 2.0)


CHANGES: dict[str, Any] = {
    "replaced weights": halved,
    "a replaced layer": lambda policy: setattr(policy, "head", nn.Linear(16, policy.head.out_features)),
    "a layer without a bias": lambda policy: setattr(
        policy, "head", nn.Linear(16, policy.head.out_features, bias=False)
    ),
    "a parametrization": lambda policy: nn.utils.parametrizations.spectral_norm(policy.head),
    "a hook on the head": lambda policy: policy.head.register_forward_hook(lambda module, args, output: output * 0.5),
    "a hook on the backbone": lambda policy: policy.backbone.register_forward_pre_hook(lambda module, args: -args[0]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_before", [True, False])
def test_numpys_shortcut_sees_what_is_done_to_a_network(change, is_before):
    with fresh_weights(0):
        policies: list[Any] = [
            CategoricalPolicy(MLP(3, (16,)), 4),
            DeterministicPolicy(MLP(3, (16,)), ACTIONS["box"], squashed=True),
        ]
        for policy in policies:
            actor = None if is_before else GreedyActor(policy, OBSERVATIONS)
            change(policy)
            actor = actor or GreedyActor(policy, OBSERVATIONS)
            batch = observations(100)
            np.testing.assert_allclose(actor(batch), decide(policy, OBSERVATIONS, batch)[0], rtol=1e-4, atol=1e-6)
            np.testing.assert_equal(actor(batch[:0]), decide(policy, OBSERVATIONS, batch[:0])[0])


@pytest.mark.parametrize(
    "options",
    [
        {"dueling": True},
        {"dueling": True, "hidden": (8, 8)},
        {"distributional": "quantile", "n_atoms": 7},
        {"distributional": "quantile", "n_atoms": 7, "dueling": True, "hidden": (8,)},
    ],
)
def test_numpys_shortcut_through_heads_of_layers_and_quantiles(options):
    with fresh_weights(0):
        policy: Any = QPolicy(MLP(3, (16,)), 4, **options)
        for parameter in policy.parameters():
            nn.init.normal_(parameter)
    batch = observations(300)
    with torch.no_grad():  # each action is the best somewhere
        policy.head.advantages[0][-1].bias -= policy(torch.from_numpy(batch))[0].mean(0).flatten()
    actor = GreedyActor(policy, OBSERVATIONS)
    assert actor.shortcut is not None
    mask = np.random.default_rng(0).random((300, 4)) < 0.5
    mask[:, 2] = True
    expected = decide(policy, OBSERVATIONS, batch)[0]
    assert len(set(expected.tolist())) > 2
    np.testing.assert_array_equal(actor(batch), expected)
    np.testing.assert_array_equal(np.concatenate([actor(row[None]) for row in batch]), expected)
    np.testing.assert_array_equal(actor(batch, mask), decide(policy, OBSERVATIONS, batch, mask=mask)[0])
    assert actor.logits(batch) is None  # it ranks, and leaves out what all actions share


def test_heads_that_numpys_shortcut_leaves_to_torch():
    for policy in (
        QPolicy(MLP(3), 4, distributional="c51"),
        QPolicy(MLP(3), 4, noisy=True),
        QPolicy(MLP(3), [4, 2], dueling=True),
        QPolicy(MLP(3, (16,), "tanh"), 4, hidden=(8,)),
    ):
        actor = GreedyActor(policy, OBSERVATIONS)
        assert actor.shortcut is None
        np.testing.assert_array_equal(actor(observations(9)), decide(policy, OBSERVATIONS, observations(9))[0])


@pytest.mark.parametrize("rows", [1, 3, 300])
def test_large_products_are_torchs_where_it_has_several_threads(rows, monkeypatch):
    with fresh_weights(0):
        policy = QPolicy(MLP(3, (200, 100)), 4)
    asked: list[int] = []
    from_numpy = torch.from_numpy

    def noted(array: Any) -> torch.Tensor:
        asked.append(array.size)
        return from_numpy(array)

    monkeypatch.setattr(torch, "from_numpy", noted)

    def found(threads: int) -> Any:
        with torch_threads(threads):
            return GreedyActor(policy, OBSERVATIONS).logits(observations(rows))

    alone = found(1)
    assert not asked
    np.testing.assert_allclose(found(2), alone, rtol=1e-4, atol=1e-6)
    assert 200 * 100 in asked  # weights of the second layer
    assert 100 * 4 not in asked or rows > 23  # and of the third, where it is large


@pytest.mark.parametrize("shape", [(2, 44, 40), (3, 47, 54), (32, 36, 36)])  # in blocks of 4; not; as many as maps
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_numpys_shortcut_for_one_image_is_the_network(dtype, shape):
    space = spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)
    with fresh_weights(0):
        policy = QPolicy(NatureCNN(shape, 32), 5)
    actor, generator = GreedyActor(policy, space), np.random.default_rng(0)
    images = generator.integers(0, 256, (40, *shape)).astype(dtype)
    if dtype != np.uint8:
        images /= 255.0
    for _ in range(2):
        for image in images:
            numbers = actor.logits(image[None])
            with torch.no_grad():
                expected = policy(to_tensors(space, image[None]))[0].numpy()
            assert numbers is not None
            np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-6)
            assert actor(image[None]) == expected.argmax(1)
            in_other_order = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 0, -1)), -1, 0)
            np.testing.assert_array_equal(actor.logits(in_other_order[None]), numbers)
        with torch.no_grad():
            for parameter in policy.parameters():  # the views look at the weights as they are now
                parameter.mul_(-1.5)
    assert actor.logits(images) is None  # several are quicker in torch
    np.testing.assert_array_equal(actor(images), decide(policy, space, images)[0])
    turned = np.moveaxis(images[:1], 1, -1)
    with pytest.raises(ValueError, match=r"turn them"):
        actor(turned)
    for parameter in policy.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)  # no view of it in rows
    assert GreedyActor(policy, space).shortcut is None
    np.testing.assert_array_equal(actor(images[:1]), decide(policy, space, images[:1])[0])


class Memory(nn.Module):
    """A sequence backbone: decaying sums in two tensors, as an LSTM has."""

    is_sequence, feature_dim = True, 8

    def __init__(self, width=3):
        super().__init__()
        self.layer, self.spec = nn.Linear(width, 8), {"name": "Memory", "arguments": {"width": width}}

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 8), {"count": torch.zeros(batch_size, 1)}

    def forward(self, observation, state=None, episode_start=None):
        total, count = self.initial_state(len(observation)) if state is None else state
        count, features = count["count"], []
        for t in range(observation.shape[1]):
            if episode_start is not None:
                kept = ~episode_start[:, t, None]
                total, count = total * kept, count * kept
            total, count = 0.9 * total + self.layer(observation[:, t]).tanh(), count + 1.0
            features.append(total + count.cos())
        return torch.stack(features, 1), (total, {"count": count})


def remembering(space: Any = ACTIONS["box"]):
    with fresh_weights(0):
        return Agent(policy_for(space, Memory()).eval(), OBSERVATIONS, space)


def whole(agent, sequence):
    """Actions `(B, T, ...)` of a policy that sees all `(B, T, 3)` at once."""
    output, _ = agent.policy(torch.from_numpy(sequence))
    return agent.policy.choose(output).detach().numpy()


SEQUENCES = np.random.default_rng(1).normal(size=(4, 6, 3)).clip(-1, 1).astype(np.float32)


def test_act_remembers_each_row_until_it_is_told_to_forget():
    agent = remembering()
    expected = whole(agent, SEQUENCES)
    for t in range(3):
        np.testing.assert_allclose(agent.act(SEQUENCES[:, t]), expected[:, t], rtol=1e-5)
    ended = np.array([False, True, False, True])
    agent.reset(where=ended)
    anew = whole(agent, SEQUENCES[:, 3:])
    for t in range(3, 6):
        actions = agent.act(SEQUENCES[:, t])
        np.testing.assert_allclose(actions[~ended], expected[~ended, t], rtol=1e-5)
        np.testing.assert_allclose(actions[ended], anew[ended, t - 3], rtol=1e-5)
    with pytest.raises(ValueError, match=r"a batch of 2 observations, after batches of 4.*reset"):
        agent.act(SEQUENCES[:2, 0])
    with pytest.raises(ValueError, match="acts in 4 rows"):
        agent.reset(where=ended[:3])
    agent.reset()
    np.testing.assert_allclose(agent.act(SEQUENCES[0, 0]), expected[0, 0], rtol=1e-5)
    np.testing.assert_allclose(agent.act(SEQUENCES[0, 1]), expected[0, 1], rtol=1e-5)


def test_predict_gives_the_memory_and_takes_it_back_as_sb3s_does():
    agent = remembering()
    expected = whole(agent, SEQUENCES)
    agent.act(SEQUENCES[0, 0])  # what act remembers is another matter
    state, starts = None, np.ones(4, bool)
    for t in range(3):
        actions, state = agent.predict(SEQUENCES[:, t], state, starts, deterministic=True)
        np.testing.assert_allclose(actions, expected[:, t], rtol=1e-5)
        assert isinstance(state, tuple)
        assert [array.shape for array in state] == [(4, 8), (4, 1)]
        starts = np.zeros(4, bool)
    starts[2] = True
    actions, _ = agent.predict(SEQUENCES[:, 3], state, starts, deterministic=True)
    np.testing.assert_allclose(actions[2], whole(agent, SEQUENCES[:, 3:])[2, 0], rtol=1e-5)
    np.testing.assert_allclose(actions[[0, 1, 3]], expected[[0, 1, 3], 3], rtol=1e-5)
    single, state = agent.predict(SEQUENCES[1, 0], deterministic=True)
    np.testing.assert_allclose(single, expected[1, 0], rtol=1e-5)
    np.testing.assert_allclose(agent.predict(SEQUENCES[1, 1], state, None, True)[0], expected[1, 1], rtol=1e-5)
    with pytest.raises(ValueError, match="the state has the shapes"):
        agent.predict(SEQUENCES[:, 3], state)
    with pytest.raises(TypeError, match="no memory"):
        agent.confidence(SEQUENCES[:, 0])


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer_decoder"])
def test_our_own_networks_with_memory_act_step_by_step_as_over_the_whole(kind, tmp_path):
    arguments = {"dim": 8, "window": 3} if kind == "transformer_decoder" else {"hidden_dim": 8, "layers": 2}
    with fresh_weights(0):
        backbone = from_spec({"name": kind, "arguments": {"input_dim": 3, **arguments}})
        agent = Agent(policy_for(ACTIONS["box"], backbone).eval(), OBSERVATIONS, ACTIONS["box"])
    agent = Agent.load(agent.save(tmp_path / "agent"))
    expected, state = whole(agent, SEQUENCES), None
    for t in range(SEQUENCES.shape[1]):
        np.testing.assert_allclose(agent.act(SEQUENCES[:, t]), expected[:, t], rtol=1e-4, atol=1e-6)
        actions, state = agent.predict(SEQUENCES[:, t], state, np.full(4, t == 0), deterministic=True)
        np.testing.assert_allclose(actions, expected[:, t], rtol=1e-4, atol=1e-6)
    agent.reset(where=np.array([True, False, False, False]))
    anew = whole(agent, SEQUENCES[:1])
    np.testing.assert_allclose(agent.act(SEQUENCES[:, 0])[0], anew[0, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
def test_evaluation_keeps_the_memory_within_an_episode_and_resets_it_between(tmp_path):
    env = gymnasium.make("agentlib/CartPoleNoVel-v0")
    with fresh_weights(2):
        policy = EnsemblePolicy([policy_for(env.action_space, Memory(2)) for _ in range(2)]).eval()
    agent = Agent(policy, env.observation_space, env.action_space)
    evaluation = agentlib.evaluate(agent, env, episodes=5, seed=3)
    for index, length in enumerate(evaluation.lengths):
        observation, _ = env.reset(seed=episode_seed(3, index))
        agent.reset()
        for step in range(length):
            observation, _, terminated, truncated, _ = env.step(agent.act(observation))
            assert (terminated or truncated) == (step == length - 1)
    returns: Any = evaluate_policy(agent, env, 3, return_episode_rewards=True)[0]
    assert len(returns) == 3
    again = Agent.load(agent.save(tmp_path / "agent"), classes={"Memory": Memory})
    np.testing.assert_array_equal(agentlib.evaluate(again, env, episodes=5, seed=3).returns, evaluation.returns)


def test_threads_act_at_once_and_the_mode_comes_back():
    with fresh_weights(0):
        backbone = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Tanh())
        backbone.feature_dim = 64  # type: ignore[assignment]
        policy = policy_for(spaces.Discrete(50), backbone).train()
    agent = Agent(policy, OBSERVATIONS, spaces.Discrete(50))
    expected = agent.act(observations(200))
    assert policy.training
    wrong: list[bool] = []

    def act():
        wrong.extend(bool((agent.act(observations(200)) != expected).any()) for _ in range(30))

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)
    assert len(wrong) == 120
    assert policy.training
    assert backbone[1].training


@pytest.mark.parametrize("name", ACTIONS)
def test_collecting_executes_actions_of_the_space_and_stores_those_of_the_policy(name):
    space = ACTIONS[name]

    class Watched(Scripted):
        def step(self, action):
            assert space.contains(action if isinstance(action, np.ndarray | np.integer) else np.asarray(action))
            return super().step(action)

    env = Watched(0, [(4, "terminated")], OBSERVATIONS, space)
    policy = agent_for(space).policy

    def sampled(observation):
        return decide(policy, OBSERVATIONS, observation, seed=len(executed))[0]

    executed: list[Any] = []

    def exploration(actor, observation, clock):
        executed.append(actor(observation)[0])
        return executed[-1][None]

    buffer = ReplayBuffer(OBSERVATIONS, space, 100)
    collector = Collector(Environments(env), buffer, sampled, exploration)
    collector.reset(0)
    for step in range(20):
        collector.step(Clock(0, step, 0.0))
    buffer.flush()
    stored = buffer.gather(torch.arange(20)).action.numpy()
    if isinstance(space, spaces.Box):
        expected = action_to_space(space, np.stack(executed)).astype(
            np.float32 if space.dtype.kind == "f" else np.int16
        )
        np.testing.assert_array_equal(stored, expected)
    else:
        np.testing.assert_array_equal(stored, np.stack(executed))


def test_weights_that_moved_are_found_again():
    """Sending a policy to another process moves its weights to shared memory, and frees the place where they were."""
    space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    policy = QPolicy(MLP(4, (16,)), n_actions=3).eval()
    actor, observations = (
        GreedyActor(policy, space),
        np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float32),
    )
    before = [actor(observation) for observation in observations]
    views = actor.shortcut
    policy.share_memory()
    assert [actor(observation) for observation in observations] == before
    assert actor.shortcut is not views
    assert actor.shortcut is not None
    with torch.no_grad():
        policy.get_parameter("head.bias").add_(torch.tensor([0.0, 0.0, 1000.0]))
    assert actor(observations[0]) == [2]
    policy.double()
    assert actor(observations[0]) == [2]
    assert actor.shortcut is None
