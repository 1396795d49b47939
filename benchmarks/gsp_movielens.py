"""The graph-signal model of one film's ratings on MovieLens 100K, beside three plain references.

    python benchmarks/gsp_movielens.py DATA --json benchmarks/results/gsp_movielens.json

DATA is a folder with MovieLens' `u.data`. A sample is a user who rated the target film; its input
are the user's ratings of all other films, 0 where there is none, and its label is the rating of the
target. 10 % of those users are the test, 10 % of the rest validation, at random, anew for each of
10 splits. The model is that of `examples/movieGNN.py` of alelab-upenn/graph-neural-networks (Huang,
Marques and Ribeiro, "Rating prediction via graph signal processing", IEEE Transactions on Signal
Processing 66(19), 2018, has the setting): films are nodes, joined with their 10 nearest by the
Pearson correlation of the training users' ratings; two layers of graph filters, 1 to 64 to 32
features with 5 taps each, ReLU; a linear readout at the target; smooth L1, Adam, batches of 5, 40
epochs. That code's correlation divides by the wrong variance; here it is `dglrec.derived.similar`.

References on the same splits: the training users' mean of the target; a straight line through it by
the mean of the user's other ratings; ridge regression on the other ratings less the film's mean,
so that a film that is not rated counts as rated like the average. Two more rows say what the input
is worth: ridge on the model's own input, and the model on the ridge's.

All are fitted to the training users alone. Validation users choose the epoch and the ridge's
penalty. Predictions are clipped to the scale.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from common import Row, installed, print_table, say, write_results

if TYPE_CHECKING:
    from torch import Tensor

    from dglrec.derived import WeightedAdjacency

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Predictions = tuple[Floats, float]
"""Of all users (NaN where nobody asked), and what validation chose: an epoch or a penalty."""

TARGETS = (50, 258)
HELD = 0.1
PENALTIES = tuple(10 ** (step / 2) for step in range(2, 11))
ITEM_DAMPING = 5.0  # ratings at the mean of all that are added to a film's
_USERS_AT_ONCE = 16  # whose values of the first layer stay in a core's cache
COLUMNS = ("target", "users", "method", "rmse", "sd", "standard_error", "less_than_mean", "chosen")
INSTALLED = ("scipy", "scikit-learn")


class Samples(NamedTuple):
    """The users who rated a target.

    Attributes:
        inputs: float64 [S, I] their ratings, 0 where there is none and for the target.
        labels: float64 [S] their ratings of the target.
        target: its index.
    """

    inputs: Floats
    labels: Floats
    target: int


class Split(NamedTuple):
    """Rows of the samples."""

    train: Rows
    valid: Rows
    test: Rows


class Settings(NamedTuple):
    """Of the graph-signal model."""

    neighbours: int
    shrinkage: float
    features: tuple[int, int]
    taps: int
    epochs: int
    batch: int
    learning_rate: float


def read_samples(folder: Path, target: int) -> Samples:
    """The samples of a target, by its number in `u.data`.

    Raises:
        SystemExit: too few users rated it to be split.
    """
    columns = np.loadtxt(folder / "u.data", dtype=np.int64, usecols=(0, 1, 2), ndmin=2)
    ids, items = np.unique(columns[:, 1], return_inverse=True)
    users = np.unique(columns[:, 0], return_inverse=True)[1]
    table = np.zeros((users.max() + 1, len(ids)))
    table[users, items] = columns[:, 2]
    place = np.flatnonzero(ids == target)
    raters = np.flatnonzero(table[:, place[0]]) if len(place) else place
    if len(raters) < 10:
        raise SystemExit(f"{folder / 'u.data'}: {len(raters)} users rated {target}; 10 are needed")
    inputs, labels = table[raters], table[raters, place[0]]
    inputs[:, place[0]] = 0
    return Samples(inputs, labels, int(place[0]))


def split_of(count: int, seed: int) -> Split:
    """A tenth for the test, a tenth of the rest for validation."""
    order = np.random.default_rng(seed).permutation(count)
    test, rest = np.split(order, [round(HELD * count)])
    valid, train = np.split(rest, [max(1, round(HELD * len(rest)))])
    return Split(train, valid, test)


def film_graph(samples: Samples, train: Rows, settings: Settings) -> "WeightedAdjacency":
    """The graph of films from the training users' ratings, the target's among them."""
    from dglrec.derived import similar
    from dglrec.graph import build_graph
    from dglrec.schema import RatingScale

    table = samples.inputs[train]
    table[:, samples.target] = samples.labels[train]
    users, items = np.nonzero(table)
    scale = RatingScale(1, 5)
    graph = build_graph(
        users,
        items,
        scale.encode(table[users, items]),
        num_users=len(table),
        num_items=table.shape[1],
        scale=scale,
    )
    return similar(
        graph, neighbours=settings.neighbours, shrinkage=settings.shrinkage, normalised=True
    )


def centred(samples: Samples, train: Rows) -> Floats:
    """Inputs less each film's mean over the training users, 0 where there is no rating, [S, I]."""
    known = samples.inputs[train]
    mean = known[known > 0].mean() if known.any() else 0.0
    counts = (known > 0).sum(axis=0)
    means = (known.sum(axis=0) + ITEM_DAMPING * mean) / (counts + ITEM_DAMPING)
    return np.where(samples.inputs > 0, samples.inputs - means, 0)


def item_mean(samples: Samples, split: Split, seed: int, settings: Settings) -> Predictions:
    return np.full(len(samples.labels), samples.labels[split.train].mean()), 0.0


def user_mean(samples: Samples, split: Split, seed: int, settings: Settings) -> Predictions:
    """A straight line by the mean of the user's other ratings."""
    counts = (samples.inputs > 0).sum(axis=1)
    sums, some = samples.inputs.sum(axis=1), counts[split.train] > 0
    of_all = sums[split.train].sum() / max(1, counts[split.train].sum())
    means = np.where(counts > 0, sums / np.maximum(counts, 1), of_all)
    known = split.train[some] if some.any() else split.train
    columns = np.column_stack((np.ones(len(means)), means))
    line = np.linalg.lstsq(columns[known], samples.labels[known], rcond=None)[0]
    return columns @ line, 0.0


def ridge_on(inputs: Floats, samples: Samples, split: Split) -> Predictions:
    """Ridge regression with an intercept; the penalty is chosen on validation users."""
    train = inputs[split.train]
    centre, level = train.mean(axis=0), samples.labels[split.train].mean()
    shifted, labels = train - centre, samples.labels[split.train] - level
    products = shifted @ shifted.T

    def fit(penalty: float) -> Floats:
        dual = np.linalg.solve(products + penalty * np.eye(len(products)), labels)
        return level + (inputs - centre) @ (shifted.T @ dual)

    found = [(fit(penalty), penalty) for penalty in PENALTIES]
    return min(found, key=lambda pair: rmse(pair[0], samples, split.valid))


def ridge(samples: Samples, split: Split, seed: int, settings: Settings) -> Predictions:
    return ridge_on(centred(samples, split.train), samples, split)


def ridge_as_given(samples: Samples, split: Split, seed: int, settings: Settings) -> Predictions:
    return ridge_on(samples.inputs, samples, split)


def gsp(samples: Samples, split: Split, seed: int, settings: Settings) -> Predictions:
    return fit_filters(samples.inputs, samples, split, seed, settings)


def gsp_centred(samples: Samples, split: Split, seed: int, settings: Settings) -> Predictions:
    return fit_filters(centred(samples, split.train), samples, split, seed, settings)


def local_model(settings: Settings, near: "Tensor") -> Any:
    """Two layers of graph filters, read at one node.

    Both filters are linear in shifts. Those of the inputs are the same in every step, and of the
    second layer's output one node is read, so that a step shifts nothing: the second layer at the
    target is a sum of the first layer's values, weighed by the target's rows of A^k.

    Args:
        settings: the model's.
        near: float32 [K, N] the target's rows of A^k.
    """
    import torch
    from torch import nn

    from dglrec.nn import GraphFilterConv

    class LocalModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second = settings.features
            self.first = GraphFilterConv(1, first, settings.taps)
            self.second = GraphFilterConv(first, second, settings.taps)
            self.readout = nn.Linear(second, 1)

        def forward(self, shifted: "Tensor") -> "Tensor":
            """[B, N, K, 1] shifts of inputs -> [B] ratings of the target."""
            hidden = torch.relu(self.first.combine(shifted))
            at_target = torch.einsum("kn,bnf->bkf", near, hidden)
            out: Tensor = self.readout(torch.relu(self.second.combine(at_target)))
            return out.squeeze(1)

    return LocalModel()


def shifts_of(
    inputs: Floats, adjacency: "WeightedAdjacency", target: int, taps: int
) -> "tuple[Tensor, Tensor]":
    """What `local_model` reads: shifts of all inputs and the target's rows of A^k.

    Films that the second layer does not read at the target are left out.

    Returns:
        float32 [S, N, K, 1] and [K, N].
    """
    import torch

    from dglrec.nn import shifts

    edges = adjacency.edges()
    at_target = torch.zeros(adjacency.num_nodes, 1)
    at_target[target] = 1
    # A is symmetric, so its powers' rows are their columns.
    near = shifts(edges, at_target, taps).squeeze(2).T
    read = near.any(dim=0)
    values = torch.from_numpy(inputs.T.astype(np.float32)).unsqueeze(2)
    shifted = shifts(edges, values, taps)[read]
    return shifted.transpose(0, 1).contiguous(), near[:, read].contiguous()


def fit_filters(
    inputs: Floats, samples: Samples, split: Split, seed: int, settings: Settings
) -> Predictions:
    """Train the graph-signal model; of its epochs the best on validation users."""
    import torch
    from torch.nn import functional

    from dglrec.machine import keep_freed_memory

    torch.manual_seed(seed)
    adjacency = film_graph(samples, split.train, settings)
    shifted, near = shifts_of(inputs, adjacency, samples.target, settings.taps)
    labels = torch.from_numpy(samples.labels).float()
    model = local_model(settings, near)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    train = torch.from_numpy(split.train)
    keep_freed_memory()

    def predict(rows: Rows) -> None:
        with torch.no_grad():
            parts = [model(shifted[some]) for some in torch.from_numpy(rows).split(_USERS_AT_ONCE)]
        found[rows] = torch.cat(parts).double().numpy()

    found, best = np.full(len(labels), np.nan), np.full(len(labels), np.nan)
    chosen, lowest = 0, np.inf
    for epoch in range(1, settings.epochs + 1):
        for batch in train[torch.randperm(len(train))].split(settings.batch):
            loss = functional.smooth_l1_loss(model(shifted[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        predict(split.valid)
        error = rmse(found, samples, split.valid)
        if error < lowest:
            predict(split.test)
            best, chosen, lowest = found.copy(), epoch, error
    return best, float(chosen)


METHODS: dict[str, Callable[[Samples, Split, int, Settings], Predictions]] = {
    "item mean": item_mean,
    "line by the user's mean": user_mean,
    "ridge on the other ratings": ridge,
    "ridge, 0 where not rated": ridge_as_given,
    "graph filters": gsp,
    "graph filters, ratings less the film's mean": gsp_centred,
}


def rmse(predictions: Floats, samples: Samples, rows: Rows) -> float:
    """Root mean square error on some rows, predictions clipped to the scale."""
    return float(np.sqrt(np.mean((predictions[rows].clip(1, 5) - samples.labels[rows]) ** 2)))


def spread_of(values: Floats) -> tuple[float, float]:
    """Standard deviation and standard error of a mean; 0 of a single value."""
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return deviation, deviation / len(values) ** 0.5


def measure(samples: Samples, target: int, splits: int, settings: Settings) -> list[Row]:
    """A row for each method: mean, standard deviation and standard error over the splits."""
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    choices: dict[str, list[float]] = {name: [] for name in METHODS}
    for seed in range(splits):
        split = split_of(len(samples.labels), seed)
        for name, method in METHODS.items():
            predictions, chosen = method(samples, split, seed, settings)
            errors[name].append(rmse(predictions, samples, split.test))
            choices[name].append(chosen)
        say(f"{target}, split {seed}: " + ", ".join(f"{n} {e[-1]:.3f}" for n, e in errors.items()))
    rows = []
    for name, values in errors.items():
        deviation, error = spread_of(np.array(values))
        less = np.array(errors["item mean"]) - np.array(values)
        row = {
            "target": target,
            "users": len(samples.labels),
            "method": name,
            "rmse": round(float(np.mean(values)), 4),
            "sd": round(deviation, 4),
            "standard_error": round(error, 4),
            "less_than_mean": round(float(less.mean()), 4),
            "less_than_mean_error": round(spread_of(less)[1], 4),
            "splits": splits,
            "rmse_of_splits": [round(value, 4) for value in values],
        }
        if any(choices[name]):
            row["chosen"] = float(np.median(choices[name]))
        rows.append(row)
    return rows


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of MovieLens' u.data")
    parser.add_argument("--target", type=int, nargs="+", default=list(TARGETS), help="films")
    parser.add_argument("--splits", type=int, default=10, help="of each film's raters")
    parser.add_argument("--neighbours", type=int, default=10, help="of each film")
    parser.add_argument("--shrinkage", type=float, default=10.0, help="of correlations, in raters")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    settings = Settings(
        neighbours=arguments.neighbours,
        shrinkage=arguments.shrinkage,
        features=(64, 32),
        taps=5,
        epochs=arguments.epochs,
        batch=5,
        learning_rate=5e-3,
    )
    rows: list[Row] = []
    for target in arguments.target:
        samples = read_samples(arguments.data, target)
        rows += measure(samples, target, arguments.splits, settings)
    print_table("ratings of one film", COLUMNS, rows)
    versions = {name: installed(name) for name in INSTALLED}
    write_results(arguments.json, rows, settings=settings._asdict(), versions=versions)


if __name__ == "__main__":
    main()
