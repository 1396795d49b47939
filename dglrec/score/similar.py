"""The items most like an item by the model's embeddings, as a table or as a Parquet file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.files import atomic_file, check_target_file, disk_errors
from dglrec.infer import comparable_items, nearest_items
from dglrec.ingest import Given, find
from dglrec.ingest.stream import open_anywhere
from dglrec.places import Place, store_errors
from dglrec.progress import counted, log, progress
from dglrec.run import Predictor, TrainedBaseline, TrainedModel
from dglrec.score.fitted import refused
from dglrec.score.listed import Unknown, listed

_ITEMS_AT_ONCE, _ROWS_AT_ONCE = 1 << 13, 1 << 18
_SHOWN = 3


def similar_table(
    trained: Predictor, items: Given | None, k: int, unknown: Unknown = "error"
) -> pa.Table:
    """The k items whose embeddings are most similar to an item's; see `infer.nearest_items`.

    Items of which the model reads nothing are similar to no item; see `infer.comparable_items`.

    Args:
        trained: a run's model.
        items: a table with a column `item_id`, the items to find similar items of; None for all
            that can be compared.
        k: the number of similar items for each.
        unknown: how items are treated that the data set does not have, or that cannot be compared:
            `error` or `skip`.

    Returns:
        `item_id, similar_id, rank, similarity`, item by item in ascending order.

    Raises:
        UsageError: the model has no vectors of items, or k is not from 1 to the number of other
            items that can be compared.
        DataError: the table is bad; an item is unknown or cannot be compared where that is an
            error; or no item is left.
    """
    return pa.concat_tables(_SimilarJob.of(trained, items, k, unknown).parts()).combine_chunks()


def write_similar(
    trained: Predictor,
    out: Place,
    items: Given | None,
    k: int,
    unknown: Unknown = "error",
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the rows of `similar_table` as one Parquet file, which appears whole or not at all.

    The rows are written while they are found: memory does not grow with their number.

    Args:
        trained: as in `similar_table`.
        out: the file, local or in a store.
        items: as in `similar_table`.
        k: likewise.
        unknown: likewise.
        overwrite: whether an earlier file of similar items may be replaced.

    Returns:
        `out`; `items`, the number of items that the file has similar items of; `left_out`, how many
        others were asked for that cannot be compared; and `rows`.

    Raises:
        UsageError: as `similar_table`, or the file cannot be written there.
        DataError: as `similar_table`.
        DglrecError: the disk is full.
    """
    check_target_file(out, _is_ours, "file of dglrec similar", overwrite=overwrite)
    job = _SimilarJob.of(trained, None if items is None else find(items), k, unknown)
    if isinstance(out, Path):
        with disk_errors(out):
            out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary, pq.ParquetWriter(temporary, job.columns) as writer:
        for part in job.parts():
            writer.write_table(part)
    rows = len(job.wanted) * k
    return {"out": str(out), "items": len(job.wanted), "left_out": job.left_out, "rows": rows}


@dataclass(frozen=True)
class _SimilarJob:
    """The items to find similar items of.

    Attributes:
        trained: the model.
        comparable: int64 [C] the items that can be compared, ascending.
        wanted: int64 [n] those of them to find similar items of, ascending.
        left_out: how many items were asked for that cannot be compared.
        k: the number of similar items for each.
    """

    trained: TrainedModel
    comparable: Tensor
    wanted: Tensor
    left_out: int
    k: int

    @classmethod
    def of(cls, trained: Predictor, items: Given | None, k: int, unknown: Unknown) -> "_SimilarJob":
        """Check what is asked for; the errors are those of `similar_table`."""
        if isinstance(trained, TrainedBaseline):
            raise refused(trained, "similar_items")
        if trained.model.config.convolution == "graph_filter":
            raise UsageError(
                "model.convolution = graph_filter: the model has no vectors of items to compare"
            )
        dataset = trained.dataset
        can_be = comparable_items(trained.model, dataset.graph, trained.directions)
        comparable = can_be.nonzero().squeeze(1)
        if not 1 <= k < len(comparable):
            known_by = "" if can_be.all() else " with a training row, or else known to the model"
            raise UsageError(
                f"k = {k}: must be from 1 to {len(comparable) - 1}, the number of other items"
                f"{known_by}"
            )
        asked = listed(items, schema.ITEM_ID, dataset.items, unknown, dataset.column_names)
        wanted, others = asked[can_be[asked]], asked[~can_be[asked]]
        count = counted(len(others), "item")
        if items is not None and len(others) and (unknown == "error" or not len(wanted)):
            some = dataset.items.decode(others[:_SHOWN].numpy()).to_pylist()
            mend = "; --unknown skip goes on without them" if len(wanted) else ""
            raise DataError(
                f"{items}: item_id {', '.join(map(str, some))} ({count} in all): no training row, "
                f"nor anything else that the model reads, so nothing is similar{mend}"
            )
        if len(others):
            log(f"{count} left out: no training row, nor anything else that the model reads")
        return cls(trained, comparable, wanted, len(others), k)

    @property
    def columns(self) -> pa.Schema:
        """The names and types of the columns."""
        ids = self.trained.dataset.items.ids.type
        kinds = {
            schema.ITEM_ID: ids,
            schema.SIMILAR_ID: ids,
            schema.RANK: pa.int32(),
            schema.SIMILARITY: pa.float32(),
        }
        return pa.schema(kinds)

    def parts(self) -> Iterator[pa.Table]:
        """The rows, those of some items at once."""
        ids, vectors = self.trained.dataset.items, self.trained.embeddings.nodes.items
        at_once = max(1, min(_ITEMS_AT_ONCE, _ROWS_AT_ONCE // self.k))
        with progress("finding similar items", len(self.wanted), "items") as advance:
            for some in self.wanted.split(at_once):
                similarities, nearest = nearest_items(vectors, some, self.k, self.comparable)
                ranks = torch.arange(1, self.k + 1, dtype=torch.int32).expand_as(nearest)
                arrays = [
                    ids.decode(some.repeat_interleave(self.k).numpy()),
                    ids.decode(nearest.flatten().numpy()),
                    pa.array(ranks.flatten().numpy()),
                    pa.array(similarities.flatten().numpy()),
                ]
                yield pa.Table.from_arrays(arrays, schema=self.columns)
                advance(len(some))


def _is_ours(file: Place) -> bool:
    """Whether a file is one of `write_similar`, by its columns."""
    try:
        with store_errors(file), open_anywhere(file) as source:
            names: list[str] = pq.read_schema(source).names
    except pa.ArrowInvalid:  # no Parquet
        return False
    return names == [schema.ITEM_ID, schema.SIMILAR_ID, schema.RANK, schema.SIMILARITY]
