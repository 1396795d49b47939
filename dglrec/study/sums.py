"""A run's figures summed by user, stored so that the table needs no second prediction."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dglrec import schema
from dglrec.baselines import Popularity
from dglrec.compare import (
    UserSums,
    figures,
    list_sums,
    predict_rows,
    rows_of_run,
    user_sums,
)
from dglrec.dataset import HeldOut, RatingDataset
from dglrec.errors import DataError
from dglrec.evaluate import RankingTargets, baselines
from dglrec.evaluate.ranking import check_ranking
from dglrec.files import atomic_file
from dglrec.run import Predictor

_COUNT = "n"
_NOTES = ("split", "rows", "weights")
_BASELINE = "baseline"


@dataclass(frozen=True)
class RunSums:
    """Sums of a run's errors, or of the figures of its lists.

    Attributes:
        sums: by user; the U users with rows are numbered 0..U-1 in the order of their ids.
        user_ids: [U] external ids.
        split: the split of the rows.
        rows: identifies the rows independently of the data set: SHA-256 of ids and ratings.
        weights: identifies the model: the checksum of its weights.
        baseline: the first metric of the bias baseline, or of lists of the most popular items; None
            where it is not known for these users.
    """

    sums: UserSums
    user_ids: pa.Array
    split: str
    rows: str
    weights: str
    baseline: float | None

    def of_few(self, dataset: RatingDataset, at_most: int) -> "RunSums":
        """The sums of users with few training ratings.

        Args:
            dataset: the data set of the run.
            at_most: the largest number of training ratings of such a user.

        Raises:
            DataError: there is no such user.
        """
        degrees = dataset.graph.by_user.degrees[dataset.users.encode(self.user_ids)]
        few = np.flatnonzero(degrees <= at_most)
        if not len(few):
            raise DataError(f"no user of {self.split} has at most {at_most} training ratings")
        user_ids = self.user_ids.take(pa.array(few))
        # The identity of the rows includes the ids, since runs with other training rows have other
        # users with few ratings.
        named = json.dumps([self.rows, at_most, user_ids.to_pylist()])
        return replace(
            self,
            sums=UserSums(
                np.arange(len(few)), self.sums.n[few], self.sums.metrics, self.sums.sums[few]
            ),
            user_ids=user_ids,
            rows=hashlib.sha256(named.encode()).hexdigest(),
            baseline=None,
        )


def sums_of_run(trained: Predictor, run: Path, split: str, ranking: int | None = None) -> RunSums:
    """Predict a run's held-out rows and sum its errors, or make its lists and sum their figures.

    Args:
        trained: the run's model.
        run: its folder, for messages.
        split: `test` or `valid`.
        ranking: the length of lists; None for predicted ratings.

    Raises:
        DataError: there are no rows.
        UsageError: the model predicts no ratings, or no row is relevant.
        DglrecError: a prediction is not finite.
    """
    dataset = trained.dataset
    rows = rows_of_run(trained, run, split)
    # The same order for all data sets that hold these rows, so that sums are equal to the bit.
    order = np.lexsort((rows.ratings.numpy(), rows.items.numpy(), rows.users.numpy()))
    places = torch.from_numpy(order)
    rows = HeldOut(rows.users[places], rows.items[places], rows.ratings[places])
    name = _name_of(rows, dataset)
    if ranking is None:
        found = user_sums(predict_rows(trained, run, rows), rows, dataset.scale, len(dataset.users))
        baseline = float(baselines(dataset, rows)["bias"]["rmse"])
    else:
        level = check_ranking(dataset, split, [ranking], None)
        targets = RankingTargets.of(dataset, split, level)
        found = list_sums(trained.best, targets, ranking, f"lists of {run}")
        baseline = float(figures(list_sums(Popularity(dataset.graph).best, targets, ranking))[0])
        # Figures of lists also depend on which ratings are relevant.
        name = hashlib.sha256(f"{name} {level:g}".encode()).hexdigest()
    return RunSums(
        sums=replace(found, users=np.arange(len(found))),
        user_ids=dataset.users.decode(found.users),
        split=split,
        rows=name,
        weights=str(trained.identity["weights"]),
        baseline=baseline,
    )


def save_sums(path: Path, found: RunSums) -> None:
    """Write sums as Parquet, with a row for each user."""
    sums = found.sums
    columns = dict(zip(sums.metrics, sums.sums.T, strict=True))
    table = pa.table({schema.USER_ID: found.user_ids, _COUNT: sums.n, **columns})
    notes = {name: str(getattr(found, name)) for name in _NOTES}
    notes[_BASELINE] = repr(found.baseline)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(notes), temporary)


def load_sums(path: Path, metrics: Sequence[str]) -> RunSums:
    """Read what `save_sums` wrote.

    Args:
        path: the file.
        metrics: the metrics that it must hold.

    Raises:
        DataError: the file is missing, damaged, or holds other metrics.
    """
    try:
        table = pq.read_table(path)
        notes = {name: table.schema.metadata[name.encode()].decode() for name in _NOTES}
        baseline = float(table.schema.metadata[_BASELINE.encode()])
        count, *parts = (
            table.column(name).to_numpy().astype(np.float64) for name in (_COUNT, *metrics)
        )
        user_ids = table.column(schema.USER_ID).combine_chunks()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())})") from error
    sums = UserSums(np.arange(len(table)), count, tuple(metrics), np.column_stack(parts))
    return RunSums(sums, user_ids, **notes, baseline=baseline)


def _name_of(rows: HeldOut, dataset: RatingDataset) -> str:
    """SHA-256 of ordered rows: ids of their users and items, positions among these, ratings."""
    digest = hashlib.sha256(json.dumps(dataset.scale.to_dict()).encode())
    for ids, indices in ((dataset.users, rows.users), (dataset.items, rows.items)):
        present, places = np.unique(indices.numpy(), return_inverse=True)
        digest.update(json.dumps(ids.decode(present).to_pylist()).encode())
        digest.update(places.astype("<i8").tobytes())
    digest.update(rows.ratings.numpy().astype("<f4").tobytes())
    return digest.hexdigest()
