"""The table of a study's finished runs: figures by variant, and differences to the reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dglrec.compare import Comparison, GroupFigures, compare, notes_on_seeds
from dglrec.errors import DataError
from dglrec.study.declaration import Study
from dglrec.study.sums import RunSums


@dataclass(frozen=True)
class FinishedRun:
    """The data of a run that the table needs.

    Attributes:
        seed: the run's `train.seed`.
        sums: the sums of its errors, or of the figures of its lists.
        valid: the first metric on validation rows, at the best epoch; None where the run did not
            measure it.
        training_seconds: the time of training alone.
    """

    seed: int
    sums: RunSums
    valid: float | None
    training_seconds: float

    @classmethod
    def of(cls, seed: int, sums: RunSums, results: Mapping[str, Any]) -> "FinishedRun":
        """A finished run from its sums and its `results.json`.

        Raises:
            DataError: the results are not those of a training.
        """
        leading = sums.sums.metrics[0]
        try:
            # A refitted run has the validation figures of its selection; without validation rows
            # there are none.
            valid = results.get("selection", results).get("valid", {}).get(leading)
            seconds = float(results["training_seconds"])
            return cls(seed, sums, None if valid is None else float(valid), seconds)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"its results.json lacks what training writes ({error})") from error


def tabulate(
    study: Study, runs: Mapping[str, Sequence[FinishedRun]], *, draws: int = 2_000, seed: int = 0
) -> dict[str, Any]:
    """The table of a study.

    Variants on the rows of the reference are compared with it, and p-values are corrected for the
    number of these variants; each other variant has figures but no difference.

    Args:
        study: the study.
        runs: finished runs by variant, of at least one variant; a variant without runs has no key.
        draws: the number of bootstrap samples of users.
        seed: the seed of the bootstrap.

    Returns:
        `study`, `title`, `split`, `metrics`, `baseline`, `reference`, `level`, `draws`, `variants`
        and `notes`.
    """
    rows_of = {name: _rows(name, found) for name, found in runs.items()}
    shared = rows_of.get(study.reference)
    comparisons: dict[str, Comparison] = {}
    figures: list[GroupFigures] = []
    notes: list[str] = []
    for rows in dict.fromkeys(rows_of.values()):
        names = [name for name in runs if rows_of[name] == rows]
        against = [name for name in names if name != study.reference] if rows == shared else []
        found = compare(
            {name: [run.sums.sums for run in runs[name]] for name in names},
            draws=draws,
            seed=seed,
            pairs=[(name, study.reference) for name in against],
        )
        comparisons |= dict.fromkeys(names, found)
        figures += found.runs
        # Notes on seeds are made once below, for all variants together.
        not_on_seeds = [note for note in found.notes if note not in notes_on_seeds(found.runs)]
        several = len(set(rows_of.values())) > 1
        notes += [f"{', '.join(names)}: {note}" if several else note for note in not_on_seeds]
    variants = [_row(study, name, found, comparisons[name]) for name, found in runs.items()]
    on_other_rows = [name for name, rows in rows_of.items() if rows != shared]
    if shared is None:
        notes.append(
            f"the reference {study.reference} has no finished run, so there are no differences"
        )
    elif on_other_rows:
        notes.append(
            f"{', '.join(on_other_rows)}: not on the {study.split} rows of {study.reference}, so "
            "there is no paired difference; each stands beside the baseline on its own rows"
        )
    missing = [name for name in study.variants if name not in runs]
    if missing:
        notes.append(f"no finished run of {', '.join(missing)}")
    first = next(iter(comparisons.values()))
    level, metrics = first.level, first.metrics
    return {
        "study": study.name,
        "title": study.title,
        "split": study.split,
        "metrics": list(metrics),
        "baseline": "bias" if metrics[0] == "rmse" else "popularity",
        "reference": study.reference,
        "level": level,
        "draws": draws,
        "variants": variants,
        "notes": [*notes, *notes_on_seeds(figures), *_twins(runs)],
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """A study's table with its notes, as Markdown."""
    level = f"{100 * result['level']:g} %"
    metrics = result["metrics"]
    leading = _title_of(metrics[0])
    columns = [
        *("variant", "runs", *map(_title_of, metrics), f"difference of {leading}, %", "p (Holm)"),
        *(f"validation {leading}", f"{result['baseline']} {leading}", "seconds"),
    ]
    lines = [
        f"# {_plain(result['title'])}",
        "",
        f"Figures of {result['split']} rows, means over runs with different seeds, with {level} "
        "intervals from redrawn users and runs. Differences are to "
        f"`{result['reference']}`; p-values are Holm's over all of them. Choices are made by the "
        "validation figures; test figures are only reported.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
    ]
    for row in result["variants"]:
        difference = row["difference"]
        cells = [
            row["name"],
            str(row["runs"]),
            *(show(row[metric]) for metric in metrics),
            "" if difference is None else show_percent(difference),
            ""
            if difference is None or difference["p_holm"] is None
            else f"{difference['p_holm']:.4f}",
            "" if row["valid"] is None else f"{row['valid']:.4f}",
            "" if row["baseline"] is None else f"{row['baseline']:.4f}",
            f"{row['training_seconds']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    described = [row for row in result["variants"] if row["description"]]
    if described:
        lines += ["", *(f"- `{row['name']}`: {_plain(row['description'])}" for row in described)]
    if result["notes"]:
        lines += ["", "Notes:", "", *(f"- {note}" for note in result["notes"])]
    return "\n".join(lines) + "\n"


def _title_of(metric: str) -> str:
    """The name of a metric in tables."""
    return {"rmse": "RMSE", "mae": "MAE"}.get(metric, metric)


def show(estimate: Mapping[str, Any]) -> str:
    """A figure with its interval, if it has one, as text."""
    ends = (
        f" [{estimate['low']:.4f}, {estimate['high']:.4f}]" if estimate["low"] is not None else ""
    )
    return f"{estimate['value']:.4f}{ends}"


def show_percent(difference: Mapping[str, Any]) -> str:
    """A difference to the reference in percent, with its interval, as text."""
    percent = difference["percent"]
    if percent["value"] is None:
        return ""
    text = f"{percent['value']:+.2f}"
    if percent["low"] is not None:
        text += f" [{percent['low']:+.2f}, {percent['high']:+.2f}]"
    return text + (" includes 0" if difference["includes_0"] else "")


def _rows(name: str, runs: Sequence[FinishedRun]) -> str:
    """The identity of the rows of a variant's runs.

    Raises:
        DataError: the runs are not on the same rows.
    """
    names = {run.sums.rows for run in runs}
    if len(names) > 1:
        raise DataError(
            f"variant {name}: its runs are not on the same rows; remove them to train them again"
        )
    return names.pop()


def _row(study: Study, name: str, runs: Sequence[FinishedRun], found: Comparison) -> dict[str, Any]:
    (figures,) = (group for group in found.runs if group.name == name)
    return {
        "name": name,
        "description": study.variants[name].description,
        "runs": len(runs),
        "seeds": [run.seed for run in runs],
        "rows": found.rows,
        "users": found.users,
        **{metric: asdict(estimate) for metric, estimate in figures.figures.items()},
        "difference": _difference(name, found),
        "valid": _mean([run.valid for run in runs]),
        "baseline": _mean([run.sums.baseline for run in runs]),
        "training_seconds": _mean([run.training_seconds for run in runs]),
    }


def _difference(name: str, found: Comparison) -> dict[str, Any] | None:
    """The difference of a variant's first metric to the reference's; None if not compared."""
    for pair in found.differences:
        if pair.a == name:
            first = next(iter(pair.figures.values()))
            low, high = first.low, first.high
            return {
                "value": {"value": first.value, "low": low, "high": high},
                "percent": {
                    "value": pair.percent,
                    "low": pair.percent_low,
                    "high": pair.percent_high,
                },
                "p": first.p,
                "p_holm": first.p_holm,
                "includes_0": None if low is None or high is None else low <= 0 <= high,
                "d_z": pair.d_z,
            }
    return None


def _twins(runs: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """A note for variants with the same weights and validation figures, whatever their settings.

    The figures are compared too, because models with the same weights may still differ by a setting
    such as `model.new_items`.
    """
    owners: dict[tuple[str, float | None], list[str]] = {}
    for name, found in runs.items():
        for run in found:
            owners.setdefault((run.sums.weights, run.valid), []).append(name)
    return [
        f"{' and '.join(names)} hold the same weights: what sets them apart changes nothing on "
        "these data"
        for names in dict.fromkeys(
            tuple(dict.fromkeys(names)) for names in owners.values() if len(set(names)) > 1
        )
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
