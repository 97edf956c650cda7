"""Where batches come from."""

from agentlib.data.aggregate import Aggregate
from agentlib.data.asking import Expert, ExpertLeft, Onlooker
from agentlib.data.batches import Batches, Examples
from agentlib.data.datasets import DATASETS, Dataset, Splits, dataset, split
from agentlib.data.demonstration_batches import DemonstrationBatches, Labelled
from agentlib.data.demonstrations import Demonstration, Demonstrations
from agentlib.data.recording import record_episodes
from agentlib.data.replay import Replay
from agentlib.data.replay_buffer import ReplayBuffer
from agentlib.data.sequence_buffer import SequenceBuffer, Sequences
from agentlib.data.sequence_replay import SequenceReplay
from agentlib.data.source import Source
from agentlib.data.transition import Episode, Transition

__all__ = [
    "DATASETS",
    "Aggregate",
    "Batches",
    "Dataset",
    "Demonstration",
    "DemonstrationBatches",
    "Demonstrations",
    "Episode",
    "Examples",
    "Expert",
    "ExpertLeft",
    "Labelled",
    "Onlooker",
    "Replay",
    "ReplayBuffer",
    "SequenceBuffer",
    "SequenceReplay",
    "Sequences",
    "Source",
    "Splits",
    "Transition",
    "dataset",
    "record_episodes",
    "split",
]
