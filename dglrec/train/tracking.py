"""What a training tells a tracker, and how it goes on where the tracker fails.

A tracker is told out of `metrics.jsonl`, in a thread of its own, after each epoch is saved: one
that is slow, that hangs or that fails holds up no training. What it was told stands in its note, so
that a training that is resumed goes on with the tracker's run where that ended.

tracker/KIND.json     the tracker's run, and which epochs it was told
tracker/KIND/         what it keeps, if it keeps it here
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

_WAIT_SECONDS = 30.0  # at the end of training, for what a tracker was not told yet


class Tracking(Protocol):
    """Whoever follows a training from outside its run's folder."""

    def follow(self, epoch: int) -> None:
        """See the lines of `metrics.jsonl` of the epochs up to this one, which are saved."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """See what `results.json` will hold."""


class Untracked:
    """Nobody follows."""

    def follow(self, epoch: int) -> None:
        """See `Tracking`."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """See `Tracking`."""


@contextmanager
def tracked(run: Path, settings: Settings, *, here: bool) -> Iterator[Tracking]:
    """Let the tracker that `train.logger` names follow a training.

    Args:
        run: the run's folder, locked and begun.
        settings: resolved ones.
        here: whether this process tells it; of several the first does.
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
    """A tracker and the thread in which it is told.

    Args:
        run: the run's folder.
        settings: resolved ones.
    """

    def __init__(self, run: Path, settings: Settings) -> None:
        self._run, self._settings = run, settings
        self._kind = settings.train.logger
        self._folder = run / TRACKER / self._kind
        self._note = _Note(run / TRACKER / f"{self._kind}.json")
        self._tracker: Tracker | None = None
        self._jobs: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        # As a daemon it keeps no process alive whose tracker hangs.
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def follow(self, epoch: int) -> None:
        """See `Tracking`."""
        self._jobs.put(lambda tracker: self._tell_epochs(tracker, epoch))

    def finish(self, results: Mapping[str, Any]) -> None:
        """See `Tracking`."""
        self._jobs.put(lambda tracker: self._tell_results(tracker, results))

    def close(self, ending: Ending) -> None:
        """Let the tracker end its run, and wait for it for a while."""
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
    """What a tracker was told.

    Attributes:
        run_id: of the tracker's run; None before there is one.
        epochs: the last that it was told.
        results: the epochs of the training whose results it was told; 0 for none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.run_id: str | None = None
        self.epochs = self.results = 0

    def read(self) -> None:
        """Read it where it is there; a damaged one is said, and counts as none."""
        if not self._path.exists():
            return
        try:
            self.run_id, self.epochs, self.results = read_note(self._path)
        except DataError as error:
            log(f"{error}; the tracker begins another run")

    def write(self, **changes: Any) -> None:
        """Write it with changes."""
        vars(self).update(changes)
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self._path, {"run_id": self.run_id, "epochs": self.epochs, "results": self.results}
        )


def read_note(path: Path) -> tuple[str, int, int]:
    """A tracker's run, the last epoch that it was told, and the epochs of the results it was told.

    Raises:
        DataError: the file is no note.
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
    """Numbers of nested values by path, which names as trackers take them."""
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
