"""Examples: data sets, their batches, and tasks of few examples."""

from agentlib.data.batches import Batches, Examples
from agentlib.data.datasets import DATASETS, Dataset, Splits, split
from agentlib.data.domains import DOMAINS, Domains
from agentlib.data.episodes import TASKS, Episodes, Pairs, Pools, Sinusoids, Tasks, labelled_steps, split_classes
from agentlib.data.files import from_arrays, load_csv, load_images, load_npz
from agentlib.data.frames import catch_frames, frames
from agentlib.data.glyphs import draw_glyphs
from agentlib.data.hugging_face import from_hugging_face
from agentlib.data.loading import dataset, load, parts
from agentlib.data.parallel import PARALLEL_TEXTS, ParallelParts, ParallelText, parallel_parts, parallel_text
from agentlib.data.scene_files import load_coco, load_scenes, load_voc, scene_parts
from agentlib.data.scene_toys import SCENES, shape_scenes, two_on_canvas
from agentlib.data.scenes import Scenes, ScenesParts, scenes_from, split_scenes
from agentlib.data.sequences import adding, which_first
from agentlib.data.suites import write_suite
from agentlib.data.text import TEXTS, Text, text_of
from agentlib.data.toys import TOYS

__all__ = [
    "DATASETS",
    "DOMAINS",
    "PARALLEL_TEXTS",
    "SCENES",
    "TASKS",
    "TEXTS",
    "Batches",
    "Dataset",
    "Domains",
    "Episodes",
    "Examples",
    "Pairs",
    "ParallelParts",
    "ParallelText",
    "Pools",
    "Scenes",
    "ScenesParts",
    "Sinusoids",
    "Splits",
    "Tasks",
    "Text",
    "dataset",
    "frames",
    "from_arrays",
    "from_hugging_face",
    "labelled_steps",
    "load",
    "load_coco",
    "load_csv",
    "load_images",
    "load_npz",
    "load_scenes",
    "load_voc",
    "parallel_parts",
    "parallel_text",
    "parts",
    "scene_parts",
    "scenes_from",
    "shape_scenes",
    "split",
    "split_classes",
    "split_scenes",
    "text_of",
    "two_on_canvas",
    "write_suite",
]

DATASETS |= TOYS | {"catch_frames": catch_frames, "glyphs": draw_glyphs, "which_first": which_first, "adding": adding}
