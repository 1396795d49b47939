"""Sending the figures of a training to a tracker, whose failures do not stop the training.

After each epoch is saved, a separate thread sends the lines of `metrics.jsonl` to the tracker, so
that a tracker that is slow, hangs or fails does not delay training. A note records what was sent,
so that a resumed training continues the tracker's run where it ended.

tracker/KIND.json     the note: the tracker's run, and the epochs that were sent
tracker/KIND/         the tracker's files, if it stores them here
"""

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from dglrec.errors import DataError
from dglrec.files import disk_errors, read_json, write_json
from dglrec.progress import log
from dglrec.run import SELECTION, TRACKER, metrics_lines
from dglrec.trackers import TRACKERS, Ending, Tracker, Value
from dglrec.train.config import Settings

_WAIT_SECONDS = 30.0  # at the end of training, for figures that are not sent yet


class Tracking(Protocol):
    """The interface through which the training loop reports to a tracker."""

    def follow(self, epoch: int) -> None:
        """Send the lines of `metrics.jsonl` of the saved epochs, up to this one."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """Send the contents of `results.json`."""


class Untracked:
    """A `Tracking` without a tracker."""

    def follow(self, epoch: int) -> None:
        """See `Tracking`."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """See `Tracking`."""


@contextmanager
def tracked(run: Path, settings: Settings, *, here: bool) -> Iterator[Tracking]:
    """Report a training to the tracker that `train.logger` names, during the block.

    Args:
        run: the run's folder, locked and begun.
        settings: the resolved settings.
        here: whether this process reports; only the first of several does.
    """
    kind = settings.train.logger
    if not here or kind not in TRACKERS:
        yield Untracked()
        return
    following = _Following(run, settings)
    ending: Ending = "failed"
    try:
        yield following
        ending = "finished"
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        following.close(ending)


class _Following:
    """A tracker, and the thread that reports to it.

    Args:
        run: the run's folder.
        settings: the resolved settings.
    """

    def __init__(self, run: Path, settings: Settings) -> None:
        self._run, self._settings = run, settings
        self._kind = settings.train.logger
        self._folder = run / TRACKER / self._kind
        self._note = _Note(run / TRACKER / f"{self._kind}.json")
        self._tracker: Tracker | None = None
        self._jobs: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        # A daemon thread, so that a tracker that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def follow(self, epoch: int) -> None:
        """See `Tracking`."""
        self._jobs.put(lambda tracker: self._tell_epochs(tracker, epoch))

    def finish(self, results: Mapping[str, Any]) -> None:
        """See `Tracking`."""
        self._jobs.put(lambda tracker: self._tell_results(tracker, results))

    def close(self, ending: Ending) -> None:
        """End the tracker's run, and wait up to `_WAIT_SECONDS` for it."""
        self._jobs.put(lambda tracker: tracker.close(ending))
        self._jobs.put(None)
        self._thread.join(_WAIT_SECONDS)
        if self._thread.is_alive():
            log(
                f"train.logger = {self._kind}: has not taken all within {_WAIT_SECONDS:.0f} s, and "
                f"is waited for no longer; `train --resume` tells it the rest"
            )

    def _work(self) -> None:
        try:
            tracker = self._open()
            while (job := self._jobs.get()) is not None:
                job(tracker)
        except Exception as error:  # whatever a library raises: it is no reason to lose a training
            said = (str(error) or type(error).__name__).splitlines()[0]
            log(
                f"train.logger = {self._kind} failed and is told no more: {said}; training goes "
                "on, and `train --resume` tells it the rest"
            )

    def _open(self) -> Tracker:
        note = self._note
        note.read()
        name = self._run.resolve()
        shown = f"{name.parent.name}/{name.name}" if name.name == SELECTION else name.name
        tracker = TRACKERS[self._kind](self._folder, shown, note.run_id, note.epochs)
        if tracker.run_id != note.run_id:
            tracker.settings(_flat_settings(self._settings))
            note.write(run_id=tracker.run_id, epochs=0, results=0)
        return tracker

    def _tell_epochs(self, tracker: Tracker, epoch: int) -> None:
        for written in metrics_lines(self._run, epoch).splitlines():
            line = json.loads(written)
            number = line.pop("epoch")
            if number > self._note.epochs:
                tracker.figures(_figures(line), number)
                self._note.write(epochs=number)

    def _tell_results(self, tracker: Tracker, results: Mapping[str, Any]) -> None:
        if results["epochs"] > self._note.results:
            # Beside those of splits, such as test/rmse; an epoch has some of the same names.
            found = _figures(results)
            named = {name if "/" in name else f"final/{name}": found[name] for name in found}
            tracker.figures(named, results["epochs"])
            self._note.write(results=results["epochs"])


class _Note:
    """The note of what was sent to a tracker.

    Attributes:
        run_id: the id of the tracker's run; None before it is begun.
        epochs: the last epoch that was sent.
        results: the number of epochs of the training whose results were sent; 0 for none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.run_id: str | None = None
        self.epochs = self.results = 0

    def read(self) -> None:
        """Read the note if it exists; a damaged note is logged and ignored."""
        if not self._path.exists():
            return
        try:
            self.run_id, self.epochs, self.results = read_note(self._path)
        except DataError as error:
            log(f"{error}; the tracker begins another run")

    def write(self, **changes: Any) -> None:
        """Change fields, and write the note."""
        vars(self).update(changes)
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self._path, {"run_id": self.run_id, "epochs": self.epochs, "results": self.results}
        )


def read_note(path: Path) -> tuple[str, int, int]:
    """The fields of a note: `run_id`, `epochs` and `results`, see `_Note`.

    Raises:
        DataError: the file is not a note.
    """
    found = read_json(path)
    run_id, epochs, results = (found.get(key) for key in ("run_id", "epochs", "results"))
    if type(run_id) is str and type(epochs) is int and type(results) is int:
        return run_id, epochs, results
    raise DataError(f"{path}: damaged (it is no note of what a tracker was told)")


def _flat_settings(settings: Settings) -> dict[str, Value]:
    return {
        f"{section}.{key}": value if isinstance(value, Value) else json.dumps(value)
        for section, values in settings.to_dict().items()
        for key, value in values.items()
    }


def _figures(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers among nested values, by their path as a name that trackers accept."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace("@", "_at_").replace(" ", "_")
        if isinstance(value, Mapping):
            found |= _figures(value, f"{name}/")
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            found[name] = float(value)
    return found
