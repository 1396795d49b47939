"""Training time until a share of the planted gap is closed on validation rows, for both loaders.

    python benchmarks/time_to_rmse.py --data DATASET --scale 0.1 --gap 0.8 \
        --loaders users neighbor --json benchmarks/results/time_to_rmse.json

DATASET comes from `dglrec synth` and `prepare`; where there is none, one of that scale is made
there: a share of the users and the ratings, and all items. The gap closed by a model of RMSE M is
(B^2 - M^2) / (B^2 - R^2), B the bias baseline's and R the irreducible RMSE on the same rows. It is
looked at after each epoch; the seconds are those spent training, without validation.

`--set key=value` goes to every training, `--set LOADER:key=value` to that loader's alone.
"""

import argparse
import json
import tempfile
from pathlib import Path

from common import (
    Row,
    child_main,
    make_dataset,
    print_table,
    run_child,
    say,
    write_results,
)

LOADERS = ("users", "neighbor")
COLUMNS = (
    "loader",
    "edges",
    "epochs",
    "epoch_reached",
    "seconds_to_gap",
    "gap_closed",
    "valid_rmse",
    "test_rmse",
    "training_seconds",
    "peak_memory_gb",
)


def train_one(dataset: str, run: str, loader: str, assignments: list[str]) -> Row:
    """In a child: one training with the package's own loop, and its epochs."""
    from dglrec.config import load_settings
    from dglrec.dataset import RatingDataset
    from dglrec.train import train

    settings = load_settings(assignments=[f"loader.kind={loader}", *assignments])
    opened = RatingDataset.open(Path(dataset))
    results = train(opened, Path(run), settings)
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = ("epoch", "valid_rmse", "seconds")
    return {
        "edges": opened.graph.num_edges,
        "epochs": results["epochs"],
        "training_seconds": results["training_seconds"],
        "valid_rmse": results["valid"]["rmse"],
        "test_rmse": results["test"]["rmse"],
        "settings": settings.to_dict(),
        "by_epoch": [{key: json.loads(line)[key] for key in kept} for line in lines],
    }


def bounds(dataset: str) -> Row:
    """In a child: the RMSE of the bias baseline, and the irreducible one, on validation rows."""
    from dglrec.dataset import RatingDataset
    from dglrec.evaluate import baselines, sums_of

    opened = RatingDataset.open(Path(dataset))
    rows = opened.held_out("valid")
    if rows.expected is None:
        raise SystemExit(f"{dataset}: was not prepared from generated data, so no gap is known")
    return {
        "bias_rmse": baselines(opened, rows)["bias"]["rmse"],
        "irreducible_rmse": sums_of(rows.expected.__getitem__, rows, opened).finish()["rmse"],
    }


def gap_closed(rmse: float, ends: Row) -> float:
    """Share of the planted gap that a model of some RMSE closes."""
    bias, irreducible = ends["bias_rmse"] ** 2, ends["irreducible_rmse"] ** 2
    return float((bias - rmse**2) / (bias - irreducible))


def judge(figures: Row, ends: Row, gap: float) -> Row:
    """Add each epoch's gap, and the first epoch and second at which the wanted one is closed."""
    epochs = [
        {**epoch, "gap_closed": round(gap_closed(epoch["valid_rmse"], ends), 4)}
        for epoch in figures["by_epoch"]
    ]
    reached = next((epoch for epoch in epochs if epoch["gap_closed"] >= gap), None)
    return {
        **figures,
        "by_epoch": epochs,
        "gap_closed": round(gap_closed(figures["valid_rmse"], ends), 4),
        "epoch_reached": reached["epoch"] if reached else None,
        "seconds_to_gap": reached["seconds"] if reached else None,
    }


def compare(rows: list[Row]) -> Row:
    """The first loader against the second: how much sooner, and how far apart in the end."""
    if len(rows) != 2:
        return {}
    ours, theirs = rows
    times = [row["seconds_to_gap"] for row in rows]
    return {
        "times_sooner": round(times[1] / times[0], 2) if all(times) else None,
        **{
            f"{split}_rmse_difference_percent": round(
                100 * (ours[f"{split}_rmse"] / theirs[f"{split}_rmse"] - 1), 3
            )
            for split in ("valid", "test")
        },
    }


def settings_for(loader: str, assignments: list[str]) -> list[str]:
    """The assignments for all loaders and those for this one."""
    chosen = []
    for assignment in assignments:
        name, colon, rest = assignment.partition(":")
        if not colon or name not in LOADERS:
            chosen.append(assignment)
        elif name == loader:
            chosen.append(rest)
    return chosen


def main() -> None:
    """Parse, train, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a prepared data set, or where one is to be made")
    parser.add_argument("--scale", type=float, default=0.1, help="of a data set that is made")
    parser.add_argument("--text", action="store_true", help="with synopses, where one is made")
    parser.add_argument("--gap", type=float, default=0.8, help="share to be closed")
    parser.add_argument("--loaders", nargs="+", default=list(LOADERS), choices=LOADERS)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        dataset = arguments.data or Path(temporary) / "dataset"
        if not dataset.exists():
            make_dataset(Path(temporary), dataset, scale=arguments.scale, text=arguments.text)
        ends = run_child(__file__, {"do": "bounds", "dataset": str(dataset)})
        del ends["peak_memory_gb"]
        say(f"bias RMSE {ends['bias_rmse']:.4f}, irreducible {ends['irreducible_rmse']:.4f}")
        for loader in arguments.loaders:
            job = {
                "do": "train",
                "dataset": str(dataset),
                "run": f"{temporary}/run-{loader}",
                "loader": loader,
                "assignments": settings_for(loader, arguments.set),
            }
            row = judge(run_child(__file__, job), ends, arguments.gap)
            rows.append({"loader": loader, "gap": arguments.gap, **row})
    comparison = compare(rows)
    print_table(f"time to {arguments.gap:.0%} of the gap", COLUMNS, rows)
    for name, value in comparison.items():
        say(f"{name}: {value}")
    write_results(arguments.json, rows, bounds=ends, comparison=comparison)


if __name__ == "__main__" and not child_main({"train": train_one, "bounds": bounds}):
    main()
