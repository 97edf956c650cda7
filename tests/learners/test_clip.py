"""CLIP: its loss beside cross-entropies, equal captions, words, and classes from descriptions alone."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

import agentlib
from agentlib.backbones import MLP
from agentlib.core.randomness import fresh_weights
from agentlib.core.recipe import Problem
from agentlib.data import Scenes, shape_scenes
from agentlib.data.toys import shapes
from agentlib.learners.self_supervised.clip import CLIP, LARGEST, PicturesAndText, pair_losses, words_of
from agentlib.runs.models import load_model
from agentlib.runs.plan import job_of


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(words=("a", "red", "circle", "square", ",")):
    with fresh_weights(0):
        return PicturesAndText(MLP(12, (8,)), words, projection_dim=4, embed_dim=8, n_layers=1, n_heads=2)


def test_the_loss_is_the_mean_of_two_cross_entropies():
    """As open_clip has it: of each picture among all captions, and of each caption among all pictures."""
    pictures, texts = random(6, 5), random(6, 5, seed=1)
    logits = 7.0 * functional.normalize(pictures, dim=1) @ functional.normalize(texts, dim=1).T
    own = torch.arange(6)
    expected = 0.5 * (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own))
    found = pair_losses(pictures, texts, 7.0, torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(found.mean(), expected)


@pytest.mark.parametrize("captions", [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 0]])
def test_where_all_are_alike_the_loss_is_the_logarithm_of_their_number(captions):
    number = torch.tensor(captions)
    found = pair_losses(torch.ones(4, 3), torch.ones(4, 3), 50.0, number[:, None] == number)
    torch.testing.assert_close(found, torch.full((4,), math.log(4)))


def test_pictures_of_one_caption_are_no_negatives():
    """Embeddings that are right lose nothing but which of the equal ones: ln 2 for two of them, 0 for the third."""
    units = torch.eye(3)[[0, 0, 1]]
    number = torch.tensor([0, 0, 1])
    found = pair_losses(units, units, 100.0, number[:, None] == number)
    torch.testing.assert_close(found, torch.tensor([math.log(2), math.log(2), 0.0]), atol=1e-6, rtol=0)


def test_words_are_tokens_and_padding_has_no_effect():
    assert words_of("A red circle, a BLUE one") == ["a", "red", "circle", ",", "a", "blue", "one"]
    found = network()
    tokens = found.tokens(["a red circle", "a purple square,"])
    assert tokens.tolist() == [[2, 3, 4, 0], [2, 1, 5, 6]]
    alone, padded = found.texts(tokens[:1, :3]), found.texts(tokens)[:1]
    torch.testing.assert_close(alone, padded)
    assert found.tokens(["", "a"]).tolist() == [[1], [2]]


def test_probabilities_are_those_of_cosines_and_unknown_words_are_refused():
    found, x = network(), random(3, 12).float()
    texts = ["a red circle", "a square"]
    probabilities = found.classify(x, texts)
    found.eval()
    cosines = functional.cosine_similarity(found.pictures(x)[:, None], found.texts(found.tokens(texts))[None], dim=2)
    torch.testing.assert_close(probabilities, (cosines / 0.07).softmax(1))
    with pytest.raises(ValueError, match="no caption had the word 'purple' in training: give descriptions"):
        found.classify(x, ["a purple circle"])
    with pytest.raises(ValueError, match="there are no descriptions"):
        found.classify(x, [])


def test_the_scale_stays_below_its_bound():
    learner, source = CLIP.tiny()
    with torch.no_grad():
        learner.network.log_scale.fill_(9.0)
    source.advance()
    source.fill_ticks(source.clock)
    learner.update(source.sample())
    assert learner.network.log_scale.item() == pytest.approx(math.log(LARGEST))


def test_scenes_without_captions_are_refused():
    scenes = replace(shape_scenes(40, size=16), captions=None)
    with pytest.raises(ValueError, match="these scenes have no captions"):
        job_of("clip", Problem(data=scenes, steps=1))


@pytest.mark.slow
def test_classes_are_told_by_descriptions_that_it_has_not_read(tmp_path):
    """Four of sixteen kinds of one shape are never shown; the rest of the words tells them. A guess is right in .06."""
    data = shapes(1_500)
    kinds = [f"a {name}" for name in data.classes]
    scenes = Scenes((255.0 * data.x).byte(), captions=tuple(kinds[label] for label in data.targets))
    is_new = data.targets % 5 == 0  # each colour and each shape once
    backbone = {"name": "cnn", "arguments": {"shape": [3, 16, 16], "layers": [16, "max", 32, "max"], "feature_dim": 64}}
    settings: Any = {"steps": 150, "batch_size": 64, "backbone": backbone, "progress": False}
    result: Any = agentlib.train("clip", data=scenes.take((~is_new).nonzero()[:, 0]), out=tmp_path / "run", **settings)
    assert {"captions.png", "pictures.png"} <= {path.name for path in result.pictures}
    assert result.measures["test/image_to_text"] > 0.7
    model: Any = load_model(tmp_path / "run")[0]
    new = scenes.take(is_new.nonzero()[:, 0])
    probabilities = model.classify(new.images, kinds)
    torch.testing.assert_close(probabilities, result.model.classify(new.images, kinds))
    names = [kinds[number] for number in probabilities.argmax(1).tolist()]
    right = [name == caption for name, caption in zip(names, new.captions or (), strict=True)]
    assert sum(right) / len(right) > 0.25
