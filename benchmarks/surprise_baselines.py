"""An outside check: scikit-surprise's models on exactly a data set's training and test rows.

    python benchmarks/surprise_baselines.py DATASET --surprise-python sv/bin/python --json out.json

scikit-surprise needs numpy below 2, so it lives in an environment of its own:

    python -m venv sv && sv/bin/pip install scikit-surprise "numpy<2"

Rows go there as plain arrays, and predictions are measured as `dglrec evaluate` measures them:
clipped to the scale, and rounded half up for `accuracy`. Nothing is tuned on the test rows.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import CHILD, child_main, run_measured, say, write_results

SPLITS = ("train", "valid", "test")


def models(seed: int) -> Iterator[tuple[str, Any]]:
    """Each model by the call that makes it."""
    from surprise import SVD, KNNBaseline, SVDpp

    alike = {"name": "pearson_baseline", "user_based": False}
    yield (
        "KNNBaseline(k=40, item, pearson_baseline)",
        KNNBaseline(k=40, sim_options=alike, verbose=False),
    )
    yield "SVD()", SVD(random_state=seed)
    yield (
        "SVD(n_factors=50, n_epochs=40, reg_all=0.08)",
        SVD(n_factors=50, n_epochs=40, reg_all=0.08, random_state=seed),
    )
    yield "SVDpp()", SVDpp(random_state=seed)


def errors(predictions: Any, ratings: Any, scale: dict[str, float]) -> dict[str, Any]:
    """Metrics of predictions that are not clipped yet."""
    import numpy as np

    minimum, maximum, step = scale["minimum"], scale["maximum"], scale["step"]
    clipped = np.clip(predictions, minimum, maximum)
    levels = np.floor((clipped - minimum) / step + 0.5)
    difference = clipped - ratings
    return {
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "mae": float(np.mean(np.abs(difference))),
        "accuracy": float(np.mean(levels == np.round((ratings - minimum) / step))),
        "n": len(ratings),
    }


def fit_all(folder: str, splits: list[str], scale: dict[str, float], seed: int) -> dict[str, Any]:
    """Fit each model to some rows and measure it on the test rows; in Surprise's own Python."""
    import numpy as np
    import pandas as pd
    from surprise import Dataset, Reader, __version__

    def rows_of(split: str) -> Any:
        return np.load(Path(folder) / f"{split}.npy", allow_pickle=False)

    rows = np.concatenate([rows_of(split) for split in splits])
    table = pd.DataFrame(rows, columns=["user", "item", "rating"])
    reader = Reader(rating_scale=(scale["minimum"], scale["maximum"]))
    known = Dataset.load_from_df(table, reader).build_full_trainset()
    asked = rows_of("test")
    found = []
    for name, model in models(seed):
        started = time.monotonic()
        model.fit(known)
        fitted = time.monotonic()
        predictions = [model.predict(user, item, clip=False).est for user, item, _ in asked]
        row = {
            "model": name,
            **errors(np.array(predictions), asked[:, 2], scale),
            "fit_seconds": round(fitted - started, 2),
            "predict_seconds": round(time.monotonic() - fitted, 2),
        }
        print(f"{name}: rmse {row['rmse']:.4f}", file=sys.stderr, flush=True)
        found.append(row)
    return {"surprise": __version__, "numpy": np.__version__, "rows": found}


def export(dataset: Path, folder: Path) -> dict[str, float]:
    """Write a data set's rows as arrays of user, item, rating; the rating scale comes back."""
    import numpy as np

    from dglrec.dataset import RatingDataset
    from dglrec.evaluate import rows_of

    opened = RatingDataset.open(dataset)
    for split in SPLITS:
        rows = rows_of(opened, split)
        columns = (rows.users, rows.items, rows.ratings)
        table = np.stack([column.numpy().astype(np.float64) for column in columns], axis=1)
        np.save(folder / f"{split}.npy", table, allow_pickle=False)
    return opened.scale.to_dict()


def main() -> None:
    """Parse, export, fit, write."""
    if child_main({"fit": fit_all}):
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="+", help="prepared data sets")
    parser.add_argument(
        "--surprise-python", default=sys.executable, help="a Python that has scikit-surprise"
    )
    parser.add_argument("--with-valid", action="store_true", help="fit to the validation rows too")
    parser.add_argument("--seed", type=int, default=0, help="of the models that draw")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    splits = ["train", "valid"] if arguments.with_valid else ["train"]
    rows, versions = [], {}
    for dataset in arguments.dataset:
        with tempfile.TemporaryDirectory() as temporary:
            scale = export(dataset, Path(temporary))
            say(f"{dataset.name}: fitting to {' and '.join(splits)}")
            job = {"do": "fit", "folder": temporary, "splits": splits, "scale": scale}
            job["seed"] = arguments.seed
            command = [arguments.surprise_python, str(Path(__file__).resolve()), CHILD]
            done = run_measured([*command, json.dumps(job)])
        found = json.loads(done.out.splitlines()[-1])
        versions = {"scikit-surprise": found["surprise"], "numpy_of_surprise": found["numpy"]}
        rows += [
            {"data": dataset.name, "fitted_to": "+".join(splits), "seed": arguments.seed, **row}
            for row in found["rows"]
        ]
    write_results(arguments.json, rows, **versions)


if __name__ == "__main__":
    main()
