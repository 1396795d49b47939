"""How much of the planted gap could be closed by who knew the items, and had to learn the users.

    python benchmarks/ceiling.py --source SOURCE --data DATASET --json ceiling.json

SOURCE comes from `dglrec synth` and DATASET from `dglrec prepare`. The estimator is given the
planted item vectors, item biases and rating curve. Of each of some users it knows the training
ratings, and fits bias and vector by penalised quasi-likelihood (Fisher scoring; McCullagh and
Nelder, "Generalized linear models", 1989, chapter 9), the penalty being the planted spread of
users. It predicts the validation rows by the expected rating under the normal approximation of what
is left uncertain. It reads ratings alone: who rates what follows from taste too, and a model that
reads that can do better.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import Row, print_table, write_results
from scipy.special import ndtr

from dglrec.dataset import RatingDataset
from dglrec.synthetic.truth import Truth

Floats = npt.NDArray[np.float64]
STEPS, NODES, SLOPE_STEP = 8, 5, 1e-3
COLUMNS = ("by", "users", "rows", "rmse", "gap_closed")


class Curve:
    """Mean, slope and variance of a rating by its latent value."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def mean(self, latent: Floats) -> Floats:
        return np.asarray(self.truth.curve(latent))

    def slope(self, latent: Floats) -> Floats:
        ends = self.mean(latent + SLOPE_STEP) - self.mean(latent - SLOPE_STEP)
        return ends / (2 * SLOPE_STEP)

    def variance(self, latent: Floats) -> Floats:
        # A rating is 1 + the number of thresholds reached: r^2 = 1 + sum of 2 k + 1 over them.
        reached = ndtr((latent[:, None] - self.truth.thresholds) / self.truth.noise_sd)
        squares = 1 + reached @ (2.0 * np.arange(1, len(self.truth.thresholds) + 1) + 1)
        return np.maximum(squares - (1 + reached.sum(axis=1)) ** 2, 1e-6)


def fit_user(
    curve: Curve, known: Floats, vectors: Floats, ratings: Floats, penalty: Floats
) -> tuple[Floats, Floats]:
    """Bias and vector of a user, [1 + K], and the covariance of what is uncertain of them.

    Args:
        curve: of the ratings.
        known: [n] item biases.
        vectors: [n, 1 + K] a one and the item's vector.
        ratings: [n].
        penalty: [1 + K] inverse variances.
    """
    found = np.zeros(vectors.shape[1])
    for _ in range(STEPS):
        latent = known + vectors @ found
        slope, variance = curve.slope(latent), curve.variance(latent)
        information = vectors.T @ (vectors * (slope**2 / variance)[:, None]) + np.diag(penalty)
        score = vectors.T @ (slope / variance * (ratings - curve.mean(latent))) - penalty * found
        found = found + np.linalg.solve(information, score)
    return found, np.linalg.inv(information)


def measure(source: Path, data: Path, count: int, seed: int) -> list[Row]:
    """RMSE of biases, of the estimator and of the planted expectation on the same rows."""
    truth, dataset = Truth.read(source), RatingDataset.open(data)
    held, train, curve = dataset.held_out_by_user("valid"), dataset.graph.by_user, Curve(truth)
    levels = dataset.scale.decode(np.arange(dataset.scale.levels)).astype(np.float64)
    ids = np.asarray(dataset.items.ids).astype(np.int64)
    items = truth.item_indices(ids)
    users = np.asarray(dataset.users.ids).astype(np.int64)
    item_bias = truth.item_bias[items].astype(np.float64)
    vectors = np.column_stack((np.ones(len(ids)), truth.item_vectors[items]))
    own = np.column_stack((truth.user_bias, truth.user_vectors))[users].astype(np.float64)
    penalty = 1 / own.var(axis=0)
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    chosen = np.random.default_rng(seed).choice(len(users), min(count, len(users)), replace=False)
    squares = dict.fromkeys(("bias", "known items", "planted"), 0.0)
    rows = 0
    for user in chosen:
        past = slice(train.offsets[user], train.offsets[user + 1])
        near, ratings = train.neighbours[past], levels[train.codes[past]]
        there = slice(held.offsets[user], held.offsets[user + 1])
        wanted, actual = held.neighbours[there], levels[held.codes[there]]
        found, spread = fit_user(curve, item_bias[near], vectors[near], ratings, penalty)
        latent = item_bias[wanted] + vectors[wanted] @ found
        deviation = np.sqrt(np.einsum("ij,jk,ik->i", vectors[wanted], spread, vectors[wanted]))
        biases = dataset.biases
        base = biases.mean + float(biases.users[user]) + biases.items.numpy()[wanted]
        predictions = {
            "bias": np.clip(base, levels[0], levels[-1]),
            "known items": sum(
                weight * curve.mean(latent + point * deviation)
                for point, weight in zip(points, weights, strict=True)
            ),
            "planted": curve.mean(item_bias[wanted] + vectors[wanted] @ own[user]),
        }
        for name, values in predictions.items():
            squares[name] += float(((actual - values) ** 2).sum())
        rows += len(wanted)
    worst, best = squares["bias"], squares["planted"]
    return [
        {
            "by": name,
            "users": len(chosen),
            "rows": rows,
            "rmse": round((total / rows) ** 0.5, 4),
            "gap_closed": round((worst - total) / (worst - best), 4),
        }
        for name, total in squares.items()
    ]


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="what `dglrec synth` wrote")
    parser.add_argument("--data", type=Path, required=True, help="what was prepared from it")
    parser.add_argument("--users", type=int, default=6_000, help="how many to fit")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of users")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows = measure(arguments.source, arguments.data, arguments.users, arguments.seed)
    print_table("ceiling", COLUMNS, rows)
    write_results(arguments.json, rows)


if __name__ == "__main__":
    main()
