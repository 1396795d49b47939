"""The same models on graphs of rising density: how much of a planted taste each of them finds.

    python benchmarks/density.py --json benchmarks/results/density.json

Each graph has the same users and items, with planted tastes, and another number of ratings. A share
of them that rises from graph to graph is rated, from one in fifty to nearly all. Each model is
trained with each seed, which is that of the planted data too. The best possible RMSE is that of the
planted tastes (`irreducible_rmse`), and `gap_closed` is the share of the squared error between the
bias model and there that is gone. Test rows; epochs are chosen on validation rows.

What a model has of the graph: `graph` reads users' items, and who else rated them, over two layers;
`one layer` the items alone; `factors` no edge at all, but a vector for each user, which the others
do not have. All have the same features and vectors of items.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from common import Row, print_table, say, write_results

if TYPE_CHECKING:
    from dglrec.dataset import RatingDataset

MODELS: Mapping[str, tuple[str, ...]] = {
    "graph": (),
    "one layer": ("model.layers=1",),
    "bare edges": ("model.rating_messages=false",),
    "factors": ("model.layers=0", "model.user_identity=true"),
}
COLUMNS = (
    "density",
    "ratings",
    "model",
    "rmse",
    "bias_rmse",
    "best_rmse",
    "gap_closed",
    "standard_error",
    "seconds",
)


def make_data(folder: Path, users: int, items: int, ratings: int, seed: int) -> "RatingDataset":
    """A prepared data set with so many planted ratings."""
    from dglrec.dataset import PrepareOptions, prepare
    from dglrec.synthetic import synthesize

    synthesize(folder / "source", users=users, items=items, ratings=ratings, seed=seed)
    return prepare(folder / "source", folder / "data", PrepareOptions(text=False, seed=seed))


def train_model(data: "RatingDataset", folder: Path, model: str, seed: int, epochs: int) -> Row:
    """Figures of a model's test rows."""
    from dglrec.config import load_settings
    from dglrec.evaluate import evaluate
    from dglrec.run import open_run
    from dglrec.train import train

    settings = ["model.heads=rating", f"train.seed={seed}", f"train.epochs={epochs}"]
    trained = train(data, folder, load_settings(assignments=[*settings, *MODELS[model]]))
    found = evaluate(open_run(folder))
    return {
        "rmse": found["rmse"],
        "bias_rmse": found["baselines"]["bias"]["rmse"],
        "best_rmse": found["irreducible_rmse"],
        "gap_closed": found["gap_closed"],
        "seconds": trained["training_seconds"],
        "best_epoch": trained["best_epoch"],
    }


def summary(rows: Sequence[Row]) -> Row:
    """The means of some seeds' figures, and the standard error of the gap's."""
    gaps = [row["gap_closed"] for row in rows]
    means = {key: round(mean(row[key] for row in rows), 4) for key in rows[0]}
    error = round(stdev(gaps) / len(gaps) ** 0.5, 4) if len(gaps) > 1 else None
    return {**means, "standard_error": error, "gaps_of_seeds": [round(one, 4) for one in gaps]}


def measure(
    users: int, items: int, densities: Sequence[float], seeds: Sequence[int], epochs: int
) -> list[Row]:
    """A row for each density and model."""
    rows = []
    for density in densities:
        ratings = round(density * users * items)
        found: dict[str, list[Row]] = {model: [] for model in MODELS}
        for seed in seeds:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                say(f"{ratings:,} ratings of {users:,} users and {items:,} items, seed {seed}")
                data = make_data(folder, users, items, ratings, seed)
                for model, done in found.items():
                    done.append(train_model(data, folder / model, model, seed, epochs))
        for model, done in found.items():
            about = {"density": density, "ratings": ratings, "model": model}
            rows.append({**about, **summary(done)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--items", type=int, default=250)
    densities = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
    parser.add_argument("--densities", type=float, nargs="+", default=densities)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not all(0 < one <= 1 for one in options.densities):
        parser.error("--densities: shares of all pairs, above 0 and at most 1")
    size = options.users, options.items
    rows = measure(*size, options.densities, options.seeds, options.epochs)
    print_table(f"{size[0]:,} users, {size[1]:,} items", COLUMNS, rows)
    write_results(options.json, rows, users=size[0], items=size[1], seeds=list(options.seeds))


if __name__ == "__main__":
    main()
