"""Learning from pictures with captions: to find one by the other among pictures that training did not see, or to write.

    accuracy = share of the test pictures whose own caption is the most similar of all captions of the test part

Its floor is the most frequent caption; that of the way back, from a caption to a picture, is a random picture.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones.choice import space_of
from agentlib.core.modes import in_eval_mode
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data import Batches, Dataset, Scenes, ScenesParts, scene_parts
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.families.captioning import WritingJudge
from agentlib.plots import charts, pictures
from agentlib.policies.base import require_no_memory

SHOWN, DESCRIPTIONS = 8, 4
"""Test pictures that are drawn, and the most similar captions beside each."""
CHUNK = 256
"""Captions that are read at once."""


class CaptionFacts(NamedTuple):
    """The problem of a learner from pictures with captions."""

    space: spaces.Box
    """Of one picture."""
    captions: tuple[str, ...]
    """Of the training part."""


@family("pictures with captions", needs=("data",), makes_agent=False, fields=("batch_size",), methods=("predict",))
def on_captions(recipe: Recipe, problem: Problem) -> Job:
    """Pictures and their captions, of any `Scenes` that have some.

    `learner.network` is the product, with a method `tokens(texts)`, `(n, T)`. One that finds captions has the encoder
    of pictures as its `backbone`, and `texts(tokens)`, embeddings `(n, d)`; `learner.predict(x)` gives those of
    pictures, `(B, d)`. One that writes them has `caption(x)` and `attention(x, captions)`, and the learner
    `losses(x, tokens)`, see `Captions`. A method `network(shape)` of the config makes the network that "auto" means.

    Raises:
        ValueError: scenes without captions, or what `scene_parts` raises.
    """
    splits = scene_parts(problem.data, problem.seed)
    captions = [part.known("captions") for part in splits]
    facts = CaptionFacts(space_of(splits.train.images), captions[0])

    def network() -> nn.Module:
        if problem.backbone == "auto" and hasattr(problem.config, "network"):
            made: nn.Module = problem.config.network(facts.space.shape)
            return made
        found = network_for(problem, facts.space)
        require_no_memory(found, recipe.name)
        return found

    learner: Any = learner_for(recipe, problem, network, facts)
    train = Dataset(splits.train.images, learner.network.tokens(captions[0]))
    source = Batches(train, problem.config.batch_size, seed=problem.seed)
    writes = hasattr(learner.network, "caption")
    judge: Judge = WritingJudge(learner, source, splits, problem) if writes else CaptionsJudge(learner, source, splits)
    return job_for(problem, learner, source, learner.network, judge)


class CaptionsJudge(Judge):
    """Captions that are found by pictures, and pictures by captions."""

    def __init__(self, learner: Any, source: Batches, splits: ScenesParts) -> None:
        super().__init__()
        self.learner, self.test = learner, splits.test
        self.known = set(splits.train.known("captions"))
        self.texts = sorted(set(splits.test.known("captions")))
        self.facts |= {"epoch_updates": source.epoch_updates, "examples": len(splits.train)}
        self.facts |= {"test_examples": len(splits.test), "test_captions": len(self.texts)}

    def similarities(self, part: Scenes) -> Tensor:
        """Cosines `(N, n)` of pictures with the different captions of the test part, on the CPU."""
        network, device = self.learner.network, device_of(self.learner)
        codes = predicted(self.learner, part.images.to(device))
        with in_eval_mode(network):
            read = torch.cat([network.texts(some.to(device)) for some in network.tokens(self.texts).split(CHUNK)])
        unit = torch.nn.functional.normalize
        return (unit(codes, dim=1) @ unit(read, dim=1).T).float().cpu()

    def finish(self) -> list[Measure]:
        captions = self.test.known("captions")
        numbers = {text: number for number, text in enumerate(self.texts)}
        own = torch.tensor([numbers[caption] for caption in captions])  # (N,)
        similar = self.similarities(self.test)  # (N, n)
        right = similar.argmax(1) == own
        found = own[similar.argmax(0)] == torch.arange(len(self.texts))
        frequent = Counter(captions).most_common(1)[0][1] / len(captions)
        measures = [
            Measure("test/image_to_text", float(right.double().mean()), frequent, "the most frequent caption"),
            Measure("test/text_to_image", float(found.double().mean()), 1.0 / len(self.texts), "a random picture"),
        ]
        unseen = torch.tensor([caption not in self.known for caption in captions])
        if bool(unseen.any()):
            self.facts["unseen_examples"] = int(unseen.sum())
            measures.append(Measure("test/image_to_text_unseen", float(right[unseen].double().mean())))
        return measures

    def draw(self, folder: Path) -> list[Path]:
        part = self.test.take(slice(0, SHOWN))
        best = self.similarities(part).topk(min(DESCRIPTIONS, len(self.texts)), 1)
        values = {
            f"{row + 1}: {self.texts[column]}": float(value)
            for row, (columns, cosines) in enumerate(zip(best.indices.tolist(), best.values, strict=True))
            for column, value in zip(columns, cosines, strict=True)
        }
        own = [f"{row + 1}: {caption}" for row, caption in enumerate(part.known("captions"))]
        shown = {f"{row + 1}": image[None].float() / 255.0 for row, image in enumerate(part.images)}
        figures = {
            "pictures": charts.rows_of_images(shown, "Test pictures"),
            "captions": charts.bars(values, "The most similar captions of each; its own is dark", "cosine", own),
        }
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
