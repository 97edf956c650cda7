"""Where the numbers of a run go: TensorBoard, a table, or a tracker of experiments, which is asked by its own calls.

    train(..., log=("tensorboard", "trackio"))
    train(..., log=mine)                            an object of yours with log(metrics, step)

A tracker gets a hundred points per run and one at each evaluation, under SB3's names, on the axis of the run's steps.
What the host has running in a tracker is gone on with, and is the host's to end.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from agentlib.backbones.files import replacing

PROJECT = "agentlib"
"""The project of runs in a tracker, where the host has begun none."""


class Tracker(Protocol):
    """What gets the numbers of a run. With a method `close`, it is called at the end."""

    def log(self, metrics: dict[str, float], step: int) -> object:
        """Takes the numbers at a step."""
        ...


class TensorBoard:
    """Events for TensorBoard in the run's folder."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        # Imported here: it takes longer than all of agentlib.
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Writes scalars."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left to the disk."""
        self.writer.close()


class Table:
    """All points as a table, `progress.csv` in the run's folder, as SB3 calls it; a resumed run goes on there."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.path, self.rows = folder / "progress.csv", list[dict[str, Any]]()
        if self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                self.rows = list(csv.DictReader(file))

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Writes the table with one row more; later rows may bring columns that earlier ones have not."""
        self.rows = [row for row in self.rows if int(row["step"]) < step] + [{"step": step, **metrics}]
        columns = dict.fromkeys(name for row in self.rows for name in row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.rows)


class InitLogFinish:
    """Trackers with the three calls of Weights & Biases: it itself, and Trackio."""

    package = "wandb"

    def __init__(self, folder: Path | None, name: str, settings: Mapping[str, Any]) -> None:
        self.module = module = _imported(self.package)
        self.is_ours = (running := self.running(module)) is None
        self.run = module.init(project=PROJECT, name=name, config=dict(settings)) if running is None else running

    @staticmethod
    def running(module: Any) -> Any:
        """The run that the host has begun, or None."""
        return module.run

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Sends the numbers."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Ends the run in the tracker, if it was begun here."""
        if self.is_ours:
            self.run.finish()


class Trackio(InitLogFinish):
    """Trackio, whose dashboard is on this machine."""

    package = "trackio"

    @staticmethod
    def running(module: Any) -> Any:
        """The run that the host has begun, or None."""
        return module.context_vars.current_run.get()

    def close(self) -> None:
        """Ends the run, which Trackio would go on to have as its present one: the next run would be added to it."""
        super().close()
        if self.is_ours:
            self.module.context_vars.current_run.set(None)


class MLflow:
    """MLflow, by a client of its own, so that the active run of the host is none of ours."""

    def __init__(self, folder: Path | None, name: str, settings: Mapping[str, Any]) -> None:
        mlflow = _imported("mlflow")
        self.client, self.metric = mlflow.MlflowClient(), mlflow.entities.Metric
        active = mlflow.active_run()
        self.is_ours = active is None
        if active is None:
            experiment = self.client.get_experiment_by_name(PROJECT)
            number = self.client.create_experiment(PROJECT) if experiment is None else experiment.experiment_id
            active = self.client.create_run(number, run_name=name)
            for key, value in settings.items():
                self.client.log_param(active.info.run_id, key, value)
        self.run_id = active.info.run_id

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Sends the numbers."""
        now = round(1000 * datetime.now(UTC).timestamp())
        found = [self.metric(name, value, now, step) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=found)

    def close(self) -> None:
        """Ends the run in the tracker, if it was begun here."""
        if self.is_ours:
            self.client.set_terminated(self.run_id)


TRACKERS: dict[str, Any] = {
    "tensorboard": TensorBoard,
    "csv": Table,
    "wandb": InitLogFinish,
    "trackio": Trackio,
    "mlflow": MLflow,
}
IN_FOLDER = ("tensorboard", "csv")
"""Trackers that write into the run's folder, and nothing where there is none."""


def fits(log: Any) -> bool:
    """Whether this is the name of a tracker, an object with a method `log`, or several of them."""
    return all(
        each in TRACKERS if isinstance(each, str) else callable(getattr(each, "log", None)) for each in each_of(log)
    )


def names_in(log: Any) -> list[str]:
    """The names among the trackers."""
    return [each for each in each_of(log) if isinstance(each, str)]


def require_installed(log: Any) -> None:
    """Raises ImportError, naming the package, where a tracker cannot be had: before a run leaves anything behind."""
    for name in names_in(log):
        if name not in IN_FOLDER:
            _imported(name)


def trackers_of(log: Any, folder: Path | None, name: str, settings: Mapping[str, Any]) -> list[Any]:
    """The trackers of a run, each ready.

    Args:
        log: as `fits` has it.
        folder: of the run, if any.
        name: of the run.
        settings: of the run, JSON-able.

    Raises:
        ImportError: a tracker's package is not installed; the message names it.
        Exception: what a tracker raises; those that were ready are closed.
    """
    asked = [each for each in each_of(log) if folder is not None or each not in IN_FOLDER]
    found = list[Any]()
    try:
        for each in asked:
            found.append(TRACKERS[each](folder, name, settings) if isinstance(each, str) else each)
    except BaseException:
        close(found)
        raise
    return found


def close(trackers: Sequence[Any]) -> None:
    """Closes each, also where another one fails."""
    with ExitStack() as stack:
        for tracker in reversed(trackers):
            if callable(end := getattr(tracker, "close", None)):
                stack.callback(end)


def each_of(log: Any) -> Sequence[Any]:
    """The trackers, also if it is one alone."""
    return log if isinstance(log, tuple | list) else (log,)


def _imported(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise ImportError(f"log={package!r} needs {package}: pip install {package}") from None
