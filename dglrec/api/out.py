"""Tables of a model's results -> data frames for the caller."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.dataset import RatingDataset
from dglrec.ids import to_type
from dglrec.ingest import ID_NAMES, Frame


def in_order_of(given: Frame | None, table: pa.Table, name: str) -> pa.Table:
    """A table's rows in the order in which users, or items, were given; unchanged for None."""
    if given is None:
        return table
    column = next(alias for alias in ID_NAMES[name] if alias in given.table.column_names)
    ids = schema.check_ids(given.table.column(column), column, source=str(given), first_row=1)
    places = pc.index_in(table.column(name), to_type(ids, table.column(name).type).unique())
    return table.take(pa.array(np.argsort(places.to_numpy(), kind="stable")))


def titled(table: pa.Table, name: str, dataset: RatingDataset) -> pd.DataFrame:
    """A table with titles behind a column of items; the id stands in for a missing title."""
    ids = table.column(name)
    at = dataset.items.encode(ids)
    titles = dataset.titles.cast(pa.string()).take(pa.array(at, mask=at < 0))
    titles = pc.coalesce(titles, ids.cast(pa.string()))
    place = table.column_names.index(name) + 1
    return to_pandas(table.add_column(place, schema.TITLE, titles))


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A table as a pandas frame."""
    frame: pd.DataFrame = table.to_pandas()
    return frame


def figures_frame(report: Mapping[str, Any]) -> pd.DataFrame:
    """A report's figures: a row for the model, and a row for each baseline."""
    rows = {"model": report, **report.get("baselines", {})}
    figures = [
        {
            name: figure
            for name, figure in row.items()
            if isinstance(figure, int | float) and not isinstance(figure, bool)
        }
        for row in rows.values()
    ]
    frame: pd.DataFrame = pd.DataFrame(figures, index=list(rows))
    frame.index.name = "predictor"
    return frame
