"""What relations are worth to a recommendation: each left out, and nothing else."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from relations import NUM_ITEMS, NUM_USERS, Related
from runs import make_settings

from dglrec.cli import cli
from dglrec.dataset import PrepareOptions, prepare
from dglrec.infer import ListScorer, Scorer, embed_all, embed_without
from dglrec.nn import NodeValues
from dglrec.relations import Edges
from dglrec.run import open_run
from dglrec.score import TopKOptions, recommend, score_top_k
from dglrec.train import train

USERS, ITEMS = 50, 20


def without_node(direction, node):
    """A direction that tells one node nothing."""
    edges = direction.edges
    low, high = int(edges.offsets[node]), int(edges.offsets[node + 1])
    keep = np.r_[:low, high : len(edges.neighbours)]
    offsets = edges.offsets.copy()
    offsets[node + 1 :] -= high - low
    weights = None if edges.weights is None else edges.weights[keep]
    return dataclasses.replace(direction, edges=Edges(offsets, edges.neighbours[keep], weights))


@pytest.mark.parametrize("refined", ["last", "all"])
@pytest.mark.parametrize("heads", ["rating", "both"])
def test_a_node_without_a_direction_is_what_it_is_on_a_graph_that_lacks_its_edges(heads, refined):
    """With two layers no neighbour's change comes back to the node itself."""
    world = Related()
    model = world.model(heads=heads, refined_layers=refined)
    directions = world.directions()
    given = model, world.graph, world.biases
    found = embed_without(*given, directions=directions)
    assert set(found) == {one.name for one in directions}
    whole = embed_all(*given, directions=directions)
    for number, one in enumerate(directions):
        to_users = one.destination_type == "user"
        degrees = np.diff(one.edges.offsets)
        node = int(degrees.argmax())
        changed = [*directions]
        changed[number] = without_node(one, node)
        expected = embed_all(*given, directions=changed)
        place = 0 if to_users else 1
        values = found[one.name].nodes
        assert len(values) == (NUM_USERS if to_users else NUM_ITEMS)
        torch.testing.assert_close(values[node], expected.nodes[place][node])
        assert not torch.allclose(values[node], whole.nodes[place][node], atol=1e-3)
        bare = torch.from_numpy(degrees == 0)
        torch.testing.assert_close(values[bare], whole.nodes[place][bare])
        if heads == "both":
            for got, want in zip(found[one.name].lists, expected.lists[place], strict=True):
                torch.testing.assert_close(got[node], want[node])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Users of a side trust each other and love the items of its kind."""
    folder = tmp_path_factory.mktemp("reasons")
    rng = np.random.default_rng(4)

    def write(name, columns, rows):
        pd.DataFrame(rows, columns=columns).to_csv(folder / name, index=False)
        return folder / name

    rows = []
    for user in range(USERS):
        for item in rng.choice(ITEMS, 8, replace=False):
            loves = (user % 2) == (item % 2)
            rows.append((user, item, int(np.clip(rng.normal(4.3 if loves else 1.7, 0.5), 1, 5))))
    trusts = [
        (u, v, 1 + n)
        for u in range(USERS)
        for n, v in enumerate(rng.choice(USERS // 2, 6, replace=False) * 2 + u % 2)
        if u != v
    ]
    items = [(item, f"title {item}", ("even", "odd")[item % 2]) for item in range(ITEMS)]
    options = PrepareOptions(
        text=False,
        relation={"trusts": write("trust.csv", ["user_id", "to_user_id", "weight"], trusts)},
        item_table=write("items.csv", ["item_id", "title", "kind"], items),
    )
    ratings = write("ratings.csv", ["user_id", "item_id", "rating"], rows)
    return prepare(ratings, folder / "data", options)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    loader = {"batch_size": 100, "unseen_users": 0.2}
    fitting = {"epochs": 6, "learning_rate": 0.02}
    for name, names in (("with", ("trusts", "has_kind")), ("without", ())):
        model = {"heads": "both", "item_features": False, "relations": names}
        train(data, folder / name, make_settings(model, loader, **fitting))
    return {name: folder / name for name in ("with", "without")}


@pytest.mark.parametrize("order", ["rating", "lists"])
def test_contributions_are_what_the_score_loses(runs, order):
    """Of predicted ratings by a scorer of the changed nodes; lists by what they are ordered by."""
    trained = open_run(runs["with"]).ordered_by(order)
    without = trained.without_relations
    kinds = {one.name: one.destination_type for one in trained.directions}
    assert set(kinds) == {"trusts", "rev_trusts", "rev_has_kind"}
    best = recommend(trained, "3", ITEMS, explain=True)
    reasons = [(one, told) for one in best for told in one.relations]
    assert {told.kind for _, told in reasons} == set(kinds)
    assert all(len(one.relations) <= 3 for one in best)
    nodes = trained.embeddings.nodes
    for one, told in reasons:
        item = torch.tensor([trained.dataset.items.encode_one(str(one.item_id))])
        user = torch.tensor([3])
        if order == "rating":
            others = without[told.kind].nodes
            changed = (
                NodeValues(others, nodes.items)
                if told.of == "user"
                else NodeValues(nodes.users, others)
            )
            scorer = Scorer(trained.model, changed, trained.dataset.biases)
            assert told.contribution == pytest.approx(
                one.score - float(scorer.pairs(user, item)), abs=1e-4
            )
        if order == "lists":
            changed = list(trained.embeddings.lists)
            changed[0 if told.of == "user" else 1] = without[told.kind].lists
            lists = ListScorer(*changed, item_items=trained.item_items())
            assert told.contribution == pytest.approx(
                one.score - float(lists.pairs(user, item)), abs=1e-4
            )
        assert told.contribution > 0


def test_reasons_name_those_that_tell_them(runs):
    trained = open_run(runs["with"])
    trust = pd.read_csv(trained.dataset.path.parent / "trust.csv")
    told = {
        (one.item_id, reason.kind): reason
        for one in recommend(trained, "3", ITEMS, explain=True)
        for reason in one.relations
    }
    for (item, kind), reason in told.items():
        if kind == "rev_has_kind":
            assert reason.names == (("even", "odd")[item % 2],) and reason.of == "item"
            assert reason.text == f"kind {reason.names[0]}"
            continue
        own, others = "user_id", "to_user_id"
        if kind == "trusts":
            own, others = others, own
        heard = trust[trust[own] == 3].sort_values("weight", ascending=False, kind="stable")
        assert reason.count == len(heard) and reason.of == "user"
        assert set(reason.names) <= set(heard[others].astype(str))
        assert len(reason.names) == min(3, len(heard))
        least = min(heard.set_index(heard[others].astype(str)).loc[[*reason.names], "weight"])
        assert least >= heard["weight"].iloc[len(reason.names) - 1]


def test_lists_in_bulk_have_the_reasons_of_each_user(runs, tmp_path):
    trained = open_run(runs["with"])
    new = tmp_path / "new.csv"
    new.write_text("user_id,item_id,rating\n900,1,5\n900,2,1\n")
    score_top_k(trained, tmp_path / "out", 4, TopKOptions(explain=True, ratings=new))
    frame = pq.read_table(tmp_path / "out").to_pandas()
    for user in (3, 8, 900):
        rows = frame[frame["user_id"] == user]
        given = {"ratings": new} if user == 900 else {}
        alone = recommend(trained, None if given else str(user), 4, explain=True, **given)
        for one, cell in zip(alone, rows["relations"], strict=True):
            assert [told.kind for told in one.relations] == [told["kind"] for told in cell]
            assert [told.names for told in one.relations] == [tuple(told["names"]) for told in cell]
            np.testing.assert_allclose(
                [told.contribution for told in one.relations],
                [told["contribution"] for told in cell],
                atol=1e-4,
            )
            # Somebody new has no relations, and its items have theirs.
            assert user != 900 or {told.of for told in one.relations} <= {"item"}


def test_models_without_relations_say_what_they_said(runs, tmp_path):
    trained = open_run(runs["without"])
    score_top_k(trained, tmp_path / "out", 4, TopKOptions(explain=True))
    names = pq.read_table(tmp_path / "out").column_names
    assert names == ["user_id", "item_id", "rank", "score", "rating", "because", "contribution"]

    def shown(name):
        arguments = ["recommend", str(runs[name]), "--user", "3", "--explain", "--json"]
        found = json.loads(CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout)
        return found["recommendations"]

    assert all(
        list(one) == ["rank", "item_id", "title", "score", "rating", "because", "predicted"]
        for one in shown("without")
    )
    keys = {"kind", "of", "names", "count", "contribution"}
    assert all(set(told) == keys for one in shown("with") for told in one["relations"])
    text = CliRunner().invoke(
        cli, ["recommend", str(runs["with"]), "--user", "3", "--explain"], catch_exceptions=False
    )
    assert "trusts" in text.stdout and "(+0." in text.stdout
