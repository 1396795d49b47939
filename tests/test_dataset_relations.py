"""What is known beside ratings: relations and attributes in a prepared data set."""

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from proofs import as_of_an_earlier_version, read_meta, sign

from dglrec.dataset import DATASET_FILE, PrepareOptions, RatingDataset, attributes, prepare
from dglrec.errors import DataError, UsageError
from dglrec.features import Kind
from dglrec.graph import to_heterograph
from dglrec.ingest import read_attributes

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real data sets are not on this machine"
)
NO_TEXT = PrepareOptions(text=False)
USERS, ITEMS = range(1, 21), range(100, 115)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def ratings(folder, timestamps=True):
    """Each user rates three of four items, the later ones later."""
    rng = np.random.default_rng(3)
    pairs = [(user, item) for user in USERS for item in ITEMS if (user + item) % 4]
    lines = [
        f"{user},{item},{rng.integers(1, 6)}{f',{1000 + n}' if timestamps else ''}\n"
        for n, (user, item) in enumerate(pairs)
    ]
    header = f"user_id,item_id,rating{',timestamp' if timestamps else ''}\n"
    return write(folder / "ratings.csv", header + "".join(lines))


def item_table(folder):
    """A category and tags that repeat, a year, a day, and a name that does not repeat."""
    rows = [
        f'{item},{"AB"[n % 2]},"t{n % 3}, t{n % 4 + 3}",{1990 + n}.5,200{n % 9}-01-09,N{n}'
        for n, item in enumerate(ITEMS)
    ]
    header = "item_id,Category,tags,year,released,maker\n"
    return write(folder / "items.csv", header + "\n".join(rows) + "\n")


def user_table(folder):
    rows = [f"{user},{20 + user % 7 + user / 100},{'FM'[user % 2]}" for user in USERS]
    return write(folder / "users.csv", "user_id,age,gender\n" + "\n".join(rows) + "\n")


def trust(folder, rows=((1, 2), (1, 3), (7, 1), (7, 7), (1, 2), (99, 1))):
    lines = "".join(f"{source},{end}\n" for source, end in rows)
    return write(folder / "trust.csv", "user_id,to_user_id\n" + lines)


def edges_of(relation, dataset):
    """The edges of a relation between users as pairs of external ids, from either end."""
    ids = dataset.users.ids.to_pylist()
    found = []
    for edges, turned in ((relation.forward, False), (relation.backward, True)):
        pairs = {
            (ids[node], ids[neighbour])
            for node in range(edges.num_nodes)
            for neighbour in edges.neighbours[edges.of(node)].tolist()
        }
        found.append({(b, a) for a, b in pairs} if turned else pairs)
    assert found[0] == found[1]
    return found[0]


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data set with a relation and both tables."""
    folder = tmp_path_factory.mktemp("whole")
    options = replace(
        NO_TEXT,
        relation={"trusts": trust(folder)},
        item_table=item_table(folder),
        user_table=user_table(folder),
    )
    return prepare(ratings(folder), folder / "data", options)


def test_tables_may_call_ids_as_the_ratings_do(whole, tmp_path):
    names = {"user": "visitor", "item": "sku"}
    renamed = [make(tmp_path) for make in (ratings, item_table, user_table)]
    for file in renamed:
        head, _, rows = file.read_text().partition("\n")
        head = head.replace("user_id", "visitor").replace("item_id", "sku")
        file.write_text(f"{head}\n{rows}")
    source, items, users = renamed
    options = replace(NO_TEXT, columns=names, item_table=items, user_table=users)
    found = prepare(source, tmp_path / "data", options)
    assert found.describe()["features"] == whole.describe()["features"]
    assert found.user_feature_widths == whole.user_feature_widths
    items.write_text(items.read_text().replace("sku", "thing", 1))
    with pytest.raises(DataError, match="no column sku; found thing, Category"):
        prepare(source, tmp_path / "other", options)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole.path, tmp_path / "copy")


# --- relations -----------------------------------------------------------------------------------


def test_a_relation_is_what_its_file_says(whole):
    opened = RatingDataset.open(whole.path)
    assert list(opened.relations) == ["trusts"]
    trusts = opened.relation("trusts")
    assert trusts.edge_type == ("user", "trusts", "user")
    assert edges_of(trusts, opened) == {(1, 2), (1, 3), (7, 1)}
    assert opened.meta["relations"]["trusts"]["counts"] == {
        "rows": 6,
        "unknown": 1,
        "self_loops": 1,
        "later": 0,
        "held_out": 0,
        "repeated": 1,
    }
    assert not trusts.forward.neighbours.flags.owndata
    assert opened.describe()["relations"] == {"trusts": 3}
    files = {entry["file"]: entry.get("as") for entry in opened.meta["sources"]}
    assert files == {
        "ratings.csv": None,
        "items.csv": "item table",
        "users.csv": "user table",
        "trust.csv": "relation trusts",
    }


def test_a_relation_leaves_everything_else_as_it_is(tmp_path):
    source = ratings(tmp_path)
    without = prepare(source, tmp_path / "without", NO_TEXT)
    relation = {"trusts": trust(tmp_path)}
    prepared = prepare(source, tmp_path / "with", replace(NO_TEXT, relation=relation))
    before, after = contents(without.path), contents(prepared.path)
    assert {name for name in after if name not in before} == {
        f"relations/trusts/{side}_{part}.npy"
        for side in ("forward", "backward")
        for part in ("offsets", "neighbours")
    }
    assert all(after[name] == before[name] for name in before if name != DATASET_FILE)
    assert prepared.fingerprint != without.fingerprint
    keys = {"relations", "user_features", "item_attributes", "user_attributes"}
    assert not keys & without.meta.keys()
    assert dict(without.relations) == {} and without.user_features.shape == (len(USERS), 0)
    assert without.encode_users(pd.DataFrame({"age": [3]})).shape == (1, 0)


def test_the_content_of_a_relation_is_in_the_fingerprint(tmp_path):
    source, found = ratings(tmp_path), set()
    for n, rows in enumerate([((1, 2),), ((1, 3),)]):
        options = replace(NO_TEXT, relation={"trusts": trust(tmp_path / f"{n}", rows)})
        found.add(prepare(source, tmp_path / f"data-{n}", options).fingerprint)
    options = replace(NO_TEXT, relation={"knows": tmp_path / "1" / "trust.csv"})
    found.add(prepare(source, tmp_path / "data-2", options).fingerprint)
    assert len(found) == 3


def test_weights_and_times_are_kept(tmp_path):
    file = write(
        tmp_path / "e.csv", "item_id,user_id,weight,timestamp\n100,3,0.5,7\n101,2,2,9\n114,19,1,8\n"
    )
    relation = {"seen": file}
    dataset = prepare(ratings(tmp_path), tmp_path / "data", replace(NO_TEXT, relation=relation))
    seen = RatingDataset.open(dataset.path).relation("seen")
    assert seen.edge_type == ("item", "seen", "user")
    kept = seen.num_edges
    assert kept + dataset.meta["relations"]["seen"]["counts"]["held_out"] == 3
    found = zip(seen.forward.weights.tolist(), seen.forward.times.tolist(), strict=True)
    assert set(found) <= {(0.5, 7), (2.0, 9), (1.0, 8)}
    assert sorted(seen.backward.times.tolist()) == sorted(seen.forward.times.tolist())


def test_edges_that_are_held_out_rows_are_not_kept(tmp_path):
    """Planted: a relation that repeats all rows must not tell which rows test."""
    source = ratings(tmp_path)
    file = tmp_path / "same.csv"
    file.write_text(source.read_text().replace(",rating,timestamp", ",weight,timestamp"))
    options = replace(NO_TEXT, relation={"seen": file})
    dataset = prepare(source, tmp_path / "data", options)
    seen = dataset.relation("seen").forward
    assert np.array_equal(seen.neighbours, dataset.graph.by_user.neighbours)
    held_out = dataset.meta["counts"]["valid"] + dataset.meta["counts"]["test"]
    assert dataset.meta["relations"]["seen"]["counts"]["held_out"] == held_out


def test_split_by_time_keeps_nothing_later_than_the_cut(tmp_path):
    source = ratings(tmp_path)
    times = range(900, 1300)
    rows = [f"{time % 20 + 1},{time % 19 + 1},{time}\n" for time in times]
    file = write(tmp_path / "e.csv", "user_id,to_user_id,timestamp\n" + "".join(rows))
    options = replace(NO_TEXT, split="time", relation={"met": file})
    dataset = prepare(source, tmp_path / "data", options)
    cut = 1000 + dataset.meta["counts"]["train"] - 1  # a row a second
    assert dataset.relation("met").forward.times.max() <= cut
    assert dataset.meta["relations"]["met"]["counts"]["later"] == len(times) - (cut - 900 + 1)
    # Other splits have no cut.
    dataset = prepare(source, tmp_path / "other", replace(options, split="random"))
    assert dataset.meta["relations"]["met"]["counts"]["later"] == 0


def test_edges_between_items_and_an_attribute(tmp_path):
    file = write(tmp_path / "e.csv", "tags,to_category\nt0,A\nt3,B\nt9,A\n")
    options = replace(NO_TEXT, item_table=item_table(tmp_path), relation={"goes_with": file})
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    opened = RatingDataset.open(dataset.path)
    relation = opened.relation("goes_with")
    assert relation.edge_type == ("tags", "goes_with", "category")
    tags, categories = (opened.attributes[name].vocabulary for name in ("tags", "category"))
    sources, ends = relation.ends()
    found = {(tags[a], categories[b]) for a, b in zip(sources, ends, strict=True)}
    assert found == {("t0", "A"), ("t3", "B")}
    assert (relation.num_sources, relation.num_destinations) == (len(tags), len(categories))
    assert opened.meta["relations"]["goes_with"]["counts"]["unknown"] == 1


def test_a_relation_to_other_labels_than_the_tables_have_is_noticed(tmp_path):
    file = write(tmp_path / "e.csv", "item_id,to_category\n100,B\n")
    options = replace(NO_TEXT, item_table=item_table(tmp_path), relation={"like": file})
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    items = pq.read_table(dataset.path / "items.parquet").to_pandas()
    items.loc[3, "category"] = "C"
    items.to_parquet(dataset.path / "items.parquet")
    as_of_an_earlier_version(dataset.path)  # which has no checksum of the table
    with pytest.raises(DataError, match="like has 2 labels of category, the data set 3"):
        _ = RatingDataset.open(dataset.path).attributes


def test_a_relation_that_is_not_there_is_refused_with_what_there_is(whole):
    with pytest.raises(UsageError, match="no relation knows; there is trusts, has_category, has_t"):
        whole.relation("knows")


def test_all_relations_fit_into_the_heterograph(whole):
    relations = [whole.relation(name) for name in ("trusts", "has_category", "has_gender")]
    heterograph = to_heterograph(whole.graph, relations)
    assert heterograph.num_edges("has_category") == len(ITEMS)
    assert heterograph.num_edges("rev_has_gender") == len(USERS)
    assert heterograph.num_nodes("gender") == 2


# --- attributes ----------------------------------------------------------------------------------


def test_columns_of_tables_become_attributes_and_features(whole):
    assert whole.meta["item_attributes"] == {
        "category": "category",
        "tags": "categories",
        "year": "number",
        "released": "date",
        "maker": "none",
    }
    assert whole.meta["user_attributes"] == {"age": "number", "gender": "category"}
    widths = {"category": 2, "tags": 7, "year": 2, "released": 2}
    assert whole.meta["features"] == widths
    assert whole.item_features.shape == (len(ITEMS), sum(widths.values()))
    assert whole.user_feature_widths == {"age": 2, "gender": 2}
    assert list(whole.attributes) == ["category", "tags", "gender"]
    tags = whole.attributes["tags"]
    assert tags.vocabulary == tuple(f"t{n}" for n in range(7))
    assert tags.relation.edge_type == ("item", "has_tags", "tags")
    assert tags.relation.forward.neighbours[tags.relation.forward.of(4)].tolist() == [1, 3]
    multi_hot = np.zeros((len(ITEMS), 7))
    multi_hot[tags.relation.ends()] = 1
    assert np.array_equal(np.load(whole.path / "features" / "tags.npy"), multi_hot)
    described = whole.describe()
    assert described["attributes"] == {"category": 2, "tags": 7, "gender": 2}
    assert described["user_features"] == {"age": 2, "gender": 2}


def test_user_features_are_fitted_on_training_users(tmp_path):
    """Users that only held-out rows have bring no label and move no mean."""
    rows = [f"{user},{user**2},g{user:02}\n" for user in USERS]
    table = write(tmp_path / "users.csv", "user_id,age,group\n" + "".join(rows))
    kinds = {"group": Kind.CATEGORY}
    options = replace(NO_TEXT, split="user", user_table=table, attribute=kinds)
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    trained = dataset.graph.by_user.degrees > 0
    assert 0 < (~trained).sum() < len(USERS)
    ages = np.array([user**2 for user in USERS], dtype=np.float64)
    expected = (ages - ages[trained].mean()) / ages[trained].std()
    assert np.allclose(dataset.user_features[:, 0], expected, atol=1e-5)
    groups = {f"g{user:02}" for user, known in zip(USERS, trained, strict=True) if known}
    assert dataset.user_feature_widths == {"age": 2, "group": len(groups)}
    assert dataset.attributes["group"].vocabulary == tuple(sorted(groups))
    assert dataset.attributes["group"].relation.num_edges == int(dataset.user_features[:, 2:].sum())


def test_known_users_encoded_again_have_the_features_that_are_stored(whole):
    known = pq.read_table(whole.path / "users.parquet").to_pandas()
    torch.testing.assert_close(whole.encode_users(known), whole.user_features)
    new = pd.DataFrame({"gender": ["X", None, "F"], "age": [np.nan, 22.0, np.nan]})
    found = whole.encode_users(new)
    assert found[:, 1:].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    with pytest.raises(DataError, match="no column gender, which the data set uses"):
        whole.encode_users(new[["age"]])
    with pytest.raises(DataError, match="column age holds a value that is not a number .'old'"):
        whole.encode_users(new.assign(age=["old", "1", "2"]))


def test_known_items_encoded_again_have_the_features_that_are_stored(whole, tmp_path):
    known = pq.read_table(whole.path / "items.parquet").to_pandas()
    torch.testing.assert_close(whole.encode_items(known), whole.item_features)
    with pytest.raises(DataError, match="no column tags, which the data set uses"):
        whole.encode_items(known.drop(columns="tags"))


def test_ids_without_a_row_have_missing_values_and_are_counted(tmp_path):
    table = write(tmp_path / "u.csv", "user_id,age\n1,30\n2,40\n2000,50\nx,60\n")
    dataset = prepare(ratings(tmp_path), tmp_path / "data", replace(NO_TEXT, user_table=table))
    assert dataset.meta["notes"]["user_table_rows_of_unknown_ids"] == 2
    assert dataset.meta["notes"]["users_not_in_user_table"] == len(USERS) - 2
    assert dataset.user_features[:, 1].tolist() == [1, 1] + [0] * (len(USERS) - 2)
    assert not dataset.user_features[2:].any()


def test_an_attribute_with_a_value_for_each_is_said_and_not_used(tmp_path, capsys):
    options = replace(NO_TEXT, item_table=item_table(tmp_path))
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    assert "item attribute maker: none; no feature" in capsys.readouterr().err
    assert "maker" not in dataset.attributes and "maker" not in dataset.meta["features"]


def test_an_attribute_with_many_labels_is_nodes_and_no_feature(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dglrec.features.encoders.MOST_LABELS", 6)
    options = replace(NO_TEXT, item_table=item_table(tmp_path))
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    assert "tags" in dataset.attributes and "tags" not in dataset.meta["features"]
    assert "item attribute tags: categories; no feature, which takes" in capsys.readouterr().err
    assert dataset.encode_items(dataset._catalogue()).shape == dataset.item_features.shape


def test_a_kind_can_be_said(tmp_path):
    kinds = {"year": Kind.CATEGORY, "category": Kind.NONE, "maker": Kind.CATEGORY}
    options = replace(NO_TEXT, item_table=item_table(tmp_path), attribute=kinds)
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    assert dataset.meta["features"] == {"tags": 7, "year": 15, "released": 2, "maker": 15}
    assert list(dataset.attributes) == ["tags", "year", "maker"]
    with pytest.raises(UsageError, match="--attribute colour: no such .*there is category"):
        prepare(
            ratings(tmp_path), tmp_path / "x", replace(options, attribute={"colour": Kind.TEXT})
        )
    wrong = replace(options, attribute={"maker": Kind.NUMBER})
    with pytest.raises(DataError, match="column maker holds a value that is not a number"):
        prepare(ratings(tmp_path), tmp_path / "x", wrong)


def test_a_source_attribute_becomes_a_feature_where_its_kind_is_said(tmp_path):
    folder = tmp_path / "anime"
    rows = ratings(tmp_path, timestamps=False).read_text().replace("item_id", "anime_id")
    write(folder / "rating_complete.csv", rows)
    lines = [f"{item},T{n},Action,{('TV', 'OVA')[n % 2]}\n" for n, item in enumerate(ITEMS)]
    write(folder / "anime.csv", "MAL_ID,Name,Genres,Type\n" + "".join(lines))
    dataset = prepare(folder, tmp_path / "plain", NO_TEXT)
    assert dataset.meta["features"] == {"genres": 1}
    assert list(dataset.attributes) == ["genres", "type"]  # nodes cost nothing
    options = replace(NO_TEXT, attribute={"type": Kind.CATEGORY})
    dataset = prepare(folder, tmp_path / "typed", options)
    assert dataset.meta["features"] == {"genres": 1, "type": 2}
    torch.testing.assert_close(dataset.encode_items(dataset._catalogue()), dataset.item_features)


class FakeTextEncoder:
    def __init__(self, model, cleaning):
        pass

    def encode(self, texts):
        return np.array([[len(text or ""), text is not None] for text in texts], dtype=np.float32)


def test_texts_of_users_and_a_synopsis_from_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "SequenceEncoder", FakeTextEncoder)
    synopses = [f"{item},About number {item}\n" for item in ITEMS]
    bios = [f"{user},likes the number {user} best\n" for user in USERS]
    options = PrepareOptions(
        item_table=write(tmp_path / "i.csv", "item_id,synopsis\n" + "".join(synopses)),
        user_table=write(tmp_path / "u.csv", "user_id,bio\n" + "".join(bios)),
    )
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    assert dataset.meta["features"] == {"text": 2}
    assert dataset.meta["user_attributes"] == {"bio": "text"}
    assert dataset.meta["notes"]["items_without_synopsis"] == 0
    assert dataset.user_features[:, 0].tolist() == [len(bio.split(",")[1]) - 1 for bio in bios]
    assert dataset.encode_users(pd.DataFrame({"bio": ["abc", None]})).tolist() == [[3, 1], [0, 0]]
    without = prepare(ratings(tmp_path), tmp_path / "no-text", replace(options, text=False))
    assert without.meta["features"] == {} and without.user_feature_widths == {}


def test_lists_days_and_flags_of_parquet(tmp_path):
    n = len(ITEMS)
    table = {
        "item_id": list(ITEMS),
        "tags": [["a", "b, c"], ["a"], None] * (n // 3),
        "day": pd.to_datetime(["2001-02-03"] * n).date,
        "flag": [True, False, None] * (n // 3),
        "genres": [["Drama"]] * n,
        "title": [f"Title {item}" for item in ITEMS],
    }
    pq.write_table(pa.table(table), tmp_path / "i.parquet")
    options = replace(NO_TEXT, item_table=tmp_path / "i.parquet")
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    kinds = {"tags": "categories", "day": "date", "flag": "category"}
    assert dataset.meta["item_attributes"] == kinds
    assert dataset.meta["features"] == {"genres": 1, "tags": 2, "day": 2, "flag": 2}
    assert dataset.attributes["tags"].vocabulary == ("a", "b, c")
    assert dataset.attributes["flag"].vocabulary == ("false", "true")
    assert dataset.titles.to_pylist()[:1] == ["Title 100"]
    torch.testing.assert_close(dataset.encode_items(dataset._catalogue()), dataset.item_features)


def movielens(folder):
    rows = [line.split(",") for line in ratings(folder).read_text().splitlines()[1:]]
    write(folder / "ml" / "u.data", "".join("\t".join(row) + "\n" for row in rows))
    people = [f"{user}|{20 + user}|{'FM'[user % 2]}|job{user % 3}|9{user:04}\n" for user in USERS]
    write(folder / "ml" / "u.user", "".join(people))
    return folder / "ml"


def test_movielens_users_are_read_by_themselves(tmp_path):
    dataset = prepare(movielens(tmp_path), tmp_path / "data", NO_TEXT)
    assert dataset.meta["user_attributes"] == {
        "age": "number",
        "gender": "category",
        "occupation": "category",
        "zip_code": "none",
    }
    assert dataset.user_feature_widths == {"age": 2, "gender": 2, "occupation": 3}
    assert dataset.attributes["occupation"].relation.edge_type == (
        "user",
        "has_occupation",
        "occupation",
    )


def test_a_user_table_adds_to_what_the_source_knows(tmp_path):
    table = write(tmp_path / "u.csv", "user_id,Occupation,height\n3,job9,1.8\n4,job9,1.7\n")
    options = replace(NO_TEXT, user_table=table)
    dataset = prepare(movielens(tmp_path), tmp_path / "data", options)
    users = pq.read_table(dataset.path / "users.parquet")
    assert users.column("occupation").to_pylist()[:5] == ["job1", "job2", "job9", "job9", "job2"]
    assert users.column("height").to_pylist()[2:5] == [1.8, 1.7, None]
    assert list(dataset.user_feature_widths) == ["age", "gender", "occupation", "height"]
    table.write_text("user_id,age\n3,old\n4,young\n")
    with pytest.raises(DataError, match="column age holds texts, and in the source's own table"):
        prepare(movielens(tmp_path), tmp_path / "x", options)


def test_an_attribute_of_users_and_of_items_with_the_same_name(tmp_path):
    items = write(tmp_path / "i.csv", "item_id,country\n" + "".join(f"{i},JP\n" for i in ITEMS))
    users = write(tmp_path / "u.csv", "user_id,country\n" + "".join(f"{u},DE\n" for u in USERS))
    options = replace(NO_TEXT, item_table=items, user_table=users)
    dataset = prepare(ratings(tmp_path), tmp_path / "data", options)
    assert dataset.attributes["country"].vocabulary == ("JP",)
    assert dataset.attributes["user_country"].vocabulary == ("DE",)
    assert dataset.relation("has_user_country").num_edges == len(USERS)


# --- bad tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("user_id,age\n", "no row"),
        ("id,age\n1,2\n", "no column user_id; found id, age"),
        ("user_id\n1\n", "has ids and no other column"),
        ("user_id,age\n1,2\n1,3\n", "id 1 is there twice"),
        ("user_id,age\n1,2\n,3\n", "row 3: user_id is missing"),
        ("user_id,age\n7000,2\n", "none of its 1 ids is that of users .* such as 1, 2, 3"),
        ("user_id,age,age\n1,2,3\n", "more than one column age"),
        ("user_id,age,Age\n1,2,3\n", "two columns give the attribute age"),
        ("user_id,2nd\n1,2\n", "column '2nd' cannot name an attribute"),
        ("user_id,Item\n1,2\n", "column 'Item' cannot name an attribute"),
        ("user_id,numeric\n1,2\n", "column 'numeric' cannot name an attribute"),
        ("user_id,title\n1,2\n", "column 'title' cannot name an attribute"),
        ("user_id,age\n1,2,3\n", "3 fields where 2 were expected"),
    ],
)
def test_a_bad_table_is_refused(text, message, tmp_path):
    table = write(tmp_path / "people.csv", text)
    with pytest.raises(DataError, match=message) as raised:
        prepare(ratings(tmp_path), tmp_path / "data", replace(NO_TEXT, user_table=table))
    assert "people.csv" in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_no_column_leads_out_of_the_data_set(tmp_path):
    table = write(tmp_path / "i.csv", "item_id,../../out,a/b\n100,1,2\n101,2,3\n")
    dataset = prepare(ratings(tmp_path), tmp_path / "data", replace(NO_TEXT, item_table=table))
    assert dataset.meta["features"] == {"out": 2, "a_b": 2}
    assert {"features/out.npy", "features/a_b.npy"} <= contents(dataset.path).keys()


@pytest.mark.parametrize("what", ["item_table", "user_table", "relation"])
def test_a_file_that_is_not_there_is_refused_before_ratings_are_read(what, tmp_path, monkeypatch):
    module = importlib.import_module("dglrec.dataset.prepare")
    monkeypatch.setattr(module, "read_rows", None)
    file = tmp_path / "no.csv"
    options = replace(NO_TEXT, **{what: {"trusts": file} if what == "relation" else file})
    with pytest.raises(DataError, match=r"no\.csv: no such file"):
        prepare(ratings(tmp_path), tmp_path / "data", options)


def test_a_relations_name_is_checked_in_python_too(tmp_path):
    options = replace(NO_TEXT, relation={"../../x": trust(tmp_path)})
    with pytest.raises(UsageError, match="lowercase letters"):
        prepare(ratings(tmp_path), tmp_path / "data", options)


# --- opening -------------------------------------------------------------------------------------


ARRAYS = [
    "user_features",
    *(
        f"relations/trusts/{side}_{part}"
        for side in ("forward", "backward")
        for part in ("offsets", "neighbours")
    ),
]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("how", ["missing", "truncated", "longer", "of another type"])
def test_a_damaged_array_is_refused_on_opening(name, how, copy):
    file = copy / f"{name}.npy"
    array = np.load(file)
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    elif how == "longer":
        np.save(file, np.concatenate([array, array[-1:]]))
    else:
        np.save(file, array.astype(np.float64))
    with pytest.raises(DataError, match=str(copy)):
        RatingDataset.open(copy)


@pytest.mark.parametrize(("place", "value"), [(0, 1), (2, 99), (-1, 2)])
def test_offsets_that_do_not_fit_are_refused(place, value, copy):
    file = copy / "relations" / "trusts" / "forward_offsets.npy"
    offsets = np.load(file)
    offsets[place] = value
    np.save(file, offsets)
    with pytest.raises(DataError, match="damaged"):
        RatingDataset.open(copy)


@pytest.mark.parametrize("entry", ["relations", "features"])
def test_no_name_in_the_description_leads_out_of_the_folder(entry, copy):
    meta = read_meta(copy)
    meta[entry]["../../x"] = next(iter(meta[entry].values()))
    sign(copy, meta)
    with pytest.raises(DataError, match="cannot name a"):
        RatingDataset.open(copy)


# --- real data -----------------------------------------------------------------------------------


@needs_real_data
def test_ciao_with_trust_and_categories(tmp_path):
    folder = REAL_DATA / "ciao"
    relation = {"trusts": folder / "trust.csv"}
    options = replace(NO_TEXT, item_table=folder / "items.csv", relation=relation)
    dataset = prepare(folder / "ratings.parquet", tmp_path / "data", options)
    trusts = dataset.relation("trusts")
    assert trusts.num_edges == 57_544
    ends = np.union1d(*trusts.ends())
    assert len(ends) == 2_342
    category = dataset.attributes["category"]
    assert len(category.vocabulary) == 28
    assert category.relation.num_edges == 105_096
    assert dataset.meta["features"] == {"category": 28}


@needs_real_data
def test_the_users_of_movielens_100k(tmp_path):
    dataset = prepare(REAL_DATA / "ml-100k", tmp_path / "data", NO_TEXT)
    assert dataset.user_feature_widths == {"age": 2, "gender": 2, "occupation": 21}
    assert list(dataset.attributes) == ["genres", "gender", "occupation"]
    ages = pq.read_table(dataset.path / "users.parquet").column("age").to_numpy()
    assert np.corrcoef(ages, dataset.user_features[:, 0].numpy())[0, 1] > 0.9999


def test_a_table_is_read_without_a_data_set(tmp_path):
    table = read_attributes(user_table(tmp_path), "user_id")
    assert list(table.columns) == ["age", "gender"] and len(table.ids) == len(USERS)
