"""Tables given later may call their columns as the table of ratings did."""

import itertools

import numpy as np
import pandas as pd
import pytest
from runs import make_settings

from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError
from dglrec.run import open_run
from dglrec.score import (
    ScoreOptions,
    TopKOptions,
    recommend,
    score_pairs,
    score_top_k,
    similar_table,
)
from dglrec.train import train

NAMES = {"user_id": "visitor", "item_id": "sku", "rating": "stars"}


@pytest.fixture(scope="module", params=["ratings", "interactions"])
def trained(request, tmp_path_factory):
    """A model of 1 epoch whose data set's columns have other names than the schema's."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 25)[:600]
    frame = pd.DataFrame({"visitor": pairs // 25 + 1, "sku": pairs % 25 + 100})
    columns = {"user": "visitor", "item": "sku"}
    if request.param == "ratings":
        frame["stars"] = rng.integers(1, 6, len(frame))
        columns["rating"] = "stars"
    frame.to_csv(folder / "rows.csv", index=False)
    frame[["sku"]].drop_duplicates().assign(tags="a, b").to_csv(folder / "items.csv", index=False)
    options = PrepareOptions(text=False, columns=columns, item_table=folder / "items.csv")
    dataset = prepare(folder / "rows.csv", folder / "data", options)
    heads = "both" if request.param == "ratings" else "lists"
    settings = make_settings({"item_features": True, "heads": heads}, epochs=1)
    train(dataset, folder / "run", settings)
    return open_run(folder / "run")


@pytest.fixture
def tables(trained, tmp_path):
    """A table under both kinds of names: the paths of the two files."""

    numbers = itertools.count()

    def write(**columns):
        number = next(numbers)
        frame = pd.DataFrame(columns)
        if not trained.dataset.has_ratings:
            frame = frame.drop(columns="rating", errors="ignore")
        found = []
        for name, names in (("schema", {}), ("own", NAMES)):
            found.append(tmp_path / f"{number}-{name}.csv")
            frame.rename(columns=names).to_csv(found[-1], index=False)
        return found

    return write


def read(folder):
    return pd.read_parquet(folder)


def test_every_table_of_scoring_is_read_under_either_name(trained, tables, tmp_path):
    ratings = tables(user_id=[900, 900, 901], item_id=[100, 101, 102], rating=[5, 1, 4])
    users, items = tables(user_id=[1, 2, 900]), tables(item_id=[100, 104, 105, 777])
    new_items = tables(item_id=[777], tags=["a"])
    pairs = tables(user_id=[1, 900], item_id=[100, 777])
    found = []
    for which in (0, 1):
        asked = {"ratings": ratings[which], "new_items": new_items[which]}
        options = TopKOptions(users=users[which], items=items[which], **asked)
        score_top_k(trained, tmp_path / f"lists-{which}", 2, options)
        score_pairs(trained, tmp_path / f"pairs-{which}", pairs[which], ScoreOptions(**asked))
        one = recommend(trained, None, 3, ratings=tables(item_id=[100], rating=[5])[which])
        alike = similar_table(trained, tables(item_id=[100])[which], 2).to_pandas()
        found.append((read(tmp_path / f"lists-{which}"), read(tmp_path / f"pairs-{which}")))
        found[-1] += (one, alike)
    for with_schema_names, with_own_names in zip(*found, strict=True):
        if isinstance(with_schema_names, pd.DataFrame):
            pd.testing.assert_frame_equal(with_schema_names, with_own_names)
        else:
            assert with_schema_names == with_own_names


def test_a_column_of_neither_name_is_named(trained, tmp_path):
    (tmp_path / "pairs.csv").write_text("visitor,thing\n1,100\n")
    with pytest.raises(DataError, match=r"no column item_id; found visitor, thing"):
        score_pairs(trained, tmp_path / "out", tmp_path / "pairs.csv")
