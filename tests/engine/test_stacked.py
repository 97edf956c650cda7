"""Several learners at once: each learns what it would learn alone."""

from typing import Any

import pytest
import torch
from torch import nn

from agentlib.backbones import MLP, adam, lars, sgd
from agentlib.core.learner import cycle
from agentlib.core.step import Step
from agentlib.core.trees import copied, leaves, mapped
from agentlib.engine.stacked import Sources, Stack
from agentlib.engine.torch_members import Members
from agentlib.engine.traced import traced
from agentlib.learners import DQN, Classifier, DQNConfig, Learner, Regressor, Update, run
from agentlib.policies import QPolicy

N = 3


def in_precision(tree, dtype):
    return mapped(tree, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def side_by_side(batches):
    """Batches `(B, ...)` as one `(n, B, ...)`; the clock is common to all."""
    each = [iter(leaves(batch)) for batch in batches]

    def stack(tensor):
        found = [next(one) for one in each]
        is_common = not tensor.dim() and all(torch.equal(one, tensor) for one in found)
        return tensor if is_common else torch.stack(found)

    return mapped(batches[0], stack)


def learned(make, dtype, updates=100):
    """Learners that were trained alone and as a stack on the same batches, and how they began."""
    alone, together = [make(seed) for seed in range(N)], [make(seed)[0] for seed in range(N)]
    for learner in [*(learner for learner, _ in alone), *together]:
        learner.to(dtype).train()
    before, stack = copied([dict(learner.state_dict()) for learner in together]), Stack(together)
    for _ in range(updates):
        batches, reports = [], []
        for learner, source in alone:
            source.advance()
            clock = source.clock
            learner.before_update(clock)
            source.fill_ticks(clock)
            batches.append(in_precision(source.sample(), dtype))
            reports.append(learner.update(batches[-1]))
            source.feedback(batches[-1], reports[-1].per_sample)
            source.count_update()
        stack.before_update(clock)
        update = stack.update(side_by_side(batches))
    for name, values in update.metrics.items():
        expected = torch.stack([report.metrics[name] for report in reports])
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    return [learner for learner, _ in alone], together, before


def furthest(first, second):
    pairs = zip(leaves(copied(first)), leaves(copied(second)), strict=True)
    return max(float((one.double() - other.double()).abs().max()) for one, other in pairs if one.numel())


def clipped(seed):
    """A DQN of the size of the issue, whose gradients are clipped: the norm is each seed's own."""
    _, source = DQN.tiny(seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = QPolicy(MLP(4, hidden=(64, 64)), n_actions=2)
    config = DQNConfig(max_grad_norm=0.01, double=True, tau=0.5, target_update_interval=8)
    return DQN(policy, adam(1e-3, weight_decay=0.1, decoupled=True), config), source


@pytest.mark.parametrize("make", [clipped, DQN.tiny, Classifier.tiny, Regressor.tiny])
def test_each_learns_what_it_learns_alone(make):
    """100 updates on the same batches."""
    for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        alone, together, before = learned(make, dtype)
        assert max(map(furthest, alone, together)) <= most
        assert min(map(furthest, before, [dict(learner.state_dict()) for learner in together])) > 1e-3, "they learn"


def test_a_step_clips_by_the_norm_of_each():
    """Of two gradients, 3 and 0.5 long, with a limit of 1: one is cut to it and the other is left alone."""
    scales = torch.tensor([[3.0, 0.0], [0.0, 0.5]])

    class Slope(Learner):
        can_be_stacked = True

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.step = Step(self.weight, sgd(1.0), max_grad_norm=1.0)

        def update(self, batch):
            return Update({"norm": self.step((batch * self.weight).sum(), None)})

    learners = [Slope(), Slope()]
    update = Stack(learners).update(scales)
    assert update.metrics["norm"].tolist() == [3.0, 0.5]
    torch.testing.assert_close(learners[0].weight.detach(), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(learners[1].weight.detach(), torch.tensor([0.0, -0.5]))


def pair(seeds=range(N)):
    made = [DQN.tiny(seed=seed) for seed in seeds]
    return Stack([learner for learner, _ in made]), Sources([source for _, source in made])


@pytest.mark.slow
def test_interpreted_equals_plain_bit_for_bit(monkeypatch):
    def after(way):
        stack, sources = pair()
        list(run(stack, sources, 120, compile=way))
        return stack, sources

    (plain, drawn), (interpreted, drawn_too) = after("eager"), after(False)
    assert furthest(plain, interpreted) == 0.0
    assert torch.equal(drawn.random_state, drawn_too.random_state)
    assert [member.updates for member in drawn.members] == [120] * N


def test_operations_do_not_grow_with_the_seeds():
    """An update of eight is as many operations as one of two, and not much more than of one learner."""

    def operations(learner: Any, source: Any) -> int:
        source.advance()
        source.fill_ticks(source.clock)
        return len(traced(learner, source).operations)

    one, two, eight = operations(*DQN.tiny()), operations(*pair(range(2))), operations(*pair(range(8)))
    assert two == eight < 2 * one


def test_taken_apart_each_has_memory_of_its_own():
    stack, sources = pair()
    list(run(stack, sources, 3, compile="eager"))
    first, state = stack.learners[0], copied(stack)
    stack.take_apart()
    sources.take_apart()
    assert furthest(state, stack) == 0.0
    sizes = {tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in first.policy.parameters()}
    assert sizes == {tensor.numel() for tensor in first.policy.parameters()}
    for learner, source in zip(stack.learners, sources.members, strict=True):
        list(run(learner, source, 2, compile="eager"))
    cycle(first, sources.members[0])


def test_members_are_seen_one_by_one():
    x = torch.arange(6.0).view(3, 2)
    with Members(3) as level:
        assert level.one(x).shape == (2,)
        assert torch.equal(level.outside(level.one(x) * 2.0), x * 2.0)
        assert level.inside(torch.tensor(1.0)).dim() == 0


class Own(Learner):
    """A learner of one's own; `fault` does in its update what cannot be done for several."""

    can_be_stacked = True

    def __init__(self, fault=None, rule=None, width=2):
        super().__init__()
        self.network = nn.Linear(2, width)
        self.step = Step(self.network, rule or sgd(0.1))
        self.fault = fault

    def update(self, batch):
        loss = self.network(batch).square().mean()
        if self.fault is not None:
            self.fault(loss)
        return Update({"loss": loss.detach(), "norm": self.step(loss, None)})


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_want_of_memory_is_said_to_be_that(monkeypatch, error):
    learners = [DQN.tiny(seed)[0] for seed in (0, 1)]

    def update(batch):
        raise error

    monkeypatch.setattr(learners[0], "update", update)
    with pytest.raises(type(error)) as caught:
        Stack(learners).update(None)
    assert caught.value is error
    assert caught.value.__notes__ == ["2 seeds at once need that many times the memory of one: take fewer"]


def test_what_cannot_be_stacked_is_refused_by_name():
    class Unknown(Own):
        can_be_stacked = False

    refused = "cannot be trained for several seeds at once"
    with pytest.raises(ValueError, match=f"Unknown {refused}"):
        Stack([Unknown(), Unknown()])
    with pytest.raises(ValueError, match=f"Own {refused}: .* lars"):
        Stack([Own(rule=lars(0.1)), Own(rule=lars(0.1))])
    with pytest.raises(ValueError, match=f"Own {refused}: .* torch.optim"):
        Stack([Own(rule=lambda parameters: torch.optim.SGD(parameters, 0.1)) for _ in range(2)])
    with pytest.raises(ValueError, match=f"Own {refused}: .* shapes"):
        Stack([Own(), Own(width=3)])
    with pytest.raises(ValueError, match=f"Own {refused}: .*item"):
        Stack([Own(lambda loss: loss.item()) for _ in range(2)]).update(torch.ones(2, 4, 2))
