"""The contract that every learner keeps, as a test.

    def test_my_learner():
        check_learner(MyLearner)

It needs nothing but `MyLearner.tiny(seed=...)`, a classmethod that returns the smallest honest run: a learner and the
source of its batches.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentlib.backbones.optimizers import sgd
from agentlib.core.config import config_from_json, config_to_json
from agentlib.core.learner import Learner, Update, cycle
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.core.step import Step
from agentlib.core.target import Target
from agentlib.core.trees import copied, difference, leaves, mapped
from agentlib.engine.loop import run
from agentlib.engine.tape import CannotCompile
from agentlib.engine.torch_private import fake_tensors
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint

POINTS = {
    1: "metrics are finite, detached and 0-dim",
    2: "trained parameters move; targets and frozen ones have no gradient",
    3: "the loss falls on a fixed batch",
    4: "saved and loaded into a new object, the next update is equal bit for bit",
    5: "the same seed gives the same run, another seed another one",
    6: "all that changes is in state_dict()",
    7: "it runs on each device, and compiled and interpreted equal eager",
    8: "the config survives JSON",
    9: "evaluating in between changes nothing",
    10: "the docstring has a formula and a reference",
}
"""The assertions of `check_learner`, by number."""

UPDATES, RESUMED_UPDATES, FIXED_BATCH_UPDATES, COMPILED_UPDATES = 6, 20, 100, 100
INTERPRETED_UPDATES = 20
"""More than those after which it is checked that a trace still says what an update is."""


def check_learner(learner_class: type[Any], *, compile: bool = False, devices: Sequence[str] | None = None) -> None:
    """Asserts the points of `POINTS` for one class of learners, in seconds.

    Args:
        learner_class: a `Learner` with a classmethod `tiny(seed=...)` that returns `(learner, source)`.
        compile: also compile its update, and compare (tens of seconds, and needs a C++ compiler). A learner that steps
            by `torch.optim` is eager by declaration, and is left out.
        devices: where to run beside the CPU; by default on a CUDA device, if there is one.

    Raises:
        AssertionError: a point does not hold; the message has its number.
    """
    contract = _Contract(learner_class)
    with torch.random.fork_rng(devices=[]):
        contract.check_config()
        contract.check_updates()
        contract.check_loss()
        contract.check_seeds_and_evaluation()
        contract.check_resume()
        contract.check_placement()
        contract.check_interpreted()
        for device in devices if devices is not None else ["cuda"] if torch.cuda.is_available() else []:
            contract.check_device(device)
        if compile:
            contract.check_compiled()
        contract.check_docstring()


class _Contract:
    def __init__(self, learner_class: type[Any]) -> None:
        self.learner_class, self.name = learner_class, learner_class.__name__
        if not callable(getattr(learner_class, "tiny", None)):
            raise AssertionError(f"{self.name} has no classmethod tiny(seed=...) that returns (learner, source)")

    def require(self, condition: bool, point: int, message: str) -> None:
        if not condition:
            raise AssertionError(f"{self.name}, point {point} ({POINTS[point]}): {message}")

    def tiny(self, seed: int) -> tuple[Learner, Source]:
        learner, source = self.learner_class.tiny(seed=seed)
        return learner, source

    def check_docstring(self) -> None:
        module = sys.modules.get(self.learner_class.__module__)
        text = f"{module.__doc__ if module else ''}\n{self.learner_class.__doc__ or ''}"
        formula = re.search(r"\s(=|<-|->|~|argmin|argmax|min_\w+|max_\w+)\s", text)
        self.require(formula is not None, 10, "no line holds a formula, such as 'L = E[(Q(s, a) - y)^2]'")
        reference = re.search(r"doi:|arxiv|https?://|\b(18|19|20)\d\d\b", text, re.IGNORECASE)
        self.require(reference is not None, 10, "it names no paper or book: (Author, year), doi: or arXiv:")

    def check_config(self) -> None:
        config = getattr(self.tiny(0)[0], "config", None)
        if config is None:
            return
        self.require(dataclasses.is_dataclass(config), 8, f"config is a {type(config).__name__}, not a dataclass")
        self.require(type(config).__dataclass_params__.frozen, 8, "config is not frozen: @dataclass(frozen=True)")
        try:
            back = config_from_json(type(config), json.loads(json.dumps(config_to_json(config), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{self.name}, point 8 ({POINTS[8]}): {error}") from error
        self.require(back == config, 8, f"{config} came back as {back}")

    def check_updates(self) -> None:
        learner, source = self.tiny(0)
        before = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
        plain_update = learner.update

        def update_of_its_type(batch: Any) -> Update:
            update = plain_update(batch)
            self.require(isinstance(update, Update), 1, f"update returned a {type(update).__name__}, not an Update")
            self.check_update(update)
            return update

        learner.update = update_of_its_type  # type: ignore[method-assign]
        for _ in run(learner, source, UPDATES, compile="eager"):
            pass
        moved: dict[str, bool] = {}  # by module: a bias may be without effect, such as a critic's last
        for name, parameter in learner.named_parameters():
            owner = name.rpartition(".")[0]
            if parameter.requires_grad:
                moved[owner] = moved.get(owner, False) or not torch.equal(parameter, before[name])
            else:
                self.require(parameter.grad is None, 2, f"{name} is frozen, and has a gradient")
        still = [owner or "itself" for owner, has_moved in moved.items() if not has_moved]
        self.require(
            not still, 2, f"{', '.join(still)} did not move in {UPDATES} updates: give it to a Step, or freeze it"
        )
        for name, target in learner.named_modules():
            if isinstance(target, Target):
                frozen = not any(parameter.requires_grad for parameter in target.parameters())
                self.require(frozen, 2, f"the parameters of target {name} require gradients")
                training = any(module.training for module in target.modules())
                self.require(not training, 2, f"target {name} is in training mode")

    def check_update(self, update: Update) -> None:
        kind = type(update.metrics).__name__
        self.require(isinstance(update.metrics, dict), 1, f"the metrics are a {kind}, not a dictionary")
        for name, value in update.metrics.items():
            self.require(isinstance(value, Tensor), 1, f"{name} is a {type(value).__name__}, not a tensor")
            self.require(not value.requires_grad, 1, f"{name} is not detached")
            self.require(value.dim() == 0, 1, f"{name} has the shape {tuple(value.shape)}")
            self.require(bool(torch.isfinite(value)), 1, f"{name} is {value.item()}")
        if update.per_sample is not None:
            self.require(not update.per_sample.requires_grad, 1, "per_sample is not detached")
            self.require(bool(torch.isfinite(update.per_sample).all()), 1, "per_sample is not finite")

    def check_loss(self) -> None:
        learner, fixed = self.on_one_batch()
        metrics = [update.metrics for _, update in run(learner, fixed, FIXED_BATCH_UPDATES, compile="eager")]
        names = ["loss"] if "loss" in metrics[0] else [name for name in metrics[0] if name.endswith("loss")]
        self.require(bool(names), 3, f"no metric is called 'loss' or '..._loss', only {', '.join(metrics[0])}")
        curves = {name: [float(m[name]) for m in metrics] for name in names}
        means = {name: (np.mean(curve[:10]), np.mean(curve[-10:])) for name, curve in curves.items()}
        curve_text = ", ".join(f"{name} went from {first:.4g} to {last:.4g}" for name, (first, last) in means.items())
        self.require(any(last < first for first, last in means.values()), 3, f"{curve_text} in {len(metrics)} updates")

    def check_resume(self) -> None:
        learner, source = self.tiny(0)
        start = _plain_state(learner)
        list(run(learner, source, UPDATES, compile="eager"))
        again, source_again = self.tiny(1)
        with tempfile.TemporaryDirectory() as folder:
            try:
                save_checkpoint(Path(folder, "checkpoint.safetensors"), learner, source)
                load_checkpoint(Path(folder, "checkpoint.safetensors"), again, source_again)
            except (ValueError, TypeError) as error:
                raise AssertionError(f"{self.name}, point 4 ({POINTS[4]}): {error}") from error
        # What changed, and is not restored, would be missed sooner or later, perhaps long after the next update.
        now, restored = _plain_state(learner), _plain_state(again)
        for name, value in now.items():
            changed = difference(value, start.get(name)) is not None
            lost = changed and difference(value, restored.get(name)) is not None
            self.require(not lost, 6, f"{name} changes with the updates: make it a buffer, or use get_extra_state")
        both = [(learner, source), (again, source_again)]
        self.require_equal(*[_state(*one) for one in both], point=4, when="after loading")
        results = [[copied(tuple(update)) for _, update in run(*one, RESUMED_UPDATES, compile="eager")] for one in both]
        self.require_equal(*results, point=4, when="in the next updates")
        self.require_equal(*[_state(*one) for one in both], point=4, when="after the next updates")
        for _, update in run(again, source_again, UPDATES, compile="eager"):
            self.check_update(update)

    def check_seeds_and_evaluation(self) -> None:
        first, second, other, evaluated = (self.tiny(seed) for seed in (0, 0, 1, 0))
        for learner, source in (first, second, other):
            list(run(learner, source, UPDATES, compile="eager"))
        self.require_equal(_state(*first), _state(*second), point=5, when="in two runs with one seed")
        learned, learned_other = first[0].state_dict(), other[0].state_dict()
        self.require(difference(learned, learned_other) is not None, 5, "two seeds gave the same parameters")
        learner, source = evaluated
        bystander = self.tiny(2)
        for _ in run(learner, source, UPDATES, compile="eager"):
            learner.eval()
            torch.rand(3)
            copy.deepcopy(learner).requires_grad_(False)
            next(run(*bystander, 1, compile="eager"))
        self.require_equal(_state(*first), _state(learner, source), point=9, when="with eval() and other runs between")

    def check_placement(self) -> None:
        """One update on fake tensors of a second device, which refuse to meet those of the CPU."""
        learner, source = self.tiny(0)
        list(run(learner, source, 1, compile="eager"))
        source.advance()
        learner.before_update(source.clock)
        source.fill_ticks(source.clock)
        mode, fakes = fake_tensors(), dict[int, Any]()
        for module in dict.fromkeys([*learner.modules(), *source.modules()]):
            for held in (module._parameters, module._buffers, module.__dict__):
                for tensor in (tensor for value in list(held.values()) for tensor in leaves(value)):
                    fake = mode.from_tensor(tensor.detach().to("meta"))
                    is_parameter = isinstance(tensor, nn.Parameter)
                    fakes[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
        # A deep copy takes what is in its memory for what was copied already.
        elsewhere, its_source = copy.deepcopy((learner, source), fakes)
        try:
            with mode:
                update = cycle(elsewhere, its_source)
        except Exception as error:
            looks = "local_scalar" in str(error) or "nonzero" in str(error)
            reason = "it looks at the numbers of a tensor, as `.item()` and masks do" if looks else error
            raise AssertionError(f"{self.name}, point 7 ({POINTS[7]}): on a second device: {reason}") from error
        for name, value in update.metrics.items():
            self.require(value.device.type == "meta", 7, f"{name} stays on the {value.device.type}")

    def check_device(self, device: str) -> None:
        (learner, one), (same, two), (moved, three) = (self.on_one_batch() for _ in range(3))
        two.random_state = torch.Generator().manual_seed(99).get_state()
        three.batch = mapped(three.batch, lambda tensor: tensor.to(device))
        (_, here), (_, elsewhere) = (next(run(*pair, 1, compile="eager")) for pair in ((learner, one), (same, two)))
        for _, update in run(moved.to(device), three.to(device), 3, compile="eager"):
            self.check_update(update)
            for name, value in update.metrics.items():
                self.require(value.device.type == torch.device(device).type, 7, f"{name} is on {value.device}")
                is_random = difference(here.metrics, elsewhere.metrics) is not None
                if three.updates == 1 and not is_random:  # the first update, and no random numbers in it
                    close = torch.allclose(value.cpu(), here.metrics[name], rtol=1e-3, atol=1e-4)
                    self.require(close, 7, f"{name} is {value} on {device}, {here.metrics[name]} on the CPU")

    def check_interpreted(self) -> None:
        """Torch's interpreter does what was traced: bit for bit the same."""
        results = []
        for way in ("eager", False):
            learner, source = self.tiny(0)
            updates = islice(run(learner, source, COMPILED_UPDATES, compile=way), INTERPRETED_UPDATES)
            seen = [copied(tuple(update)) for _, update in updates]  # of a shorter run there would be no trace
            results.append((seen, copied(learner.state_dict())))
        self.require_equal(*results, point=7, when="interpreted in place of eager")

    def check_compiled(self) -> None:
        runs = []
        for compiled in ("eager", True):
            learner, source = self.tiny(0)
            steps = [module for module in learner.modules() if isinstance(module, Step)]
            if any(step.rule is None for step in steps):
                return
            for step in steps:  # Adam amplifies gradients that are zero but for rounding
                step.rule = sgd(1e-3)
            start = _flat(learner)
            try:
                updates = run(learner, source, COMPILED_UPDATES, compile=compiled)
                metrics = [copied(update.metrics) for _, update in updates]
            except CannotCompile as refusal:
                self.require(False, 7, f"it cannot be compiled: {refusal}")
                return
            runs.append((metrics, start, _flat(learner)))
        (metrics, start, end), (compiled_metrics, _, compiled_end) = runs
        # Single losses part from each other in time, by rounding; the parameters are compared at the end.
        for here, there in zip(metrics[:UPDATES], compiled_metrics[:UPDATES], strict=True):
            for name, value in here.items():
                close = torch.allclose(value, there[name], rtol=1e-3, atol=1e-5)
                self.require(close, 7, f"{name} is {value} eager and {there[name]} compiled")
        error, way = float((end - compiled_end).norm()), float((end - start).norm())
        moved = f"after {COMPILED_UPDATES} updates that moved the parameters by {way:.3g}"
        self.require(error <= 1e-3 * way + 1e-6, 7, f"{moved}, they differ by {error:.3g} compiled")

    def on_one_batch(self) -> tuple[Learner, _OneBatch]:
        learner, source = self.tiny(0)
        kept: list[Any] = []
        sample = source.sample

        def keeping() -> Any:
            kept.append(sample())
            return kept[-1]

        source.sample = keeping  # type: ignore[method-assign]
        clock = [clock for clock, _ in run(learner, source, 1, compile="eager")][-1]
        return learner, _OneBatch(copied(kept[-1]), clock)

    def require_equal(self, first: Any, second: Any, *, point: int, when: str) -> None:
        where = difference(first, second)
        self.require(where is None, point, f"{when}, {where} differs")


class _OneBatch(Source):
    """The same batch again and again, at a clock that stands still, so that targets and schedules do too."""

    def __init__(self, batch: Any, clock: Clock) -> None:
        super().__init__()
        self.batch, self.standing = batch, clock

    @property
    def clock(self) -> Clock:
        return self.standing

    def sample(self) -> Any:
        return self.batch


def _state(learner: Learner, source: Source) -> dict[str, Any]:
    return copied({"learner": dict(learner.state_dict()), "source": dict(source.state_dict())})  # type: ignore[no-any-return]


def _flat(learner: Learner) -> Tensor:
    return torch.cat([p.detach().reshape(-1).double() for p in learner.parameters()] or [torch.zeros(0)]).clone()


def _plain_state(learner: Learner) -> dict[str, Any]:
    """Copies of what modules keep outside parameters and persistent buffers, as far as its kind is known."""
    found: dict[str, Any] = {}
    for path, module in learner.named_modules():
        # A learner's phase follows from the clock.
        own = {name: value for name, value in vars(module).items() if name not in (*vars(nn.Module()), "phase")}
        own |= {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        found |= {f"{path}.{name}".lstrip("."): copied(value) for name, value in own.items()}
    return found
