"""Where batches come from."""

from agentlib.data.batches import Batches, Examples
from agentlib.data.datasets import DATASETS, Dataset, Splits, dataset, split
from agentlib.data.episodes import TASKS, Episodes, Pairs, Pools, Sinusoids, Tasks, split_classes
from agentlib.data.glyphs import draw_glyphs
from agentlib.data.replay import Replay
from agentlib.data.replay_buffer import Episode, ReplayBuffer, Transition
from agentlib.data.source import Source

__all__ = [
    "DATASETS",
    "TASKS",
    "Batches",
    "Dataset",
    "Episode",
    "Episodes",
    "Examples",
    "Pairs",
    "Pools",
    "Replay",
    "ReplayBuffer",
    "Sinusoids",
    "Source",
    "Splits",
    "Tasks",
    "Transition",
    "dataset",
    "split",
    "split_classes",
]

DATASETS |= {"glyphs": draw_glyphs}
