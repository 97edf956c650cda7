"""Where batches come from."""

from agentlib.data.aggregate import Aggregate
from agentlib.data.asking import Expert, ExpertLeft, Onlooker
from agentlib.data.batches import Batches, Examples
from agentlib.data.datasets import DATASETS, Dataset, Splits, split
from agentlib.data.demonstration_batches import DemonstrationBatches, Labelled
from agentlib.data.demonstrations import Demonstration, Demonstrations
from agentlib.data.episodes import TASKS, Episodes, Pairs, Pools, Sinusoids, Tasks, labelled_steps, split_classes
from agentlib.data.files import from_arrays, load_csv, load_images, load_npz
from agentlib.data.frames import catch_frames, frames
from agentlib.data.glyphs import draw_glyphs
from agentlib.data.hugging_face import from_hugging_face
from agentlib.data.loading import dataset, load, parts
from agentlib.data.recording import record_episodes
from agentlib.data.replay import Replay
from agentlib.data.replay_buffer import ReplayBuffer
from agentlib.data.return_batches import ReturnBatches
from agentlib.data.sequence_buffer import SequenceBuffer, Sequences
from agentlib.data.sequence_replay import SequenceReplay
from agentlib.data.source import Source
from agentlib.data.toys import TOYS
from agentlib.data.transition import Episode, Transition

__all__ = [
    "DATASETS",
    "TASKS",
    "Aggregate",
    "Batches",
    "Dataset",
    "Demonstration",
    "DemonstrationBatches",
    "Demonstrations",
    "Episode",
    "Episodes",
    "Examples",
    "Expert",
    "ExpertLeft",
    "Labelled",
    "Onlooker",
    "Pairs",
    "Pools",
    "Replay",
    "ReplayBuffer",
    "ReturnBatches",
    "SequenceBuffer",
    "SequenceReplay",
    "Sequences",
    "Sinusoids",
    "Source",
    "Splits",
    "Tasks",
    "Transition",
    "dataset",
    "frames",
    "from_arrays",
    "from_hugging_face",
    "labelled_steps",
    "load",
    "load_csv",
    "load_images",
    "load_npz",
    "parts",
    "record_episodes",
    "split",
    "split_classes",
]

DATASETS |= TOYS | {"catch_frames": catch_frames, "glyphs": draw_glyphs}
