"""What is known of users that training never saw: `--user-table` of `recommend` and `score`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from runs import make_settings

from dglrec.config import load_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.run import open_predictor
from dglrec.score import ScoreOptions, TopKOptions, recommend, score_pairs, score_top_k
from dglrec.score.relation_reasons import RelationReason
from dglrec.train import train

USERS, ITEMS = 60, 16
ROW = {"age": 40, "home": "south", "name": "Jo"}


def write(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def row_of(user):
    return {"age": 20 + user % 40, "home": ("north", "south", "west")[user % 3], "name": f"N{user}"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    rng = np.random.default_rng(4)
    rows = [
        {"user_id": user, "item_id": item, "rating": int(rng.integers(1, 6))}
        for user in range(USERS)
        for item in rng.choice(ITEMS, 8, replace=False)
    ]
    table = [{"user_id": user, **row_of(user)} for user in range(USERS)]
    options = PrepareOptions(
        text=False, split="user", test=0.2, user_table=write(folder / "users.csv", table)
    )
    return prepare(write(folder / "ratings.csv", rows), folder / "data", options)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def run(name, unseen=0.2, **model):
        loader = {"unseen_users": unseen, "unseen_items": 0.0, "batch_size": 100}
        train(dataset, folder / name, make_settings({"heads": "both", **model}, loader, epochs=2))
        return open_predictor(folder / name)

    return {
        "features": run("features"),
        "nodes": run("nodes", user_features=("age",), relations=("has_home",)),
        "neither": run("neither", user_features=False),
        "derived": run("derived", 0.0, graph_features=True, relations=("visited_with",)),
    }


def unrated(dataset):
    """Users of the data set of whom training knows what they are, and no rating."""
    return np.flatnonzero(dataset.graph.by_user.degrees == 0).tolist()


def scores(folder):
    return pq.read_table(folder).to_pandas().set_index(["user_id", "item_id"])["score"]


@pytest.mark.parametrize("name", ["features", "nodes"])
def test_new_users_without_ratings_get_what_known_ones_like_them_get(runs, name, tmp_path):
    """The same rows under new ids: what held-out users of the data set are predicted."""
    trained = runs[name]
    twins = unrated(trained.dataset)
    assert len(twins) >= 5
    table = write(tmp_path / "t.csv", [{"user_id": 500 + user, **row_of(user)} for user in twins])
    pairs = [
        {"user_id": id_, "item_id": item}
        for user in twins
        for id_ in (user, 500 + user)
        for item in range(ITEMS)
    ]
    pairs_file = write(tmp_path / "pairs.csv", pairs)
    score_pairs(trained, tmp_path / "out", pairs_file, ScoreOptions(user_table=table))
    found = scores(tmp_path / "out").unstack()
    np.testing.assert_allclose(found.loc[twins], found.loc[[500 + user for user in twins]], 1e-5)
    assert found.loc[twins].std(axis=0).max() > 1e-4  # they are not all alike
    # Lists are ordered by the other head.
    options = TopKOptions(user_table=table, include_seen=True)
    score_top_k(trained, tmp_path / "lists", ITEMS, options)
    lists = scores(tmp_path / "lists").unstack()
    np.testing.assert_allclose(lists.loc[twins], lists.loc[[500 + user for user in twins]], 1e-5)


@pytest.mark.parametrize("name", ["features", "nodes"])
def test_ratings_and_rows_make_one_user_alone_and_in_bulk(runs, name, tmp_path, capsys):
    trained = runs[name]
    rated = [{"user_id": 900, "item_id": item, "rating": 5 - item} for item in range(3)]
    ratings = write(tmp_path / "r.csv", [*rated, {"user_id": 902, "item_id": 1, "rating": 2}])
    rows = [{"user_id": 901, **ROW}, {"user_id": 900, **ROW, "home": "west"}]
    table = write(tmp_path / "t.csv", rows)
    options = TopKOptions(ratings=ratings, user_table=table)
    score_top_k(trained, tmp_path / "out", 4, options)
    said = capsys.readouterr().err
    assert f"{ratings}: 1 users have no row in {table}; their attributes are unknown" in said
    assert "column name is not read" in said and "nobody's" not in said
    frame = pq.read_table(tmp_path / "out").to_pandas()
    assert frame["user_id"].drop_duplicates().tolist() == [*range(USERS), 900, 901, 902]
    own = write(tmp_path / "own.csv", [{"item_id": 0, **one} for one in rated])
    for user, options in ((900, {"ratings": own}), (901, {})):
        alone = recommend(trained, str(user), 4, user_table=table, **options)
        bulk = frame[frame["user_id"] == user]
        assert [one.item_id for one in alone] == bulk["item_id"].tolist()
        np.testing.assert_allclose([one.score for one in alone], bulk["score"], 1e-4)
        np.testing.assert_allclose([one.rating for one in alone], bulk["rating"], 1e-4)
        assert not {0, 1, 2} & {one.item_id for one in alone} or user == 901
    plain = recommend(trained, None, 4, ratings=own)
    assert [one.score for one in plain] != [
        one.score for one in recommend(trained, "900", 4, user_table=table, ratings=own)
    ]


def test_a_user_need_not_be_named(runs, tmp_path):
    named = write(tmp_path / "named.csv", [{"user_id": 900, **ROW}])
    nameless = write(tmp_path / "nameless.csv", [ROW])
    found = [recommend(runs["features"], None, 3, user_table=one) for one in (named, nameless)]
    assert found[0] == found[1]
    assert recommend(runs["features"], "900", 3, user_table=named) == found[0]


@pytest.mark.parametrize("name", ["features", "nodes"])
def test_reasons_are_those_of_the_user_without_each_rating(runs, name, tmp_path):
    trained = runs[name]
    table = write(tmp_path / "t.csv", [ROW])
    rows = [{"item_id": item, "rating": rating} for item, rating in ((1, 5), (2, 1), (3, 4))]

    def scored(kept, **options):
        file = write(tmp_path / "mine.csv", kept)
        return recommend(trained, None, ITEMS, ratings=file, user_table=table, **options)

    best = scored(rows, explain=True)
    without = {
        one["item_id"]: {
            other.item_id: other.score for other in scored([row for row in rows if row is not one])
        }
        for one in rows
    }
    assert any(one.because for one in best)
    for one in best:
        for reason in one.because:
            lost = one.score - without[reason.item_id][one.item_id]
            assert reason.contribution == pytest.approx(lost, abs=1e-4)


@pytest.mark.parametrize("name", ["features", "nodes"])
def test_of_known_users_counts_what_the_data_set_says(runs, name, tmp_path, capsys):
    trained = runs[name]
    user = unrated(trained.dataset)[0]
    other = {"user_id": user, **ROW, "home": "nowhere", "age": 99}
    table = write(tmp_path / "t.csv", [other])
    plain = recommend(trained, str(user), 3)
    assert recommend(trained, str(user), 3, user_table=table) == plain
    assert recommend(trained, None, 3, user_table=table) == plain
    assert f"user {user} is known; what the data set says of it counts" in capsys.readouterr().err
    score_top_k(trained, tmp_path / "out", 3, TopKOptions(user_table=table))
    assert "1 users are known; what the data set says of them counts" in capsys.readouterr().err
    score_top_k(trained, tmp_path / "plain", 3)
    assert scores(tmp_path / "out").equals(scores(tmp_path / "plain"))
    # With ratings of its own, what it is comes from the data set all the same.
    mine = write(tmp_path / "mine.csv", [{"item_id": 1, "rating": 5}])
    same = write(tmp_path / "same.csv", [{"user_id": 900, **row_of(user)}])
    found = recommend(trained, str(user), 3, ratings=mine, user_table=table)
    left = {one.item_id: one.score for one in found}
    like = {
        one.item_id: one.score
        for one in recommend(trained, "900", ITEMS, ratings=mine, user_table=same)
    }
    assert left == pytest.approx({item: like[item] for item in left}, abs=1e-5)


def test_what_is_unknown_is_counted_and_said(runs, tmp_path, capsys):
    rows = [{"user_id": 900 + n, "home": home} for n, home in enumerate(("moon", "sun", "west"))]
    table = write(tmp_path / "t.csv", rows)
    score_top_k(runs["features"], tmp_path / "out", 3, TopKOptions(user_table=table))
    said = capsys.readouterr().err
    assert f"{table}: labels that training did not see, which count as none: home 2" in said
    assert f"{table}: no column age, which the model reads; it counts as unknown" in said
    assert "no column name" not in said
    # Somebody of whom everything is unknown is nobody.
    blank = write(tmp_path / "blank.csv", [{"home": "moon"}])
    mine = write(tmp_path / "mine.csv", [{"item_id": 1, "rating": 5}])
    found = recommend(runs["features"], None, 3, ratings=mine, user_table=blank)
    assert found == recommend(runs["features"], None, 3, ratings=mine)


def test_what_was_made_from_training_rows_is_no_column_of_a_table(runs, tmp_path, capsys):
    trained = runs["derived"]
    table = write(tmp_path / "t.csv", [{"age": 40, "home": "west"}])
    mine = write(tmp_path / "mine.csv", [{"item_id": 1, "rating": 5}, {"item_id": 2, "rating": 1}])
    found = recommend(trained, None, ITEMS, ratings=mine, user_table=table, explain=True)
    assert "no column" not in capsys.readouterr().err
    plain = recommend(trained, None, ITEMS, ratings=mine)
    assert [one.score for one in found] != [one.score for one in plain]
    told = [reason for one in found for reason in one.relations]
    # Whether a contribution is above 0 depends on the user; what it is called does not.
    assert all(reason.text.startswith("visited_with ") for reason in told)
    assert RelationReason("similar", "item", ("A", "B"), 3, 0.1).text == "similar A, B and 1 more"


@pytest.mark.parametrize(
    ("rows", "user", "message"),
    [
        ([ROW | {"user_id": 1, "shoes": 2}], None, "no shoes of users; it has age, home, name"),
        ([ROW | {"user_id": one} for one in (900, 901)], None, "holds 2 users; name one"),
        ([ROW | {"user_id": 900}], "901", "has no row of user 901"),
        ([ROW | {"user_id": 900}] * 2, "900", "has several rows of user 900"),
        ([ROW] * 2, None, "no column user_id"),
        (
            [ROW | {"user_id": 900, "age": "old"}],
            "900",
            "column age holds a value that is not a number",
        ),
    ],
)
def test_bad_tables_are_refused(runs, rows, user, message, tmp_path):
    table = write(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=message) as raised:
        recommend(runs["features"], user, 3, user_table=table)
    assert str(table) in str(raised.value)


def test_ids_of_another_type_and_ids_twice_are_refused(runs, tmp_path):
    for ids, message in (
        (("x",), "row 2: user_id is no whole number"),
        ((900, 900), "id 900 is there twice"),
    ):
        table = write(tmp_path / "t.csv", [{"user_id": one, **ROW} for one in ids])
        with pytest.raises(DataError, match=message):
            score_top_k(runs["features"], tmp_path / "out", 3, TopKOptions(user_table=table))
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_look_at_users_refuse_tables(dataset, runs, tmp_path):
    table = write(tmp_path / "t.csv", [{"user_id": 900, **ROW}])
    options = TopKOptions(user_table=table)
    with pytest.raises(UsageError, match=r"the data set has age, home, name: train with model"):
        score_top_k(runs["neither"], tmp_path / "out", 3, options)
    train(dataset, tmp_path / "bias", load_settings(file=Path("bias")))
    bias = open_predictor(tmp_path / "bias")
    with pytest.raises(UsageError, match="--user-table needs a graph model"):
        score_top_k(bias, tmp_path / "out", 3, options)
    with pytest.raises(UsageError, match="--user-table needs a graph model"):
        recommend(bias, "1", 3, user_table=table)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_scores_belongs_to_its_table(runs, tmp_path):
    table = write(tmp_path / "t.csv", [{"user_id": 900, **ROW}])
    options = TopKOptions(user_table=table)
    score_top_k(runs["features"], tmp_path / "out", 3, options)
    write(table, [{"user_id": 900, **ROW, "age": 41}])
    with pytest.raises(UsageError, match="user_table"):
        score_top_k(runs["features"], tmp_path / "out", 3, options)
