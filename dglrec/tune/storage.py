"""The trials of a search, in Optuna's journal: which are held, which were lost, which comes next.

A process that runs a trial holds its lock, which is released when the process ends, even by a kill.
A trial that the journal calls running, but whose lock is free, is lost: it is enqueued again with
the same parameters, and the lost trial no longer counts.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.files import disk_errors
from dglrec.run import locked
from dglrec.sampling import seed_of
from dglrec.tune.space import Choice, Dimension, Space

if TYPE_CHECKING:
    import optuna

JOURNAL_FILE = "study.journal"
TRIALS = "trials"

RETRY_OF = "retry_of"
REASON = "reason"

_TRIALS_BEFORE_PRUNING = 5  # a trial is compared with the median of at least this many trials


def import_optuna() -> Any:
    """Import Optuna, with its messages turned off.

    Raises:
        UnusableEnvironmentError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UnusableEnvironmentError(
            "tune needs Optuna, which the extra `tune` brings: pip install 'dglrec[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Trials:
    """The trials in a search's folder, which several processes may open.

    Args:
        space: the space to search.
        out: the folder of the search; no other process may write there during the call.
        maximise: whether larger figures are better.

    Raises:
        DataError: the journal cannot be read.
        UnusableEnvironmentError: Optuna is not installed.
    """

    def __init__(self, space: Space, out: Path, *, maximise: bool) -> None:
        self._optuna = import_optuna()
        self._space, self._out, self._path = space, out, out / JOURNAL_FILE
        self._distributions = {
            key: self._distribution(dimension) for key, dimension in space.searched.items()
        }
        journal = self._optuna.storages.journal
        _cut_torn_line(self._path)
        with disk_errors(self._path), self._readable():
            backend = journal.JournalFileBackend(str(self._path), lock_obj=_JournalLock(out))
            self.study: optuna.Study = self._optuna.create_study(
                storage=self._optuna.storages.JournalStorage(backend),
                study_name="search",
                direction="maximize" if maximise else "minimize",
                load_if_exists=True,
                pruner=self._optuna.pruners.MedianPruner(n_startup_trials=_TRIALS_BEFORE_PRUNING),
            )
            self.all()

    def all(self) -> list["optuna.trial.FrozenTrial"]:
        """All trials except lost ones; includes those that are enqueued but not begun."""
        trials = self.study.get_trials(deepcopy=False)
        lost = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        return [trial for trial in trials if trial.number not in lost]

    def begun(self) -> int:
        """The number of trials that were begun and not lost."""
        waiting = self._optuna.trial.TrialState.WAITING
        return sum(trial.state != waiting for trial in self.all())

    def enqueue(self, parameters: Mapping[str, Any]) -> None:
        """Enqueue a trial with those of these values that the space allows; it comes next."""
        held = {
            key: value
            for key, value in parameters.items()
            if key in self._space.searched and self._space.searched[key].holds(value)
        }
        self.study.enqueue_trial({key: self._stored(key, value) for key, value in held.items()})

    def recover(self) -> list[int]:
        """Enqueue lost trials again, and return their numbers. The folder must be locked."""
        states = self._optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        found = []
        for trial in trials:
            if trial.state != states.RUNNING or self._is_held(trial.number):
                continue
            # A process may end after enqueuing and before telling; a trial is enqueued only once.
            if trial.number not in retried:
                fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                self.study.enqueue_trial(fixed, user_attrs={RETRY_OF: trial.number})
            self.study.tell(trial.number, state=states.FAIL)
            found.append(trial.number)
        return found

    def ask(self) -> "optuna.Trial":
        """The next trial. The folder must be locked.

        Its parameters depend on the space's seed and the number of trials before it, so that a
        search that was stopped and resumed draws the same ones.
        """
        seed = seed_of("trials", self._space.seed, self.begun())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's warnings of experimental arguments
            self.study.sampler = self._optuna.samplers.TPESampler(
                seed=seed, warn_independent_sampling=False
            )
        return self.study.ask(self._distributions)

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """Hold a trial within the block.

        Raises:
            UsageError: another process holds it.
        """
        with locked(self._out / TRIALS, f".{number}.lock", shown=self._out):
            yield

    def parameters(self, trial: "optuna.trial.FrozenTrial | optuna.Trial") -> dict[str, Any]:
        """A trial's values by key, in the order of the space."""
        found = trial.params
        return {
            key: json.loads(found[key]) if isinstance(dimension, Choice) else found[key]
            for key, dimension in self._space.searched.items()
            if key in found
        }

    def _is_held(self, number: int) -> bool:
        try:
            with self.held(number):
                return False
        except UsageError:
            return True

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if isinstance(dimension, Choice):
            return kinds.CategoricalDistribution(
                [json.dumps(option) for option in dimension.options]
            )
        kind = kinds.IntDistribution if dimension.is_whole else kinds.FloatDistribution
        return kind(dimension.low, dimension.high, log=dimension.log)

    def _stored(self, key: str, value: Any) -> Any:
        return json.dumps(value) if isinstance(self._space.searched[key], Choice) else value

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(
                f"{self._path}: no journal of this search ({type(error).__name__}); remove "
                f"{self._out} to begin it anew"
            ) from error


class _JournalLock:
    """Optuna's lock around writing to the journal; it is released if its process is killed."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._held: list[Any] = []

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        block = locked(self._out, ".lock.journal", wait=True)
        block.__enter__()
        self._held.append(block)
        return True

    def release(self) -> None:
        """Release the lock."""
        self._held.pop().__exit__(None, None, None)


def _cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line, left by a full disk or a loss of power; it was never read."""
    if not path.is_file():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with disk_errors(path), path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
