"""Where batches come from."""

from agentlib.data.batches import Batches, Examples
from agentlib.data.datasets import DATASETS, Dataset, Splits, dataset, split
from agentlib.data.replay import Replay
from agentlib.data.replay_buffer import ReplayBuffer
from agentlib.data.sequence_buffer import SequenceBuffer, Sequences
from agentlib.data.sequence_replay import SequenceReplay
from agentlib.data.source import Source
from agentlib.data.transition import Episode, Transition

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "Episode",
    "Examples",
    "Replay",
    "ReplayBuffer",
    "SequenceBuffer",
    "SequenceReplay",
    "Sequences",
    "Source",
    "Splits",
    "Transition",
    "dataset",
    "split",
]
