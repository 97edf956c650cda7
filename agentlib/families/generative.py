"""Learning the distribution of examples: samples, likelihoods and reconstructions, each judged if a learner has it."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentlib.backbones import Generator
from agentlib.backbones.choice import space_of
from agentlib.core.learner import Learner
from agentlib.core.modes import in_eval_mode
from agentlib.core.progress import watched
from agentlib.core.randomness import host_generator_kept
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data import Batches, Dataset, Splits, parts
from agentlib.data.toys import MIXTURES
from agentlib.engine.compiled import notices
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.metrics.likelihoods import LARGEST, linear_reconstruction
from agentlib.metrics.samples import agreement, modes, nearest_neighbor_accuracy, pixel_deviation, wasserstein
from agentlib.plots import charts, pictures

POINTS, COMPARED, SHOWN = 10_000, 1_000, 100
"""Samples on which modes are counted, samples and examples in two-sample tests, and images in a picture."""
EVALUATED = 2_000
"""Validation examples that an evaluation looks at, at most."""
HELD_OUT_SEED = 0
"""Of random changes of held-out examples: all runs are judged by the same ones."""
IMPORTANCE_SAMPLES = 64
"""Codes per example of the final bound of the likelihood."""
PIECE = 128
"""Examples in one pass of an exact likelihood."""


class GenerativeFacts(NamedTuple):
    """The problem of a learner of a distribution."""

    train: Dataset
    """The training part, on the CPU."""
    n_classes: int = 0
    """Number of labels of a conditional model, or of numbers in its conditions; 0 for none."""
    generator: Generator | None = None
    """The generator of a learner that has its weights drawn before the backbone's, see `on_generative`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train.x.shape[1:])


@family("examples", needs=("data",), makes_agent=False)
def on_generative(recipe: Recipe, problem: Problem) -> Job:
    """A model of the distribution of a data set, labels of which are read where `config.conditional` is set.

    A learner has a `product`, the network that the run leaves, and those of these methods that make sense for it:

    - `sample(n, label, generator)`: n examples, with labels `(n,)` if the model is conditional. If that takes many
      passes of the network, it has their number, `passes`, and no more samples are drawn than are compared.
    - `likelihoods(x, k)`: a lower bound of log p(x) `(B,)` in nats by k codes, and its KL term `(B,)`; and
      `likelihood_floor(train, test)`: log p(x) of a simple model, and the name of that model; or None.
    - `log_likelihood(x, label)`: log p(x) itself `(B,)` in nats; with `likelihood_floor`, in place of `likelihoods`.
    - `predict(x)`: reconstructions, of examples as `corrupted(x, generator)` has them, if there is such a method. Its
      attribute `noise` is the deviation of Gaussian noise; None for changes of another kind.
    - `panels(x)`: images side by side `(B, n, C, H, W)` that show the work, for the picture of the run.

    Its class may have `examples(data, config)`, which prepares each part of the data; `transform(config)`, a random
    change of examples, made each time in training, and once, the same for each seed, of those held out;
    `reads_vectors` is true where conditions may be rows of numbers `(N, k)` in place of labels; it may have
    `network(backbone, config, facts)`, for a network that is no backbone; `first_network(config, facts)`, a generator
    whose weights are drawn before the backbone's.

    Raises:
        ValueError: no labels for a conditional model.
    """
    config, kind = problem.config, recipe.learner
    prepare = getattr(kind, "examples", lambda data, config: data)
    found = parts(problem.data, problem.seed, getattr(config, "validation", 0.0))
    splits = Splits(*(prepare(part, config) for part in found))
    transform = getattr(kind, "transform", lambda config: None)(config)
    if transform is not None:
        with host_generator_kept():
            torch.default_generator.manual_seed(HELD_OUT_SEED)
            held_out = [replace(part, x=transform(part.x)) for part in splits[1:]]
        splits = Splits(splits.train, *held_out)
    is_conditional = getattr(config, "conditional", False)
    facts = GenerativeFacts(splits.train, _classes_of(splits.train, recipe) if is_conditional else 0)

    def with_generator() -> GenerativeFacts:
        first = getattr(kind, "first_network", lambda config, facts: None)
        return facts._replace(generator=first(config, facts))

    def network() -> nn.Module:
        if hasattr(kind, "network"):
            return kind.network(problem.backbone, config, facts)  # type: ignore[no-any-return]
        return network_for(problem, space_of(facts.train.x), **kind.layers(config))

    learner = learner_for(recipe, problem, network, with_generator)
    n = getattr(learner, "batches_per_update", 1)
    source = Batches(splits.train, config.batch_size, transform=transform, batches_per_update=n, seed=problem.seed)
    return job_for(problem, learner, source, learner.product, GenerativeJudge(learner, splits, problem))


def _classes_of(data: Dataset, recipe: Recipe) -> int:
    reads_vectors = getattr(recipe.learner, "reads_vectors", False)
    if data.y is not None and data.y.dim() == 2 and reads_vectors:
        return data.y.shape[1]
    if data.y is None or not data.classes:
        kind = "no labels" if data.y is None else "targets that are no classes"
        wanted = "a label, or a row of numbers (N, k)," if reads_vectors else "a label"
        raise ValueError(f"{recipe.name} with conditional=True needs {wanted} for each example; the data has {kind}")
    return len(data.classes)


class GenerativeJudge(Judge):
    """Likelihoods and reconstructions of held-out examples, and samples beside real examples."""

    objective, lower_is_better = "eval/negative_elbo", True

    def __init__(self, learner: Learner, splits: Splits, problem: Problem) -> None:
        super().__init__()
        self.learner: Any = learner
        self.splits, self.seed, self.config = splits, problem.seed, problem.config
        self.mixture = MIXTURES.get(problem.key or "")
        self.is_conditional = getattr(problem.config, "conditional", False)
        if self.is_conditional and not splits.train.classes:
            self.about["conditions"] = "numbers"
        self.is_image = splits.train.x.dim() == 4 and splits.train.x.shape[1] in (1, 3)
        self.is_exact, self.has_samples = hasattr(learner, "log_likelihood"), hasattr(learner, "sample")
        self.has_likelihoods = self.is_exact or hasattr(learner, "likelihoods")
        self.reconstructs = type(learner).predict is not Learner.predict
        self.evaluates = len(splits.validation) > 0 and (self.has_likelihoods or self.reconstructs)
        if self.is_exact:
            self.objective = "eval/nats"
        elif not self.has_likelihoods:
            self.objective = "eval/reconstruction_error"

    def evaluate(self) -> dict[str, float]:
        x = self.splits.validation.x[:EVALUATED]
        scores = self.likelihoods(self.splits.validation, EVALUATED) if self.has_likelihoods else {}
        if self.reconstructs:
            scores["reconstruction_error"] = _error(self.reconstructed(x)[1], x)
        return {f"eval/{name}": score for name, score in scores.items()}

    def finish(self) -> list[Measure]:
        measures = self.likelihood_measures() if self.has_likelihoods else []
        measures += self.reconstruction_measures() if self.reconstructs else []
        return measures + (self.sample_measures() if self.has_samples else [])

    def likelihoods(self, part: Dataset, most: int | None = None, k: int = 1) -> dict[str, float]:
        """The mean log likelihood, or bounds of it, in nats per example; the same random codes each time."""
        device, x, y = device_of(self.learner), part.x[:most], None if part.y is None else part.y[:most]
        if self.is_exact:
            return self._exact(x, y)
        with in_eval_mode(self.learner), host_generator_kept([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(self.seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(self.seed)
            pieces = [self.learner.likelihoods(piece.to(device), 1) for piece in x.split(1000)]
            elbo, kl = (torch.cat(values).double().mean().item() for values in zip(*pieces, strict=True))
            scores = {"negative_elbo": -elbo, "kl": kl}
            if k > 1:
                batches = watched(x.split(100), "likelihoods")
                tight = torch.cat([self.learner.likelihoods(piece.to(device), k)[0] for piece in batches])
                scores = {"nats": -tight.double().mean().item()} | scores
        return scores

    def _exact(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        device = device_of(self.learner)
        with in_eval_mode(self.learner):
            labels = [None] * len(x) if y is None else y.split(PIECE)
            pieces = watched(list(zip(x.split(PIECE), labels, strict=False)), "likelihoods")
            found = [
                self.learner.log_likelihood(images.to(device), label if label is None else label.to(device))
                for images, label in pieces
            ]
        nats = -torch.cat(found).double().mean().item()
        return {"nats": nats, "bits_per_dim": nats / (x[0].numel() * math.log(2))}

    def likelihood_measures(self) -> list[Measure]:
        """Bounds on the test part; the tight one beside a simple model's likelihood."""
        train, test = self.splits.train.x, self.splits.test.x
        scores = self.likelihoods(self.splits.test, k=IMPORTANCE_SAMPLES)
        floor = self.learner.likelihood_floor(train, test)
        measures = [Measure(f"test/{name}", score) for name, score in scores.items()]
        if floor is not None:
            nats, model = floor
            measures[0] = Measure("test/nats", scores["nats"], -float(nats.mean()), f"{model}; less is better")
        return measures

    def reconstructed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The examples as the learner sees them, and its reconstructions, both `(N, ...)`; the same noise each time."""
        corrupted = getattr(self.learner, "corrupted", lambda x, generator: x)
        seen = corrupted(x, torch.Generator().manual_seed(self.seed))
        return seen, predicted(self.learner, seen.to(device_of(self.learner))).cpu()

    def reconstruction_measures(self) -> list[Measure]:
        """Squared errors on the test part, beside the least floor that needs no learning; all of them are facts."""
        train, x = self.splits.train.x, self.splits.test.x
        seen, predictions = self.reconstructed(x)
        floors = {"the training mean": _error(train.mean(0), x)}
        size, noise = x[0].numel(), getattr(self.learner, "noise", 0.0)
        if seen is not x:
            floors["the masked examples" if noise is None else "the noisy examples"] = _error(seen, x)
        if size <= LARGEST and noise is not None:
            codes = min(getattr(self.config, "latent_dim", size), size)
            linear = linear_reconstruction(train, seen, noise, codes)
            floors["the best linear map" + (f" by {codes} codes" if codes < size else "")] = _error(linear, x)
        self.facts["reconstruction_floors"] = floors
        whose, floor = min(floors.items(), key=lambda one: one[1])
        return [Measure("test/reconstruction_error", _error(predictions, x), floor, whose)]

    def sample(self, n: int, label: Tensor | None) -> Tensor:
        """Samples `(n, ...)` on the CPU, with the labels `(n,)` of a conditional model; the same ones each time."""
        device = device_of(self.learner)
        generator = torch.Generator(device).manual_seed(self.seed)
        with in_eval_mode(self.learner):
            samples: Tensor = self.learner.sample(n, None if label is None else label.to(device), generator)
        return samples.cpu()

    def sample_measures(self) -> list[Measure]:
        """Modes where the truth is known, two-sample tests, and agreement with the labels of a conditional model."""
        real, n = self.splits.test.x, min(COMPARED, len(self.splits.test) // 2)
        count, passes = COMPARED if self.mixture is None else POINTS, getattr(self.learner, "passes", 1)
        if passes > 1:
            count = min(count, max(n, 1)) if self.mixture is None else count
            notices.get()(f"drawing {count:,} samples to judge the run, each by {passes:,} steps of the network")
        label = self._labels(count)
        samples = self.sample(count, label)
        measures = [] if self.mixture is None else self._mode_measures(samples, *self.mixture)
        if n:
            accuracy = nearest_neighbor_accuracy(real[:n], samples[:n])
            ideal = "samples indistinguishable from the data"
            measures.append(Measure("test/nearest_neighbor_accuracy", accuracy, 0.5, ideal))
        if n and find_spec("scipy") is not None:
            distance, floor = (wasserstein(real[:n], other) for other in (samples[:n], real[n : 2 * n]))
            measures.append(Measure("test/wasserstein", distance, floor, "two sets of real examples"))
        return measures if label is None or label.dim() > 1 else measures + self._label_measures(samples, label)

    def _mode_measures(self, samples: Tensor, centers: Tensor, deviation: float) -> list[Measure]:
        found, truth = (modes(x, centers, deviation) for x in (samples, self.splits.test.x))
        return [
            Measure("test/modes", float(found.covered()), float(len(centers)), "the data"),
            Measure("test/smallest_mode", found.smallest, truth.smallest, "the data"),
            Measure("test/within_3_deviations", found.within, truth.within, "the data; more is too narrow"),
            Measure("test/spread", found.spread, truth.spread, "the data"),
        ]

    def _label_measures(self, samples: Tensor, label: Tensor) -> list[Measure]:
        train, test = self.splits.train, self.splits.test
        found = agreement(self._nearest_label, samples[:COMPARED], label[:COMPARED])
        ceiling = agreement(self._nearest_label, train.x[:EVALUATED], train.targets[:EVALUATED])
        ratio = pixel_deviation(samples, label) / pixel_deviation(test.x, test.targets)
        return [
            Measure("test/label_agreement", found, ceiling, "real examples, judged alike"),
            Measure("test/deviation_ratio", ratio, 1.0, "real examples"),
        ]

    def _labels(self, n: int) -> Tensor | None:
        """Labels `(n,)`, or conditions `(n, k)`, of test examples in turn; None if the model is not conditional."""
        y = self.splits.test.y
        return y.repeat(-(-n // len(y)), *[1] * (y.dim() - 1))[:n] if self.is_conditional and y is not None else None

    def _nearest_label(self, x: Tensor) -> Tensor:
        """The label of the nearest test example: a classifier of data that the model has not seen."""
        test = self.splits.test
        flat = test.x.flatten(1)
        nearest = [torch.cdist(piece.flatten(1), flat).argmin(1) for piece in x.split(COMPARED)]
        return test.targets[torch.cat(nearest)]

    def draw(self, folder: Path) -> list[Path]:
        figures, test = {}, self.splits.test.x
        if self.has_samples and self.is_image:
            n_classes = len(self.splits.train.classes)
            label = (
                torch.arange(SHOWN) * n_classes // SHOWN if n_classes and self.is_conditional else self._labels(SHOWN)
            )
            turn = "all labels" if n_classes else "conditions of test examples"
            title = "Samples" if label is None else f"Samples, {turn} in turn"
            figures["samples"] = charts.image_grid(self.sample(SHOWN, label), title=title)
        elif self.has_samples and test.shape[1:] == (2,):
            figures["samples"] = charts.density(self.sample(POINTS, self._labels(POINTS)), test[:POINTS])
        if self.reconstructs and self.is_image:
            x = test[: SHOWN // 2]
            seen, predictions = self.reconstructed(x)
            panels = [x, predictions] if seen is x else [x, seen, predictions]
            images = torch.stack(panels, 1).flatten(0, 1)  # side by side
            copy = "" if seen is x else "masked copy and its " if self.learner.noise is None else "noisy copy and its "
            title = f"Held-out images, each beside its {copy}reconstruction"
            columns = 10 // len(panels) * len(panels)
            figures["reconstructions"] = charts.image_grid(images, columns, title)
        if hasattr(self.learner, "panels") and test.dim() == 5 and test.shape[2] in (1, 3):
            with in_eval_mode(self.learner):
                panels = self.learner.panels(test[: SHOWN // 10].to(device_of(self.learner))).cpu()
            title = "Held-out images, each turned into the other kind, and back"
            figures["turned"] = charts.image_grid(panels.flatten(0, 1), panels.shape[1], title)
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _error(prediction: Tensor, x: Tensor) -> float:
    """The mean squared distance of predictions from examples `(N, ...)`."""
    return float((prediction - x).flatten(1).square().sum(1).double().mean())


def require_unit(x: Tensor) -> None:
    """Raises ValueError if images `(N, ...)` do not lie between 0 and 1; the message has the rescaling."""
    low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
    if low < -1e-4 or high > 1 + 1e-4:
        bottom, top = (
            (0, 255) if low >= 0 and 127 < high <= 255 else (-1, 1) if low >= -1 and high <= 1 else (low, high)
        )
        shifted = f"(x + {-bottom:.6g})" if bottom < 0 else f"(x - {bottom:.6g})" if bottom > 0 else "x"
        raise ValueError(
            f"the images lie between {low:.4g} and {high:.4g}, and this model makes numbers between 0 and 1: rescale "
            f"them, {shifted} / {top - bottom:.6g}"
        )
