"""What a run is about, what a recipe makes of it, and what a run without an agent leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agentlib.agent import Agent
from agentlib.backbones.randomness import host_generator_kept
from agentlib.data.source import Source
from agentlib.envs.making import make_env
from agentlib.evaluation.intervals import readable
from agentlib.evaluation.returns import evaluate
from agentlib.training.learner import Learner

EVALUATION_EPISODES = 10
EVALUATION_SEED = 2**20


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be learned from: the arguments of `agentlib.train` that are no hyperparameters."""

    env: Any = None
    """An id, an instance, a factory, or a vector environment."""
    n_envs: int = 1
    """Environments stepped side by side."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Given to the environment's constructor."""
    data: Any = None
    """The name of a data set, a path, or the data."""
    demos: Any = None
    """Demonstrations, or where they are."""
    expert: Any = None
    """Who is asked: a callable on batches, an agent, an SB3 model, or a name."""
    steps: int | None = None
    """Length of the run."""
    agent: Agent | None = None
    """Go on from this agent."""

    @property
    def key(self) -> str | None:
        """What presets are looked up by: the environment's id, or the name of the data set."""
        if self.env is not None:
            return self.env if isinstance(self.env, str) else getattr(getattr(self.env, "spec", None), "id", None)
        return self.data if isinstance(self.data, str) else None


@dataclass(frozen=True)
class Reference:
    """A number to judge a result by."""

    value: float
    source: str
    """Whose number it is, and under which conditions."""


@dataclass(kw_only=True)
class Job:
    """A learner with all that a run needs; `agentlib.train` knows nothing else."""

    learner: Learner
    source: Source
    updates: int
    """Updates in the whole run; a guess, where `finished` says when it is over."""
    steps: int
    """Steps in the whole run, on the source's clock."""
    product: Callable[[], Agent | nn.Module]
    """The agent as it is now, or the trained network where no agent comes out; it shares the learner's weights."""
    finished: Callable[[], bool] | None = None
    """For runs whose length shows only as they go: whether all is done."""
    gives_result: bool = False
    """Whether the caller gets a `Result` even though the product is an agent: where what it measured is what counts."""
    measures: Callable[[], dict[str, float]] = dict
    """What there is to log besides the learner's metrics, under SB3's names; cheap."""
    evaluate: Callable[[], dict[str, float]] | None = None
    """Scores on held-out data or in fresh episodes, named `eval/...`; None where there is nothing to evaluate on."""
    objective: str = "eval/mean_reward"
    """The name among `evaluate`'s scores by which the best is known."""
    lower_is_better: bool = False
    """Whether the objective is a loss."""
    eval_every: int | None = None
    """Steps between evaluations, where the caller does not say."""
    patience: int | None = None
    """Evaluations without a better objective after which the run stops; the learner then gets its best weights back."""
    finish: Callable[[], dict[str, float]] = dict
    """The final result, measured once, on data that nothing was chosen by; named `test/...`."""
    references: Mapping[str, Reference] = field(default_factory=dict)
    """What to hold `finish`'s numbers against, under the same names."""
    pictures: Callable[[Path], list[Path]] = lambda folder: []
    """Draws the result into a run's folder; returns the files."""
    close: Callable[[], None] = lambda: None
    """Releases what the recipe made."""
    tables: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts for the run's record."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves behind that is about data, or that makes no agent."""

    model: nn.Module
    """What was trained, in eval mode."""
    metrics: dict[str, float]
    """The last numbers of the training."""
    measures: dict[str, float]
    """What was reached, on data that nothing was chosen by."""
    references: Mapping[str, Reference] = field(default_factory=dict)
    """Numbers to hold the measures against, under the same names."""
    pictures: tuple[Path, ...] = ()
    """Files that show the result; only of runs with a folder."""
    agent: Agent | None = None
    """The model as an agent, to save and to use anywhere: its observation is an example, its action the prediction."""

    @property
    def backbone(self) -> nn.Module:
        """The network under the model's head, for another learner to go on with.

        Raises:
            AttributeError: the model has no backbone.
        """
        backbone = self.model.backbone
        assert isinstance(backbone, nn.Module)
        return backbone

    def __str__(self) -> str:
        lines = []
        for name, value in self.measures.items():
            reference = self.references.get(name)
            told = f" (reference: {readable(reference.value)}, {reference.source})" if reference else ""
            lines.append(f"{name} {readable(value)}{told}")
        return "\n".join(lines) or "no measures"


@dataclass(frozen=True)
class Recipe:
    """How one algorithm's run is put together."""

    name: str
    config: type[Any]
    build: Callable[..., Job]
    summary: str
    learns_from: str
    """In words, such as "an environment"."""
    needs: tuple[str, ...]
    """Which of `env`, `data`, `demos` and `expert` it cannot do without."""
    takes: tuple[str, ...] = ()
    """Which of them it can use besides."""
    steps: int | None = None
    """How long a run is if neither the caller nor a preset says; None where the caller must."""


def episodes_played(problem: Problem, product: Callable[[], Any]) -> Callable[[], dict[str, float]]:
    """For `Job.evaluate`: episodes in an environment of their own, on seeds that training never sees."""

    def play() -> dict[str, float]:
        world = partial(make_env, problem.env, env_kwargs=problem.env_kwargs, training=False)
        result = evaluate(product(), world, episodes=EVALUATION_EPISODES, seed=EVALUATION_SEED)
        return {"eval/mean_reward": result.mean, "eval/mean_ep_length": float(result.lengths.mean())}

    return play


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Networks built inside have weights from this seed; the host's generator stays as it is."""
    with host_generator_kept():
        torch.default_generator.manual_seed(seed)
        yield


def choose_device(device: str | torch.device, network: nn.Module) -> torch.device:
    """The device asked for; "auto" takes a GPU for networks that gain from one.

    Raises:
        ValueError: there is no such device here.
    """
    if str(device) != "auto":
        wanted = torch.device(device)
        if wanted.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device={str(device)!r}, but torch finds no GPU: take cpu, or auto")
        return wanted
    return torch.device("cuda" if torch.cuda.is_available() and is_large(network) else "cpu")


def is_large(network: nn.Module) -> bool:
    """Whether it gains from a GPU or several threads: convolutions, or a million weights."""
    large = sum(parameter.numel() for parameter in network.parameters()) > 1_000_000
    return large or any(isinstance(module, nn.Conv2d) for module in network.modules())
