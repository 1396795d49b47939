"""The work of a search: ask for parameters, train, report, until there are enough trials."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
import torch

from dglrec import __version__
from dglrec.dataset import RatingDataset
from dglrec.errors import DivergedError, UnusableEnvironmentError, UsageError
from dglrec.files import atomic_file, disk_errors, sweep, write_json
from dglrec.progress import Advance, Manner, counted, log, progress, spoken
from dglrec.run import RESULTS_FILE, check_folder_with, locked
from dglrec.train import (
    Figures,
    LostDeviceError,
    RankingConfig,
    Settings,
    remove_checkpoints,
    train,
)
from dglrec.tune.goal import Goal
from dglrec.tune.record import TUNE_FILE, record_tuning
from dglrec.tune.space import Space
from dglrec.tune.storage import REASON, TRIALS, Trials, import_optuna
from dglrec.tune.table import as_markdown, tabulate

if TYPE_CHECKING:
    import optuna

TABLE_FILE = "results.md"
BEST_FILE = "best.toml"

_VALID = "valid"
_EPOCHS_BEFORE_PRUNING = 2


def run_tuning(
    space: Space,
    source: Path,
    out: Path,
    *,
    trials: int = 30,
    timeout: float | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Search a space for the settings with the best validation figures, and write the table.

    A call that was stopped is resumed by the same call; several processes that make the same call
    share the trials. Trials are judged on validation rows alone; test rows are never read.

    Args:
        space: from `read_space`.
        source: a prepared data set.
        out: the search's folder.
        trials: the number of trials that the folder is to hold, including those of earlier calls
            and other processes, and failed ones.
        timeout: seconds after which this call begins no further trial; None for no limit.
        device: where to compute; None for the CPU.

    Returns:
        The result of `tabulate` for all trials in the folder.

    Raises:
        UsageError: the data set has no validation rows, the folder belongs to something else,
            another data set or another space, or all trials failed.
        DataError: the data set, or a file in the folder, is missing or bad.
        UnusableEnvironmentError: Optuna is not installed, or the device failed.
        DglrecError: the disk is full.
    """
    import_optuna()
    out = Path(out)
    dataset = RatingDataset.open(Path(source))
    dataset.check_held_out(_VALID)
    ranking = RankingConfig.model_validate(
        {
            key.partition(".")[2]: value
            for key, value in space.fixed.items()
            if key in ("ranking.metric", "ranking.at")
        }
    )
    goal = Goal.of(space.heads, ranking, dataset)
    check_folder_with(out, TUNE_FILE)
    with disk_errors(out):
        with locked(out, wait=True):
            sweep(out)
            begun_with = record_tuning(space, dataset, goal, out)
            there = Trials(space, out, maximise=goal.maximise)
            if not there.all():
                there.enqueue(_defaults(space, dataset))
        search = _Search(space, dataset, out, device or torch.device("cpu"), goal, there)
        try:
            search.run(trials, timeout)
        except KeyboardInterrupt:
            log(f"{out}: the same tune command resumes it")
            raise
        finally:
            result = search.write(begun_with)
    return result


def _defaults(space: Space, dataset: RatingDataset) -> dict[str, Any]:
    """The values of the searched settings without a search, with `auto` resolved for the data."""
    try:
        settings = space.settings({}).resolved_for(dataset).to_dict()
    except UsageError:
        return {}  # without the searched keys the settings are impossible: nothing to begin with
    found = {}
    for key in space.searched:
        section, _, setting = key.partition(".")
        found[key] = settings[section][setting]
    return found


@dataclass
class _Search:
    """This process's work in a search's folder."""

    space: Space
    dataset: RatingDataset
    out: Path
    device: torch.device
    goal: Goal
    trials: Trials

    def run(self, wanted: int, timeout: float | None) -> None:
        """Run trials until there are as many as wanted, or the time is over.

        Raises:
            UsageError: all trials failed.
        """
        started = time.monotonic()
        with locked(self.out, wait=True):
            self._recover()
            shown = begun = self.trials.begun()
        remaining = max(wanted - begun, 0)
        with progress(f"searching {self.space.name}", remaining, "trials") as advance:
            while True:
                with ExitStack() as until_told:
                    with locked(self.out, wait=True):
                        self._recover()
                        begun = self.trials.begun()
                        late = timeout is not None and time.monotonic() - started >= timeout
                        if begun >= wanted or late:
                            break
                        trial = self.trials.ask()
                        until_told.enter_context(self.trials.held(trial.number))
                    shown = _caught_up(advance, shown, begun)
                    self._try(trial, wanted)
            _caught_up(advance, shown, begun)
        if late and begun < wanted:
            log(f"{self.out}: {timeout:g} s are over after {counted(begun, 'trial')} of {wanted}")
        self._refuse_if_all_refused()

    def write(self, begun_with: str) -> dict[str, Any]:
        """Write the table of all trials in the folder, and the best settings."""
        with locked(self.out, wait=True):
            result = tabulate(self.space, self.goal, self.trials)
            if begun_with != __version__:
                result["notes"].append(
                    f"begun with dglrec {begun_with}, resumed with {__version__}"
                )
            write_json(self.out / RESULTS_FILE, result)
            with atomic_file(self.out / TABLE_FILE) as temporary:
                temporary.write_text(as_markdown(result), encoding="utf-8")
            if result["best"] is not None:
                settings = self.space.settings(result["best"]["parameters"])
                with atomic_file(self.out / BEST_FILE) as temporary:
                    temporary.write_text(tomli_w.dumps(settings.given()), encoding="utf-8")
        return result

    def _recover(self) -> None:
        for number in self.trials.recover():
            remove_checkpoints(self.out / TRIALS / str(number))
            log(f"trial {number} was not finished; its parameters are tried again")

    def _try(self, trial: "optuna.Trial", wanted: int) -> None:
        """Train a trial and record its result."""
        optuna = import_optuna()
        run = self.out / TRIALS / str(trial.number)
        states = optuna.trial.TrialState
        parameters = self.trials.parameters(trial)
        try:
            settings = self.space.settings(parameters)
            results, pruned = self._train(trial, run, settings)
        except LostDeviceError:
            raise
        except (UsageError, DivergedError, UnusableEnvironmentError) as error:
            remove_checkpoints(run)
            trial.set_user_attr(REASON, str(error))
            self.trials.study.tell(trial, state=states.FAIL)
            log(f"trial {trial.number} of {wanted}: failed: {error}")
            return
        remove_checkpoints(run)
        value = self.goal.value(results[_VALID])
        for name, key in (("epochs", "epochs"), ("best_epoch", "best_epoch")):
            trial.set_user_attr(name, results[key])
        trial.set_user_attr("seconds", results["training_seconds"])
        if value is None:
            trial.set_user_attr(REASON, f"{self.goal.name} of the validation rows is no number")
            self.trials.study.tell(trial, state=states.FAIL)
        elif pruned:
            trial.set_user_attr("value", value)
            self.trials.study.tell(trial, state=states.PRUNED)
        else:
            self.trials.study.tell(trial, value)
        shown = "no figure" if value is None else f"{self.goal.name} {value:.4f}"
        log(
            f"trial {trial.number} of {wanted}: {shown}, {counted(results['epochs'], 'epoch')}"
            f"{', pruned' if pruned else ''}, {results['training_seconds']:.0f} s"
        )

    def _train(
        self, trial: "optuna.Trial", run: Path, settings: Settings
    ) -> tuple[dict[str, Any], bool]:
        """A trial's results, and whether it was pruned."""
        pruned = []
        # The first epoch says little about the last, and neither do a few at a low learning rate.
        first = max(_EPOCHS_BEFORE_PRUNING, settings.train.epochs // 4)

        def after_epoch(epoch: int, figures: Figures) -> bool:
            value = self.goal.value(figures)
            if value is not None:
                trial.report(value, epoch)
                if epoch >= first and trial.should_prune():
                    pruned.append(epoch)
            return bool(pruned)

        # The messages of training are in the run's log; here they would fill a page for each trial.
        with spoken(Manner(quiet=True)):
            results = train(
                self.dataset,
                run,
                settings,
                device=self.device,
                after_epoch=after_epoch,
                report=(_VALID,),
            )
        return results, bool(pruned)

    def _refuse_if_all_refused(self) -> None:
        """Raise an error if all finished trials failed.

        Raises:
            UsageError: all failed; the message has the first reason.
        """
        trials = [trial for trial in self.trials.all() if trial.state.is_finished()]
        reasons = [trial.user_attrs.get(REASON) for trial in trials]
        if reasons and all(reason is not None for reason in reasons):
            raise UsageError(
                f"{self.space.name}: {_each(len(reasons))} failed; the first: {reasons[0]}"
            )


def _each(count: int) -> str:
    return "its only trial" if count == 1 else f"each of its {count} trials"


def _caught_up(advance: Advance, shown: int, done: int) -> int:
    """Advance a progress bar from `shown` to `done`, the count of all processes, and return it."""
    advance(done - shown)
    return done
