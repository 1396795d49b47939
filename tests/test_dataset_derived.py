"""What is made from training rows: it sees no other row, and what is read back is checked."""

import numpy as np
import pandas as pd
import pytest
import torch

from dglrec.dataset import DerivedDataset, PrepareOptions, derive, prepare
from dglrec.derived import DERIVED, DerivedConfig, agreeing_users, graph_features, similar
from dglrec.errors import UsageError
from dglrec.relations import DERIVED_NAMES, directions_of, parse_relations
from dglrec.schema import OF_GRAPH

ALL = (*DERIVED_NAMES, OF_GRAPH)
CONFIG = DerivedConfig(visited_hops=50, agreement_share=0.1, clusters=3)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((40, 25)) < 0.4)
    ratings = rng.integers(1, 6, len(users))
    frame = pd.DataFrame({"user_id": users, "item_id": items, "rating": ratings})
    order = rng.permutation(len(frame))
    frame["timestamp"] = rng.integers(0, 1000, len(frame))
    # The first user has test rows alone.
    test = np.isin(order, order[320:]) | (frame["user_id"].to_numpy()[order] == 0)
    return frame.iloc[order[~test]], frame.iloc[order[test]]


def prepared(folder, train, test):
    folder.mkdir()
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    table = [(user, ("north", "south")[user % 2]) for user in range(40)]
    pd.DataFrame(table, columns=["user_id", "home"]).to_csv(folder / "users.csv", index=False)
    options = PrepareOptions(
        text=False,
        train_file=folder / "train.csv",
        test_file=folder / "test.csv",
        user_table=folder / "users.csv",
    )
    return prepare(folder / "train.csv", folder / "data", options)


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("derived") / "a", *rows)


@pytest.fixture(scope="module")
def made(dataset):
    return derive(dataset, ALL, CONFIG)


@pytest.fixture(scope="module")
def derived(dataset, made):
    return DerivedDataset(dataset, ALL, made)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ALL)
def test_no_held_out_rating_reaches_what_is_made(name, dataset, rows, tmp_path):
    """Other test ratings change nothing; put among the training rows, all of it."""
    train, test = rows
    turned = test.assign(rating=6 - test["rating"])
    expected = derive(dataset, [name], CONFIG)
    other = prepared(tmp_path / "turned", train, turned)
    assert not torch.equal(other.held_out("test").ratings, dataset.held_out("test").ratings)
    assert same(derive(other, [name], CONFIG), expected)
    valid = dataset.held_out("valid")
    assert len(valid.ratings) > 10
    # `prepare` takes rows of the test file out of the training file, so the test is another one.
    leaked = prepared(tmp_path / "leaked", pd.concat([train, test]), turned[:1])
    assert not same(derive(leaked, [name], CONFIG), expected)


def test_each_name_is_made_and_none_of_them_is_a_files(rows):
    assert tuple(DERIVED) == DERIVED_NAMES
    for name in DERIVED:
        with pytest.raises(UsageError, match=f"--relation {name}: .* are taken"):
            parse_relations([f"{name}=f.csv"])


def test_nodes_read_their_in_edges_and_those_alone(dataset, derived):
    assert derived.relation_names == ("has_home", *DERIVED_NAMES)
    for name in DERIVED_NAMES:
        edges = DERIVED[name].build(dataset.graph, CONFIG)
        relation = derived.relation(name)
        direction, *back = directions_of([relation])
        assert [one.name for one in back] == (["rev_next"] if name == "next" else [])
        assert direction.name == name and direction.edges is relation.backward
        rows = edges.matrix().toarray()
        for node in range(len(rows)):
            read = relation.backward.neighbours[relation.backward.of(node)]
            assert read.tolist() == np.flatnonzero(rows[node]).tolist()
            weights = relation.backward.weights[relation.backward.of(node)]
            np.testing.assert_array_equal(weights, rows[node][read])
            told = relation.forward.neighbours[relation.forward.of(node)]
            assert told.tolist() == np.flatnonzero(rows[:, node]).tolist()
    assert derived.relation("has_home").num_edges == 40
    with pytest.raises(UsageError, match="no relation trusts; there is has_home, similar"):
        derived.relation("trusts")


def test_settings_decide_what_is_made(dataset):
    found = derive(dataset, ["similar"], DerivedConfig(similar_neighbours=2, similar_shrinkage=3))
    expected = similar(dataset.graph, neighbours=2, shrinkage=3)
    np.testing.assert_array_equal(found["similar.weights"], expected.weights)
    once, again, another = (
        derive(dataset, ["visited_with"], DerivedConfig(visited_hops=20, seed=seed))
        for seed in (0, 0, 1)
    )
    assert same(once, again) and not same(once, another)
    many, few = (
        derive(dataset, ["agreeing_users"], DerivedConfig(agreement_share=share))
        for share in (0.05, 0.1)
    )
    assert 0 < len(few["agreeing_users.weights"]) < len(many["agreeing_users.weights"])


def test_a_relation_without_edges_is_refused(dataset):
    with pytest.raises(
        UsageError, match=r"relation similar has no edge .* leave out what reads it"
    ):
        derive(dataset, ["similar"], DerivedConfig(similar_min_support=1000))


def test_users_features_of_the_graph_stand_behind_the_others(dataset, derived):
    assert derived.user_feature_widths == {"home": 2, OF_GRAPH: 5 + 3}
    features = derived.user_features.numpy()
    np.testing.assert_array_equal(features[:, :2], dataset.user_features)
    trained = dataset.graph.by_user.degrees > 0
    assert not trained.all() and not features[~trained, 2:].any()
    known = features[trained, 2:]
    np.testing.assert_allclose(known[:, :5].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(known[:, :5].std(axis=0), 1, atol=1e-5)
    assert set(known[:, 5:].ravel()) == {0, 1} and (known[:, 5:].sum(axis=1) == 1).all()
    sizes = known[:, 5:].sum(axis=0)
    assert sizes.tolist() == sorted(sizes, reverse=True)
    raw = graph_features(agreeing_users(dataset.graph, share=0.1))[trained]
    for column in range(5):
        assert np.corrcoef(raw[:, column], known[:, column])[0, 1] > 0.9999


def test_users_of_a_table_have_zeros_for_the_graph(dataset, derived):
    table = pd.DataFrame({"user_id": [100, 101], "home": ["north", "south"]})
    found = derived.encode_users(table)
    assert torch.equal(found[:, :2], dataset.encode_users(table))
    assert found.shape == (2, 10) and not found[:, 2:].any()


def test_without_clusters_the_graph_has_five_features(dataset):
    found = derive(dataset, [OF_GRAPH], DerivedConfig(agreement_share=0.1, clusters=0))
    assert found[OF_GRAPH].shape == (dataset.graph.num_users, 5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("similar.neighbours", lambda values: values + 1000),
        ("similar.neighbours", lambda values: values - 1000),
        ("similar.neighbours", lambda values: values[:-1]),
        ("similar.neighbours", lambda values: values.long()),
        ("similar.offsets", lambda values: values.flip(0)),
        ("similar.offsets", lambda values: values[:-1]),
        ("similar.offsets", lambda values: values.index_fill(0, torch.tensor([3]), 10**9)),
        ("similar.offsets", lambda values: values.index_fill(0, torch.tensor([0]), -1)),
        ("similar.weights", lambda values: -values),
        ("similar.weights", lambda values: values * torch.nan),
        ("similar.weights", lambda values: values[:, None]),
        ("similar.weights", None),
        (OF_GRAPH, lambda values: values[1:]),
        (OF_GRAPH, lambda values: values / 0),
        (OF_GRAPH, None),
    ],
)
def test_what_does_not_fit_is_refused(name, change, dataset, made):
    broken = dict(made)
    if change is None:
        del broken[name]
    else:
        broken[name] = change(made[name])
    with pytest.raises(ValueError):
        DerivedDataset(dataset, ALL, broken)


def test_the_digest_tells_edges_and_weights_apart(dataset, made, derived):
    assert dataset.derived_digest is None
    assert DerivedDataset(dataset, ALL, made).derived_digest == derived.derived_digest
    other = {**made, "similar.weights": made["similar.weights"] * 2}
    assert DerivedDataset(dataset, ALL, other).derived_digest != derived.derived_digest
