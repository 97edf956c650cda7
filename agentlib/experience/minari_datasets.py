"""Demonstrations as Minari datasets (https://minari.farama.org), read and written without loss.

Minari keeps T + 1 observations of an episode of T steps, as we do. The expert's answers are in the infos, whose entry
t + 1 belongs to the action of step t, as in everything that Minari records: `intervention` (the expert acted), and, if
they differ from the actions, `expert_action` and `labelled` (where the expert was asked).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.envs.registration import registry
from numpy.typing import NDArray

from agentlib.core.names import close_matches, one_line, shown

if TYPE_CHECKING:
    import minari

MARKS = ("intervention", "labelled", "expert_action")


def read_minari(dataset: str | minari.MinariDataset, make: Callable[..., Any]) -> Any:
    """The episodes of a Minari dataset.

    Args:
        dataset: the id of a dataset on this machine (nothing is downloaded), or a dataset object, filtered or not.
        make: the class `Demonstrations`.

    Raises:
        ImportError: Minari is absent; the message names the extra.
        FileNotFoundError: no such dataset here; the message has close matches.
        TypeError: spaces without fixed shapes.
        ValueError: an empty dataset, one that is damaged or no Minari dataset, or an episode that does not fit.
    """
    library = _minari()
    name = dataset if isinstance(dataset, str) else dataset.id
    if isinstance(dataset, str):
        dataset = _load(library, dataset)
    if not len(dataset):
        raise ValueError(f"the Minari dataset {name!r} is empty: it has no episodes")
    env_id = None if dataset.env_spec is None else dataset.env_spec.id
    made = make(dataset.observation_space, dataset.action_space, env_id=env_id)
    try:
        for episode in dataset.iterate_episodes():
            made.append(_fields(episode))
    except (OSError, KeyError, AssertionError) as error:
        raise ValueError(
            f"the Minari dataset {name!r} is damaged in episode {len(made)}: {one_line(repr(error))}"
        ) from None
    except ValueError as error:
        raise ValueError(f"the Minari dataset {name!r}: {error}") from None
    return made


def _fields(episode: Any) -> tuple[Any, ...]:
    """The fields of a `Demonstration`, in their order."""
    infos = episode.infos or {}
    marks: dict[str, NDArray[Any] | None] = dict.fromkeys(MARKS)
    for name in MARKS:
        if name in infos and not isinstance(infos[name], dict):
            rows = np.asarray(infos[name])
            marks[name] = rows[len(rows) - len(episode.rewards) :]  # without the entry of the reset, if there is one
    return (
        episode.observations,
        episode.actions,
        episode.rewards,
        bool(len(episode.terminations) and episode.terminations[-1]),
        marks["expert_action"],
        None if marks["labelled"] is None else marks["labelled"].astype(np.bool_),
        None if marks["intervention"] is None else marks["intervention"].astype(np.bool_),
    )


def write_minari(demonstrations: Any, dataset_id: str, **about: Any) -> minari.MinariDataset:
    """Writes a Minari dataset, images as they are and not as JPEG.

    Args:
        demonstrations: the episodes to write.
        dataset_id: such as "cartpole/expert-v0"; it must be new.
        about: more arguments of `minari.create_dataset_from_buffers`: author, algorithm_name, description ...

    Raises:
        ImportError: Minari is absent; the message names the extra.
        ValueError: no episodes, an id that exists already or is malformed.
    """
    library = _minari()
    if not len(demonstrations):
        raise ValueError("there are no episodes to write")
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id

    parse_dataset_id(dataset_id)  # now: later it would leave a folder behind
    spec = registry.get(demonstrations.env_id or "")
    with _without_advice():
        return library.create_dataset_from_buffers(
            dataset_id,
            [EpisodeBuffer(id=number, **_buffer(episode)) for number, episode in enumerate(demonstrations)],
            env=spec,
            observation_space=demonstrations.observation_space,
            action_space=demonstrations.action_space,
            jpeg_encoding=False,
            **about,
        )


def _buffer(episode: Any) -> dict[str, Any]:
    ends = np.zeros(len(episode.rewards), np.bool_)
    ends[-1] = True
    never = np.zeros_like(ends)
    infos = {"intervention": episode.interventions}
    if not (episode.labelled.all() and np.array_equal(episode.labels, episode.actions)):
        infos |= {"labelled": episode.labelled, "expert_action": episode.labels}
    return {
        "observations": episode.observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": ends if episode.terminated else never,
        "truncations": never if episode.terminated else ends,
        "infos": {name: np.concatenate([np.zeros_like(rows[:1]), rows]) for name, rows in infos.items()},
    }


def _load(library: ModuleType, dataset_id: str) -> Any:
    try:
        with _without_advice():
            from minari.storage.datasets_root_dir import get_dataset_path

            if (path := Path(get_dataset_path(dataset_id), "data", "metadata.json")).is_file():
                _check(path, dataset_id)
            return library.load_dataset(dataset_id)
    except FileNotFoundError:
        with _without_advice():
            known = list(library.list_local_datasets())
        hint = close_matches(dataset_id, known) if known else ", which has none"
        raise FileNotFoundError(f"no Minari dataset {dataset_id!r} on this machine{hint}") from None
    except (ValueError, KeyError, AssertionError, TypeError, OSError, RecursionError) as error:
        raise ValueError(f"{dataset_id!r} is no Minari dataset that can be read: {one_line(repr(error))}") from None


def _check(path: Path, dataset_id: str) -> None:
    """Raises ValueError for metadata by which Minari would run code, or take memory that the data do not explain."""
    about = dict(json.loads(path.read_text(encoding="utf-8")))
    if not {"observation_space", "action_space"} <= set(about):
        raise ValueError(
            "it has no spaces, and Minari would make the environment that it names, which may be any code: if you trust"
            f" it, give the dataset itself, minari.load_dataset({dataset_id!r})"
        )
    size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    if not isinstance(about.get("total_episodes"), int) or about["total_episodes"] > size:
        raise ValueError(f"{shown(about.get('total_episodes'))} episodes cannot be in {size:,} bytes")


def _minari() -> ModuleType:
    try:
        import minari
    except ImportError:
        raise ImportError("Minari datasets need minari: pip install 'agentlib-rl[demos]'") from None
    return minari  # type: ignore[no-any-return]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Minari advises to give author, code and so on by warnings; that is up to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
