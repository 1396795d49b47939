"""The tables of a search: its trials, best first, the importance of each setting, and slices."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dglrec import __version__
from dglrec.tune.goal import Goal
from dglrec.tune.space import Choice, Dimension, Space
from dglrec.tune.storage import REASON, Trials, import_optuna

if TYPE_CHECKING:
    import optuna

FINISHED, PRUNED, FAILED, UNDER_WAY, WAITING = (
    "finished",
    "pruned",
    "failed",
    "under way",
    "waiting",
)
_STATES = {
    "COMPLETE": FINISHED,
    "PRUNED": PRUNED,
    "FAIL": FAILED,
    "RUNNING": UNDER_WAY,
    "WAITING": WAITING,
}

_FEWEST_FOR_IMPORTANCES = 5
_PARTS_OF_A_RANGE = 4


def tabulate(space: Space, goal: Goal, trials: Trials) -> dict[str, Any]:
    """All trials of a search, in plain values.

    Args:
        space: the searched space.
        goal: the figure to optimise.
        trials: the trials in the folder.

    Returns:
        `title`, `version`, `seed`, `metric`, `maximise`, `split`, `fixed`; `trials`, best first and
        those without a figure last, each with `trial`, `state`, `value` (on the validation rows),
        `epochs`, `best_epoch`, `seconds`, `parameters` and `reason`; `best`, the best finished
        trial, or None; `importances`, each setting's share of the variance of finished trials that
        single settings explain (functional ANOVA: Hutter, Hoos and Leyton-Brown, ICML 2014), or
        None where fewer than 5 trials are finished; `slices`, for each setting parts of its values,
        each with its number of finished trials and their best and median value; `notes`.
    """
    rows = [_row(trial, trials) for trial in trials.all()]
    rows.sort(key=lambda row: _order(row, goal))
    finished = [row for row in rows if row["state"] == FINISHED]
    notes = [
        "no test row was read: measure what you choose once, with `dglrec evaluate`",
        "the figure of a pruned trial is of the epochs before it was pruned",
    ]
    failed = sum(row["state"] == FAILED for row in rows)
    if failed:
        notes.append(f"{failed} of {len(rows)} trials failed; their reasons are in results.json")
    return {
        "title": space.title,
        "version": __version__,
        "seed": space.seed,
        "metric": goal.name,
        "maximise": goal.maximise,
        "split": "valid",
        "fixed": space.fixed,
        "trials": rows,
        "best": finished[0] if finished else None,
        "importances": _importances(space, trials, finished),
        "slices": {
            key: _slices(key, dimension, finished, maximise=goal.maximise)
            for key, dimension in space.searched.items()
        },
        "notes": notes,
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result of `tabulate` as Markdown."""
    better = "higher" if result["maximise"] else "lower"
    keys = list(result["slices"])
    lines = [
        f"# {_plain(result['title'])}",
        "",
        f"Trials by {result['metric']} on validation rows ({better} is better), best first.",
        "",
        *_markdown_table(
            ["trial", result["metric"], "state", "epochs", "seconds", *keys],
            [
                [*_cells(row), *(_value(row["parameters"].get(key)) for key in keys)]
                for row in result["trials"]
            ],
        ),
    ]
    if result["importances"]:
        lines += ["", "## What each setting was worth", ""]
        lines += _markdown_table(
            ["setting", "share of the variance"],
            [[key, f"{share:.2f}"] for key, share in result["importances"].items()],
        )
    lines += ["", "## Slices", "", "Of finished trials.", ""]
    lines += _markdown_table(
        ["setting", "values", "trials", "best", "median"],
        [
            [
                key,
                part["values"],
                str(part["trials"]),
                _figure(part["best"]),
                _figure(part["median"]),
            ]
            for key, slices in result["slices"].items()
            for part in slices
        ],
    )
    lines += ["", *(f"- {_plain(note)}" for note in result["notes"]), ""]
    return "\n".join(lines)


def _row(trial: "optuna.trial.FrozenTrial", trials: Trials) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "trial": trial.number,
        "state": _STATES[trial.state.name],
        "value": attributes.get("value", trial.value if trial.state.name == "COMPLETE" else None),
        "epochs": attributes.get("epochs"),
        "best_epoch": attributes.get("best_epoch"),
        "seconds": attributes.get("seconds"),
        "parameters": trials.parameters(trial),
        "reason": attributes.get(REASON),
    }


def _order(row: Mapping[str, Any], goal: Goal) -> tuple[int, float, int]:
    kind = [FINISHED, PRUNED].index(row["state"]) if row["value"] is not None else 2
    value = row["value"] or 0.0
    return kind, -value if goal.maximise else value, row["trial"]


def _importances(
    space: Space, trials: Trials, finished: Sequence[Mapping[str, Any]]
) -> dict[str, float] | None:
    if len(finished) < _FEWEST_FOR_IMPORTANCES or len({row["value"] for row in finished}) < 2:
        return None
    optuna = import_optuna()
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=space.seed)
    found = optuna.importance.get_param_importances(
        trials.study, evaluator=evaluator, params=list(space.searched)
    )
    return {key: round(float(share), 4) for key, share in found.items()}


def _slices(
    key: str, dimension: Dimension, finished: Sequence[Mapping[str, Any]], *, maximise: bool
) -> list[dict[str, Any]]:
    """Parts of a setting's values: each choice, or parts of a range with about equal trials."""
    tried = [(row["parameters"][key], row["value"]) for row in finished]
    if isinstance(dimension, Choice):
        groups = [
            (_value(option), [value for tried_one, value in tried if tried_one == option])
            for option in dimension.options
        ]
    else:
        tried.sort()
        count = min(_PARTS_OF_A_RANGE, len({value for value, _ in tried}))
        bounds = [len(tried) * part // count for part in range(count + 1)] if count else []
        parts = [tried[low:high] for low, high in pairwise(bounds)]
        groups = [
            (f"{_value(part[0][0])} to {_value(part[-1][0])}", [value for _, value in part])
            for part in parts
        ]
    best = max if maximise else min
    return [
        {
            "values": values,
            "trials": len(figures),
            "best": best(figures) if figures else None,
            "median": statistics.median(figures) if figures else None,
        }
        for values, figures in groups
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
    epochs = "" if row["epochs"] is None else str(row["epochs"])
    return [str(row["trial"]), _figure(row["value"]), row["state"], epochs, seconds]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [[_plain(cell) for cell in row] for row in (names, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in shown]
    return [lines[0], f"|{' --- |' * len(names)}", *lines[1:]]


def _plain(text: str) -> str:
    """A text that neither ends a cell of Markdown nor holds HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
