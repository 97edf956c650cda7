"""The parts of a run: plain types that families, learners and runs share."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from agentlib.core.learner import Learner
from agentlib.core.names import one_line, readable
from agentlib.core.source import Source


def option(default: Any, help: str, *, flag: Any = None, metavar: str = "") -> Any:
    """A field of a run's options.

    Args:
        default: its default.
        help: its help text, in whole sentences.
        flag: its type on the command line; None keeps it off the command line.
        metavar: how the help of the command line shows its value.
    """
    factory = {"default_factory": type(default)} if isinstance(default, dict) else {"default": default}
    return field(**factory, metadata={"help": help, "flag": flag, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The data and environments of a run: those options of a run that a family reads."""

    env: Any = option(None, "The id of an environment, such as CartPole-v1.", flag=str | None, metavar="ID")
    n_envs: int | None = option(
        None,
        "Number of environments stepped side by side; the default is the preset's, or 1.",
        flag=int | None,
        metavar="N",
    )
    env_kwargs: dict[str, Any] = option(
        {}, "Arguments of the environment, such as is_slippery=False.", flag=tuple[str, ...], metavar="NAME=VALUE ..."
    )
    max_steps: int | None = option(
        None,
        "Cut an episode off after this many steps; by default the environment decides.",
        flag=int | None,
        metavar="N",
    )
    actors: int | None = option(
        None,
        "Number of processes, started by Ray, that step the environments while this one learns.",
        flag=int | None,
        metavar="N",
    )
    data: Any = option(
        None,
        "The data to learn from: a name of `agentlib list data`, or a path.",
        flag=str | None,
        metavar="NAME|PATH",
    )
    demos: Any = option(
        None,
        "The demonstrations to learn from: a file that `agentlib record` wrote, or a Minari dataset on this machine.",
        flag=str | None,
        metavar="FILE|minari:ID",
    )
    expert: Any = option(
        None,
        "The expert to ask: the environment's scripted one, yourself at this terminal, an agent, or SB3's model.",
        flag=str | None,
        metavar="scripted|me|FILE|sb3:ZIP",
    )
    agent: Any = option(
        None,
        "The agent whose weights the run starts from: its file, or the folder of its run.",
        flag=str | None,
        metavar="FILE|DIR",
    )
    steps: int | None = option(
        None,
        "Length of the run: environment steps, or updates where there is no environment.",
        flag=int | None,
        metavar="N",
    )
    n_eval_episodes: int = option(10, "Number of episodes of each evaluation during training.", flag=int, metavar="N")
    seed: int = option(0, "Seed of everything random: the same seed gives the same run.", flag=int, metavar="N")
    backbone: Any = option(
        "auto",
        "The network under the head: a name of `agentlib list backbones`, or a saved backbone's file.",
        flag=str,
        metavar="NAME|FILE",
    )
    device: str | torch.device = option(
        "auto", "The device of the networks: auto, cpu, cuda, cuda:1 ...", flag=str, metavar="NAME"
    )
    config: Any = option(None, "The config of the algorithm.")

    @property
    def key(self) -> str | None:
        """The environment's id or the name of the data set, by which presets are looked up."""
        if self.env is not None:
            return self.env if isinstance(self.env, str) else getattr(getattr(self.env, "spec", None), "id", None)
        return self.data if isinstance(self.data, str) else None


SMALL_IMAGE = 24 * 24
"""Images of fewer pixels are small."""
RESERVED = {field.name for field in dataclasses.fields(Problem)} | {
    *(
        "what",
        "eval_every",
        "video_every",
        "out",
        "progress",
        "log",
        "compile",
        "precision",
        "threads",
        "resume",
        "callback",
        "zoo",
        "debug",
    ),
}
"""Names of options of every run, which no config may have."""


class Measure(NamedTuple):
    """A number that was reached on data that nothing was chosen by."""

    name: str
    """Such as "test/accuracy"."""
    value: float
    reference: float | None = None
    """A number to hold it against."""
    whose: str = ""
    """Whose number the reference is, and under which conditions."""

    def __str__(self) -> str:
        reference = "" if self.reference is None else f" (baseline: {readable(self.reference)}, {self.whose})"
        return f"{self.name} {readable(self.value)}{reference}"


class Judge:
    """How a run is judged. Each family has one; this one judges nothing."""

    objective = "eval/mean_reward"
    """The score of `evaluate` by which the best is known."""
    lower_is_better = False
    """Whether the objective is a loss."""
    eval_every: int | None = None
    """Steps between evaluations, where the caller does not say."""
    patience: int | None = None
    """Evaluations without a better objective after which the run stops and the learner gets its best weights back."""
    evaluates = False
    """Whether there is anything to evaluate on."""
    films = False
    """Whether there are episodes to film."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        """JSON-able facts for the run's results."""
        self.about: dict[str, Any] = {}
        """JSON-able notes for the file of the model."""
        self.curves: dict[str, list[list[float]]] = {}
        """Steps and values while training, by name, for pictures; the run keeps them in its checkpoints."""

    def note(self, step: int, name: str, value: float) -> None:
        """Adds a value to a curve."""
        steps, values = self.curves.setdefault(name, [[], []])
        steps.append(step)
        values.append(value)

    def evaluate(self) -> dict[str, float]:
        """Scores on held-out data or in fresh episodes, named `eval/...`; called while training."""
        return {}

    def finish(self) -> list[Measure]:
        """The final result on data that nothing was chosen by, named `test/...`; called once."""
        return []

    def draw(self, folder: Path) -> list[Path]:
        """Draws the result into a folder; returns the files."""
        return []

    def film(self, stem: Path, most: int) -> None:
        """Films one episode of at most that many steps into a file of this name and a suffix; called while training."""


class Length(NamedTuple):
    """How long a run is."""

    updates: int
    """Updates in the whole run."""
    steps: int
    """Steps in the whole run, on the source's clock."""
    is_exact: bool = True
    """False: `updates` is a guess, and the run is over when the source says that it has `finished`."""


class Job(NamedTuple):
    """A learner with all that its run needs."""

    learner: Learner
    source: Source
    length: Length
    product: Any
    """The agent, or the trained network where no agent comes out; it shares the learner's weights."""
    judge: Judge


@dataclass(frozen=True)
class Family:
    """How the runs of one kind of learner are put together."""

    assemble: Callable[[Recipe, Problem], Job]
    learns_from: str
    """In words, such as "an environment"."""
    needs: tuple[str, ...]
    """Which of `env`, `data`, `demos` and `expert` it cannot do without."""
    takes: tuple[str, ...] = ()
    """Which of them it can use besides."""
    fields: tuple[str, ...] = ()
    """Attributes that it reads from a config."""
    methods: tuple[str, ...] = ()
    """Methods of a learner by which it is judged."""
    makes_agent: bool = True
    """Whether an agent comes out, and a run can start from one."""
    has_actors: bool = False
    """Whether actors in other processes can step its environments."""


def family(learns_from: str, **parts: Any) -> Callable[[Callable[[Recipe, Problem], Job]], Family]:
    """Makes a family of the function that puts its runs together; the arguments are `Family`'s."""
    return lambda assemble: Family(assemble, learns_from, **parts)


class Counterpart(NamedTuple):
    """The same algorithm in Stable-Baselines3; hyperparameters of one name mean the same on both sides."""

    algorithm: str
    """The name of its class."""
    built_in: Mapping[str, Any] = {}
    """Fields of our config whose values are fixed there, and no arguments."""
    variants: Mapping[tuple[str, Any], str] = {}
    """Other classes, by a field of our config and its value; or by "backbone" or "masks", and what the run has."""


@dataclass(frozen=True)
class Recipe:
    """One algorithm that can be trained by `agentlib.train`.

    Args:
        name: what it is called.
        learner: its class, with `build`.
        config: its config dataclass, frozen, with a default for each field.
        family: how its runs are put together, such as `agentlib.families.examples.on_examples`.
        summary: one line for lists of learners.
        steps: length of a run where neither the caller nor a preset says.
        presets: fields of the config, and `steps`, by environment id or name of data set; under "" those of every run
            that is asked for by name.
        sb3: its counterpart in Stable-Baselines3, if there is one.

    Raises:
        ValueError: a part does not fit; the message says which, and what it should be.
    """

    name: str
    learner: type[Learner]
    config: type[Any]
    family: Family
    summary: str
    steps: int | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sb3: Counterpart | None = None

    def __post_init__(self) -> None:
        name = self.name if isinstance(self.name, str) else "..."

        def require(fits: bool, part: str, wanted: str) -> None:
            if not fits:
                raise ValueError(f"Recipe({name!r}): {part} must be {wanted}, not {getattr(self, part)!r}")

        require(bool(self.name) and isinstance(self.name, str), "name", "a string")
        require(isinstance(self.family, Family), "family", "one of agentlib.families, such as on_examples")
        is_learner = isinstance(self.learner, type) and issubclass(self.learner, Learner)
        require(is_learner, "learner", "a class that inherits from agentlib.learners.Learner")
        build = inspect.getattr_static(self.learner, "build")
        is_method = build is not inspect.getattr_static(Learner, "build") and isinstance(build, classmethod)
        takes_three = is_method and len(inspect.signature(self.learner.build).parameters) == 3
        require(takes_three, "learner", "a class with the class method build(backbone, config, facts)")
        require(not inspect.isabstract(self.learner), "learner", "a class with the method update(batch)")
        for method in self.family.methods:
            has_it = getattr(self.learner, method, None) not in (None, getattr(Learner, method, None))
            require(has_it, "learner", f"a class with the method {method}, which its family calls")
        frozen = dataclasses.is_dataclass(self.config) and self.config.__dataclass_params__.frozen  # type: ignore[attr-defined]
        require(isinstance(self.config, type) and frozen, "config", "a dataclass with frozen=True")
        options = {f.name for f in dataclasses.fields(self.config)}
        for field_ in dataclasses.fields(self.config):
            has_default = not field_.default is field_.default_factory is dataclasses.MISSING
            require(has_default, "config", f"a dataclass with a default for {field_.name}")
            is_free = field_.name not in RESERVED
            require(is_free, "config", f"a dataclass without the field {field_.name}, an option of every run")
        for needed in (*self.family.fields, "optimizer"):
            has_it = needed in options or hasattr(self.config, needed)
            kind = "the method optimizer(), which returns a rule" if needed == "optimizer" else needed
            require(has_it, "config", f"a dataclass with {kind}; agentlib.backbones.Optimized has what most need")
        require(isinstance(self.summary, str), "summary", "a string")
        require(self.steps is None or (type(self.steps) is int and self.steps > 0), "steps", "a whole number from 1")
        require(isinstance(self.presets, Mapping), "presets", "a dictionary of settings by environment or data set")
        require(isinstance(self.sb3, Counterpart | None), "sb3", "a Counterpart")

    @property
    def built_in(self) -> Mapping[str, Any]:
        """Fields of the config whose values are fixed in the counterpart, if there is one."""
        return {} if self.sb3 is None else self.sb3.built_in

    def job(self, problem: Problem) -> Job:
        """The job of a run, put together by the family.

        Raises:
            TypeError: the family returned something else.
            ValueError: what the family raises, where something does not fit.
        """
        job = self.family.assemble(self, problem)
        if not isinstance(job, Job):
            found = type(job).__name__
            raise TypeError(f"the family of {self.name} must return a Job(learner, source, ...), not a {found}")
        return job

    def tiny(self, learner: type[Learner], config: Any, seed: int, **origin: Any) -> tuple[Any, Source]:
        """A learner of this class, and the source of its batches, on the CPU; for the learner's `tiny()`.

        Args:
            learner: the recipe's class, or one that inherits from it.
            config: the numbers of a small run.
            seed: of weights and batches.
            origin: where the experience comes from, as `Problem` has it: `env`, `data`, `demos`, and the backbone.
        """
        problem = Problem(config=config, seed=seed, device="cpu", **{"steps": 100_000} | origin)
        job = dataclasses.replace(self, learner=learner).job(problem)
        return job.learner, job.source


def device_for(device: str | torch.device, network: nn.Module) -> torch.device:
    """The device asked for; "auto" takes a GPU for networks that gain from one.

    Raises:
        ValueError: there is no such device here.
    """
    if str(device) != "auto":
        wanted = torch.device(device)
        if wanted.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device={str(device)!r}, but torch finds no GPU: take cpu, or auto")
        try:
            torch.zeros(1, device=wanted).item()
        except Exception as error:  # of a name that torch knows, and no such device here; each has its own
            raise ValueError(f"device={str(device)!r} cannot be used here: {one_line(error)}") from None
        return wanted
    return torch.device("cuda" if torch.cuda.is_available() and is_large(network) else "cpu")


def is_large(network: nn.Module) -> bool:
    """Whether it gains from a GPU: convolutions, or a million weights that are trained."""
    return _is_wide(network) or any(isinstance(module, nn.Conv2d) for module in network.modules())


def gains_from_threads(network: nn.Module) -> bool:
    """Whether several threads are quicker: for large networks, but not for convolutions on small images.

    The threads of these wait for each other longer than they compute; on a busy machine many times as long.
    """
    layouts: list[Any] = [
        module.layout for module in network.modules() if hasattr(getattr(module, "layout", None), "sides")
    ]
    is_small = bool(layouts) and all(math.prod(layout.sides) < SMALL_IMAGE for layout in layouts)
    return _is_wide(network) or (is_large(network) and not is_small)


def _is_wide(network: nn.Module) -> bool:
    trained = (parameter for parameter in network.parameters() if parameter.requires_grad)
    return sum(parameter.numel() for parameter in trained) > 1_000_000
