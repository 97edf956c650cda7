"""Pictures by their captions, classes that are told by descriptions alone; and captions that are written."""

from typing import Any

import numpy as np
import torch

import agentlib
from agentlib.backbones import CNN
from agentlib.core.randomness import fresh_weights
from agentlib.data import Scenes, ScenesParts, shape_scenes
from benchmarks.experiments import Claim, Experiment

SHAPES, COLOURS, PLACES = ("circle", "square", "triangle"), ("red", "green", "blue"), ("left", "middle", "right")
KINDS = [f"a {colour} {shape} {place}" for shape in SHAPES for colour in COLOURS for place in PLACES]
SIDE, PICTURES, UPDATES, WRITTEN = 36, 12_000, 1_500, 3_000
NEW = [kind for number, kind in enumerate(KINDS) if (number // 9 + number // 3 + number) % 3 == 0]
"""Nine of the 27: each shape, each colour and each place three times."""
WRITERS = (("lstm", "lstm", "general"), ("transformer", "transformer", "none"), ("one_vector", "lstm", "none"))
"""Names, decoders and their attention."""


def placed(seed: int) -> tuple[Scenes, np.ndarray]:
    """Pictures of one shape each, captions that say what it is and in which third of the width, and kinds `(N,)`."""
    scenes = shape_scenes(PICTURES, seed, size=SIDE, most=1)
    boxes: Any = scenes.known("boxes")[:, 0]
    third = ((boxes[:, 0] + boxes[:, 2]) / 2 * 3 / SIDE).long().clamp(0, 2)
    captions = [f"{text} {PLACES[place]}" for text, place in zip(scenes.known("captions"), third, strict=True)]
    rows = np.array([row for row, text in enumerate(captions) if text in KINDS])
    chosen = Scenes(scenes.images[torch.from_numpy(rows)], captions=tuple(captions[row] for row in rows))
    return chosen, np.array([KINDS.index(text) for text in chosen.known("captions")])


def clip(seed: int, updates: int = UPDATES) -> dict[str, float]:
    scenes, kind = placed(seed)
    rows, is_new = np.arange(len(kind)), np.isin(kind, [KINDS.index(text) for text in NEW])
    cut = len(rows) * 5 // 6

    def right(train: np.ndarray, test: np.ndarray) -> float:
        parts = ScenesParts(*(scenes.take(some) for some in (train, test[:1], test)))
        with fresh_weights(seed):
            encoder = CNN((3, SIDE, SIDE), (32, "max", 32, "max", 64), feature_dim=128, norm="batch")
        given: dict[str, Any] = {"data": parts, "backbone": encoder, "steps": updates, "seed": seed}
        result: Any = agentlib.train("clip", progress=False, **given)
        model = result.model
        chances = torch.cat([model.classify(images, KINDS) for images in parts.test.images.split(256)])
        return float((chances.argmax(1).numpy() == kind[test]).mean())

    known = right(rows[:cut], rows[cut:])
    unseen = right(rows[:cut][~is_new[:cut]], rows[cut:][is_new[cut:]])
    return {"known": known, "unseen": unseen}


def written(seed: int, updates: int = WRITTEN) -> dict[str, float]:
    scenes, found = shape_scenes(PICTURES, seed, size=SIDE, most=2), {}
    for name, decoder, attention in WRITERS:
        given: dict[str, Any] = {"data": scenes, "decoder": decoder, "attention": attention}
        result: Any = agentlib.train("captions", steps=updates, seed=seed, progress=False, **given)
        found[name] = result.measures["test/exact"]
        if name != "one_vector":
            found[f"{name}_attention"] = result.measures.get("test/attention", 0.0)  # none of its words names a shape
    return found


EXPERIMENTS = [
    Experiment(
        name="clip_scenes",
        family="Self-supervision",
        data=f"pictures of one of three shapes in one of three colours and thirds of the width, {SIDE}x{SIDE}, "
        f"{UPDATES:,} updates of 128",
        measure=clip,
        first_seed=200,
        seeds=3,
        claims=(
            Claim("known", "classes of new pictures by 27 descriptions, accuracy", at_least=0.95),
            Claim("unseen", "the same for nine descriptions that no caption was, of 27", at_least=0.75),
        ),
        note="A guess is right in .037. No class is given in training: captions are all that there is. Tried first, on "
        "seed 100: 300 updates on half of the pictures, with .924 of the 27 and nothing held out.",
    ),
    Experiment(
        name="captions_scenes",
        family="Language",
        data=f"pictures of one or two of four shapes in one of four colours, {SIDE}x{SIDE}, {PICTURES:,} of them, "
        f"{WRITTEN:,} updates of 64",
        measure=written,
        first_seed=200,
        seeds=3,
        claims=(
            Claim("lstm", "captions of held-out pictures by an LSTM with attention, exact", at_least=0.95),
            Claim("lstm_attention", "its words for shapes whose largest weight lies on such a shape", at_least=0.9),
            Claim("transformer", "captions by a transformer, exact", at_least=0.95),
            Claim("transformer_attention", "its words for shapes, by the mean of all heads"),
            Claim("one_vector", "captions by an LSTM that begins in one vector, without attention, exact"),
        ),
        note="No pilot met the bound on attention, which stays. Tried first, on seed 100: this network, a place of "
        "whose map sees 18 pixels, 900 updates on half of the pictures: .88 exact, but words looked beside their "
        "shape, .22 on it and .96 on it or one place beside. Networks that see less were meant to mend that: 10 "
        "pixels, 220 updates on 1,700 pictures of one shape, .26 exact; 6 pixels, 800 updates on all, .20 exact on the "
        "validation part. In both no word for a shape looked at it (.05 by chance), and the mean of the map, in which "
        "the state begins, seems to be all that was used. Estimated: 25 minutes of a core a seed.",
    ),
]
