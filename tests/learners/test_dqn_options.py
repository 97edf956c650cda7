"""Deep Q-learning with its options, one by one and together: the equations, the contract, compiled and resumed.

y = r + gamma (1 - terminated) max_{legal a} Q'(s', a)
y = r + gamma (1 - terminated) 1/D sum_d Q'_d(s', argmax_a Q_d(s', a))        (Tavakoli et al. 2018)
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from agentlib.backbones import MLP, sgd
from agentlib.core import Clock, Rule
from agentlib.core.randomness import fresh_weights
from agentlib.core.recipe import Problem
from agentlib.engine.compiled import compiler_found
from agentlib.engine.torch_private import DispatchMode
from agentlib.envs.dials import Dials
from agentlib.experience import Replay, Transition
from agentlib.families.control import on_replay
from agentlib.learners import DQN, DQNConfig, run
from agentlib.learners.q_learning.dqn import RECIPE, td_target
from agentlib.policies import QPolicy
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint
from agentlib.testing import check_learner
from tests.moody import Moody

VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dueling": ("CartPole-v1", {"dueling": True, "double": True}),
    "c51": ("CartPole-v1", {"distributional": "c51", "n_atoms": 11, "v_max": 30.0}),
    "quantile": ("CartPole-v1", {"distributional": "quantile", "n_quantiles": 7}),
    "noisy": ("CartPole-v1", {"noisy": True, "exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}),
    "masks": (partial(Moody, (5,)), {"double": True, "n_steps": 2}),
    "branches": (partial(Dials, 3, 4), {}),
    "rainbow": (
        "CartPole-v1",
        {"double": True, "dueling": True, "distributional": "quantile", "n_quantiles": 5, "noisy": True}
        | {"prioritized": True, "n_steps": 3},
    ),
    "everything": (
        partial(Moody, (3, 4), in_observation=True),
        {"double": True, "dueling": True, "distributional": "c51", "n_atoms": 11, "noisy": True}
        | {"prioritized": True, "n_steps": 3},
    ),
}


def variant(name: str, rule: Rule | None = None) -> type[DQN]:
    """DQN whose smallest honest run has these options."""
    env, options = VARIANTS[name]

    class Variant(DQN):
        @classmethod
        def tiny(cls, seed: int = 0) -> tuple[Any, Replay]:
            config = DQNConfig(
                learning_rate=1e-3,
                buffer_size=500,
                learning_starts=64,
                target_update_interval=400,
                batch_size=16,
                net_arch=(16,),
                **options,
            )
            problem = Problem(env=env, steps=2_000, config=config, device="cpu", seed=seed)
            job = on_replay.assemble(RECIPE, problem)
            assert isinstance(job.source, Replay)
            if rule is not None:
                job.learner.step.rule = rule  # type: ignore[union-attr]
            return job.learner, job.source

    Variant.__name__ = Variant.__qualname__ = f"DQN_{name}"
    return Variant


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_contract(name):
    check_learner(variant(name))


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
@pytest.mark.parametrize("name", ["masks", "rainbow", "everything"])
def test_compiled_equals_eager_and_resumes(name, tmp_path):
    """Plain SGD: Adam amplifies gradients that are zero but for rounding."""
    kind = variant(name, sgd(1e-2))
    eager, eager_source = kind.tiny(0)
    metrics = [update.metrics for _, update in run(eager, eager_source, 15, compile=False)]

    learner, source = kind.tiny(0)
    compiled_metrics = [update.metrics for _, update in run(learner, source, 15, compile=True)]
    for step, compiled_step in zip(metrics, compiled_metrics, strict=True):
        torch.testing.assert_close(compiled_step, step, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(learner.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-5)

    save_checkpoint(tmp_path / "middle.safetensors", learner, source)
    again, source_again = kind.tiny(1)
    load_checkpoint(tmp_path / "middle.safetensors", again, source_again)
    source.updates_due = source_again.updates_due = 5  # the episode under way is not saved
    for (_, here), (_, there) in zip(
        run(learner, source, 5, compile=True), run(again, source_again, 5, compile=True), strict=True
    ):
        assert all(torch.equal(here.metrics[name], there.metrics[name]) for name in here.metrics)
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), again.parameters(), strict=True))


def test_priorities_are_the_errors():
    """(|error| + 1e-6)^alpha once an update is done, and new transitions get the largest so far."""
    learner, source = variant("rainbow").tiny()
    feedback, seen = source.feedback, list[Any]()

    def watched(batch: Transition, errors: torch.Tensor) -> None:
        seen.append((batch.index, (errors.abs() + 1e-6) ** 0.6))
        feedback(batch, errors)

    source.feedback = watched
    priorities: Any = source.buffer.priorities
    for _ in run(learner, source, 20, compile="eager"):
        torch.testing.assert_close(priorities.get(seen[-1][0]), seen[-1][1])
    assert float(source.buffer.top) == pytest.approx(max(1.0, *(float(each.max()) for _, each in seen)))
    weight = source.sample().weight
    assert weight.max() == 1.0
    assert weight.min() < 1.0


# The equations --------------------------------------------------------------------------------------------------------


def batch_of(actions: list[int], size: int = 16, **changes: Any) -> Transition:
    generator = torch.Generator().manual_seed(0)
    observation, next_observation = torch.randn(2, size, 4, generator=generator)
    action = torch.stack([torch.randint(0, n, (size,), generator=generator) for n in actions], 1)
    batch = Transition(
        observation=observation,
        action=action if len(actions) > 1 else action[:, 0],
        reward=torch.randn(size, generator=generator),
        next_observation=next_observation,
        terminated=(torch.arange(size) % 4 == 0).float(),
        discount=torch.full((size,), 0.9),
        weight=torch.rand(size, generator=generator),
        index=torch.arange(size),
        clock=Clock(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)),
    )
    return batch._replace(**changes)


def a_learner(n_actions: Any, config: DQNConfig, **options: Any) -> DQN:
    with fresh_weights(0):
        policy = QPolicy(MLP(4, (16,)), n_actions, **options)
    learner = DQN(policy, sgd(0.0), config)
    with torch.no_grad():  # online and target network must differ for double Q-learning to matter
        for parameter in learner.target.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return learner


def legal_of(size: int, actions: int) -> torch.Tensor:
    """Masks that rule out the best action where they can."""
    mask = torch.rand(size, actions, generator=torch.Generator().manual_seed(2)) < 0.4
    mask[torch.arange(size), torch.arange(size) % actions] = True
    return mask


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_the_maximum_of_the_target_is_over_legal_actions(double, dueling):
    mask = legal_of(16, 5)
    learner, batch = a_learner(5, DQNConfig(double=double), dueling=dueling), batch_of([5], next_mask=mask)
    with torch.no_grad():
        online, target = learner.policy(batch.next_observation)[0], learner.target(batch.next_observation)[0]
        value = learner.policy(batch.observation)[0]
    expected = []
    for i in range(16):
        best = max((a for a in range(5) if mask[i, a]), key=lambda a: (online if double else target)[i, a].item())
        y = batch.reward[i] + 0.9 * (1 - batch.terminated[i]) * target[i, best]
        expected.append((value[i, batch.action[i]] - y).item())
    unmasked = (online if double else target).argmax(1)
    assert not mask[torch.arange(16), unmasked].all()

    errors = learner.update(batch).per_sample

    assert errors is not None
    np.testing.assert_allclose(errors, expected, atol=1e-5)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_branches_share_the_mean_of_their_best_values(double, masked, loss):
    actions = [2, 4, 3]
    mask = torch.cat([legal_of(16, n) for n in actions], 1)
    config: Any = DQNConfig(double=double, loss=loss)
    learner, batch = a_learner(actions, config, dueling=True), batch_of(actions, next_mask=mask if masked else None)
    with torch.no_grad():
        value, online = learner.policy(batch.observation)[0], learner.policy(batch.next_observation)[0]
        target = learner.target(batch.next_observation)[0]
    losses, errors = [], []
    for i in range(16):
        next_values, chosen = [], []
        for d, (start, n) in enumerate(zip([0, 2, 6], actions, strict=True)):
            options = [start + a for a in range(n) if mask[i, start + a] or not masked]
            best = max(options, key=lambda a: (online if double else target)[i, a].item())
            next_values.append(target[i, best].item())
            chosen.append(value[i, start + batch.action[i, d]].item())
        y = batch.reward[i].item() + 0.9 * (1 - batch.terminated[i].item()) * np.mean(next_values)
        error = np.array(chosen) - y
        each = np.where(abs(error) < 1, 0.5 * error**2, abs(error) - 0.5) if loss == "huber" else error**2
        losses.append(batch.weight[i].item() * each.mean())
        errors.append(abs(error).mean())

    update = learner.update(batch)

    assert update.per_sample is not None
    np.testing.assert_allclose(update.per_sample, errors, atol=1e-5)
    assert update.metrics["loss"].item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("kind", ["c51", "quantile"])
def test_distributions_follow_the_action_of_the_largest_mean(kind):
    """Two equal rows that differ in what is legal have the goals of different actions."""
    learner = a_learner(3, DQNConfig(), distributional=kind, n_atoms=5)
    batch = batch_of([3], 2)
    rows = {name: getattr(batch, name)[:1].expand_as(getattr(batch, name)) for name in ("observation", "action")}
    rows["next_observation"] = batch.next_observation[:1].expand(2, 4)
    batch = batch._replace(**rows, reward=torch.zeros(2), terminated=torch.zeros(2))
    with torch.no_grad():
        values = learner.policy.values(learner.target(batch.next_observation)[0])[0]
    best = int(values.argmax())
    without = torch.ones(2, 3, dtype=torch.bool)
    without[1, best] = False

    free = learner.update(batch._replace(next_mask=torch.ones(2, 3, dtype=torch.bool))).per_sample
    partly = learner.update(batch._replace(next_mask=without)).per_sample
    none = learner.update(batch).per_sample

    assert free is not None
    assert partly is not None
    assert none is not None
    assert free[0] == free[1] == partly[0] == none[0]
    assert partly[1] != partly[0]


def test_pick_goes_along_any_further_axes():
    values, atoms = torch.randn(6, 5), torch.randn(6, 5, 7)
    one, several = QPolicy(MLP(4, ()), 5), QPolicy(MLP(4, ()), [2, 3])
    option = torch.stack([torch.randint(2, (6,)), torch.randint(3, (6,))], 1)
    column = option + torch.tensor([0, 2])
    kinds: Any = {"distributional": "quantile", "n_atoms": 7}
    one_of_atoms, several_of_atoms = QPolicy(MLP(4, ()), 5, **kinds), QPolicy(MLP(4, ()), [2, 3], **kinds)
    sequence = one.pick(values.reshape(2, 3, 5), column[:, 0].reshape(2, 3)).flatten()

    for i in range(6):
        assert torch.equal(several.pick(values, option)[i], values[i, column[i]])
        assert torch.equal(one.pick(values, column[:, 0])[i], values[i, column[i, 0]])
        assert torch.equal(several_of_atoms.pick(atoms, option)[i], atoms[i, column[i]])
        assert torch.equal(one_of_atoms.pick(atoms, column[:, 0])[i], atoms[i, column[i, 0]])
        assert sequence[i] == values[i, column[i, 0]]


def test_a_policy_that_lacks_what_the_config_asks_for_is_refused():
    for config, message in (
        (DQNConfig(dueling=True), "dueling=True"),
        (DQNConfig(noisy=True), "noisy=True"),
        (DQNConfig(distributional="c51"), "distributional='c51', the policy distributional=None"),
    ):
        with pytest.raises(ValueError, match=message):
            a_learner(2, config)
    with pytest.raises(ValueError, match="v_min must be below v_max"):
        DQNConfig(v_min=1.0, v_max=1.0)
    with pytest.raises(ValueError, match="n_atoms must be at least 2"):
        DQNConfig(n_atoms=1)


# What is off costs nothing --------------------------------------------------------------------------------------------

VIEWS = {"view", "expand", "unsqueeze", "select", "slice", "_unsafe_view", "detach", "alias", "t", "reshape"}


class Operations(DispatchMode):
    """Writes down what is computed; another look at the same memory is no computation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        self.names += [] if name in VIEWS else [name]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("double", [False, True])
def test_the_plain_update_computes_what_plain_dqn_does_and_nothing_else(double):
    learner, batch = a_learner(3, DQNConfig(double=double)), batch_of([3])

    def plain() -> Any:
        """The update without any options, written out."""
        values, _ = learner.policy(batch.observation)
        with torch.no_grad():
            next_values, _ = learner.target(batch.next_observation)
            chooser = learner.policy(batch.next_observation)[0] if double else next_values
            next_value = next_values.gather(1, chooser.argmax(1)[:, None])[:, 0]
            y = td_target(batch.reward, batch.discount, batch.terminated, next_value)
        value = values.gather(1, batch.action[:, None])[:, 0]
        loss = (batch.weight * torch.nn.functional.smooth_l1_loss(value, y, reduction="none")).mean()
        norm = learner.step(loss, batch.clock)
        return loss.detach(), value.detach().mean(), norm, (value - y).detach()

    found = []
    for update in (plain, lambda: learner.update(batch)):
        with Operations() as operations:
            update()
        found.append(sorted(operations.names))

    assert found[0] == found[1]
    assert "argmax" in found[0]
