"""Experiment trackers: TensorBoard, MLflow and Weights & Biases behind the same few calls.

Nothing here is imported before it is asked for: each library is an extra of its own. Names of
figures are letters, digits, `_`, `-`, `.` and `/` alone, which all three take as they are.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from dglrec.errors import UnusableEnvironmentError

Ending = Literal["finished", "stopped", "failed"]
"""How a training ended: by itself, because somebody asked for it, or with an error."""

Value = str | int | float | bool

_PROJECT = "dglrec"
_BATCH = 100  # parameters in one call, which is the most that MLflow takes


class Tracker(Protocol):
    """A tracker's run, open.

    Attributes:
        run_id: by which the tracker finds the run again.
    """

    run_id: str

    def settings(self, values: Mapping[str, Value]) -> None:
        """Note what a training is done with; called once for each of the tracker's runs."""

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Note figures by name; steps do not fall."""

    def close(self, ending: Ending) -> None:
        """Write what is not written yet, and say how the training ended."""


class Kind(Protocol):
    """A class of trackers."""

    def load(self) -> None:
        """Import what the tracker needs.

        Raises:
            ImportError: it is not installed.
        """

    def __call__(self, folder: Path, name: str, run_id: str | None, step: int) -> Tracker:
        """Begin a tracker's run, or go on with one.

        Args:
            folder: where it writes, if its environment variables name no other place.
            name: what it calls the run.
            run_id: of the run to go on with; None for a new one. A tracker that does not have it
                begins a new one.
            step: the last step that it was told.
        """


class TensorBoard:
    """Event files; see `Kind` for the arguments."""

    @staticmethod
    def load() -> None:
        """Import TensorBoard; see `Kind`."""
        import torch.utils.tensorboard  # noqa: F401  # needs the package `tensorboard`

    def __init__(self, folder: Path, name: str, run_id: str | None, step: int) -> None:
        del name  # TensorBoard calls a run what its folder is called
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = "events"  # a folder holds one run
        # A reader then leaves out later steps of the files that are there: those that were written,
        # and not noted, when a process was killed.
        purge = None if run_id is None else step + 1
        self._folder = str(folder)
        self._writer: Any = SummaryWriter(self._folder, purge_step=purge)

    def settings(self, values: Mapping[str, Value]) -> None:
        """See `Tracker`."""
        lines = "\n".join(f"    {key} = {value}" for key, value in values.items())
        self._writer.add_text("settings", lines)  # indented: Markdown shows it as it is
        self._writer.add_hparams(dict(values), {}, run_name=".")

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, figure in figures.items():
            self._writer.add_scalar(name, figure, step)
        self._writer.flush()

    def close(self, ending: Ending) -> None:
        """See `Tracker`."""
        del ending
        self._writer.close()


class MLflow:
    """A run in a local database, or where `MLFLOW_TRACKING_URI` says; see `Kind`."""

    _STATUS: Mapping[Ending, str] = {
        "finished": "FINISHED",
        "stopped": "KILLED",
        "failed": "FAILED",
    }

    @staticmethod
    def load() -> None:
        """Import MLflow and what its local database needs; see `Kind`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import alembic  # noqa: F401
        import mlflow  # noqa: F401
        import sqlalchemy  # noqa: F401

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def __init__(self, folder: Path, name: str, run_id: str | None, step: int) -> None:
        del step
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=uri)
        if run_id is not None:
            try:
                self._client.update_run(run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                run_id = None  # of another store
        if run_id is None:
            run_id = str(self._client.create_run(self._experiment(), run_name=name).info.run_id)
        self.run_id = run_id

    def _experiment(self) -> str:
        if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return named
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def settings(self, values: Mapping[str, Value]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Param

        for part in _parts([Param(key, str(value)) for key, value in values.items()]):
            self._client.log_batch(self.run_id, params=part)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1_000)
        metrics = [Metric(name, figure, now, step) for name, figure in figures.items()]
        for part in _parts(metrics):
            self._client.log_batch(self.run_id, metrics=part)

    def close(self, ending: Ending) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self.run_id, self._STATUS[ending])


class WeightsAndBiases:
    """A run of wandb, offline unless `WANDB_MODE` or `WANDB_API_KEY` says otherwise; see `Kind`."""

    @staticmethod
    def load() -> None:
        """Import wandb; see `Kind`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # noqa: F401

    def __init__(self, folder: Path, name: str, run_id: str | None, step: int) -> None:
        del step  # wandb knows, or is told when runs are synchronised
        import wandb

        place = os.environ.get("WANDB_DIR") or str(folder)
        Path(place).mkdir(parents=True, exist_ok=True)
        online = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        mode: Any = os.environ.get("WANDB_MODE") or online
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=name,
            id=run_id,
            dir=place,
            mode=mode,
            resume="allow",
            reinit="create_new",  # the run of somebody who calls `train` stays as it is
            settings=wandb.Settings(
                console="off", silent=True, save_code=False, disable_git=True, disable_code=True
            ),
        )
        self.run_id = str(self._run.id)

    def settings(self, values: Mapping[str, Value]) -> None:
        """See `Tracker`."""
        self._run.config.update(dict(values), allow_val_change=True)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(figures), step=step)

    def close(self, ending: Ending) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(ending == "failed"))


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
"""By the names of `train.logger`, which are those of the extras too."""


def check_tracker(name: str) -> None:
    """Refuse a tracker that is not installed.

    Args:
        name: of `TRACKERS`; any other stands for none.

    Raises:
        UnusableEnvironmentError: its package is not there, or cannot be imported.
    """
    kind = TRACKERS.get(name)
    if kind is None:
        return
    try:
        kind.load()
    except ImportError as error:
        raise UnusableEnvironmentError(
            f"train.logger = {name}: {str(error).splitlines()[0]}; the extra `{name}` brings it: "
            f"pip install 'dglrec[{name}]'"
        ) from error


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    left = iter(values)
    while part := list(islice(left, _BATCH)):
        yield part
