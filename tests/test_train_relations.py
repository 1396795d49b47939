"""Relations from end to end: what they plant is learned, and what cannot be is refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from runs import make_settings

from dglrec.config import load_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.export import export
from dglrec.infer import Rated, find_reasons
from dglrec.run import new_model, open_run, read_directions
from dglrec.score import TopKOptions, recommend, score_top_k
from dglrec.train import train
from dglrec.train.memory import footprint

USERS, ITEMS = 120, 40
FITTING = {"epochs": 40, "learning_rate": 0.03}


def write(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Users love the items of their own side, and trust users of it; items have a kind each."""
    folder = tmp_path_factory.mktemp("relations")
    rng = np.random.default_rng(4)
    rows = []
    for user in range(USERS):
        for item in rng.choice(ITEMS, 12, replace=False):
            loves = (user % 2) == (item % 2)
            rows.append((user, item, int(np.clip(rng.normal(4.3 if loves else 1.7, 0.5), 1, 5))))
    write(folder / "ratings.csv", "user_id,item_id,rating", rows)
    trusts = [(u, v) for u in range(USERS) for v in rng.choice(USERS // 2, 6) * 2 + u % 2]
    write(folder / "trust.csv", "user_id,to_user_id", trusts)
    kinds = [(item, ("even", "odd")[item % 2]) for item in range(ITEMS)]
    write(folder / "items.csv", "item_id,kind", kinds)
    return folder


ALL = {"user_fanouts": (-1, -1)}  # so that users who hear of users are refined in each layer


def prepared(source, folder, split):
    options = PrepareOptions(
        text=False,
        split=split,
        test=0.2,
        relation={"trusts": source / "trust.csv"},
        item_table=source / "items.csv",
    )
    return prepare(source / "ratings.csv", folder, options)


@pytest.fixture(scope="module")
def by_user(source, tmp_path_factory):
    return prepared(source, tmp_path_factory.mktemp("data") / "user", "user")


@pytest.fixture(scope="module")
def by_item(source, tmp_path_factory):
    return prepared(source, tmp_path_factory.mktemp("data") / "item", "item")


def settings_of(names, loader=None, model=None, **fitting):
    loader = {"batch_size": 200, "unseen_users": 0.2, **(loader or {})}
    model = {"item_features": False, "relations": names, "identity_damping": 5.0, **(model or {})}
    return make_settings(model, loader, **FITTING, **fitting)


def trained_on(dataset, folder, names, **options):
    train(dataset, folder, settings_of(names, **options))
    return open_run(folder)


@pytest.fixture(scope="module")
def social(by_user, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return trained_on(by_user, folder, ("trusts",), loader=ALL)


@pytest.fixture(scope="module")
def labelled(by_item, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return trained_on(by_item, folder, ("has_kind",), loader={"unseen_items": 0.2})


def test_users_without_a_rating_are_predicted_from_those_they_trust(by_user, social, tmp_path):
    found = evaluate(social)
    bias = found["baselines"]["bias"]["rmse"]
    assert found["new_users"]["n"] == found["n"] > 0
    assert bias > 1.2 and found["rmse"] < 0.8 * bias
    assert evaluate(trained_on(by_user, tmp_path / "plain", ()))["rmse"] > 0.95 * bias


def test_new_users_with_given_ratings_hear_those_they_trust(social):
    found = evaluate(social, given=1)
    assert found["rmse"] < 0.9 * found["baselines"]["bias"]["rmse"]
    silent = social.embeddings
    object.__setattr__(silent, "told_users", ())
    try:
        assert evaluate(social, given=1)["rmse"] > found["rmse"] * 1.02
    finally:
        del social.__dict__["embeddings"]


def test_new_items_are_predicted_from_their_labels_as_nodes(labelled):
    found = evaluate(labelled)
    assert found["new_items"]["n"] == found["n"] > 0
    assert found["rmse"] < 0.8 * found["baselines"]["bias"]["rmse"]


def test_new_items_of_a_file_have_their_labels(labelled, tmp_path):
    rows = [(1000, "even"), (1001, "odd"), (1002, "unheard of"), (1003, "")]
    file = write(tmp_path / "new.csv", "item_id,kind", rows)
    score_top_k(labelled, tmp_path / "out", 4, TopKOptions(new_items=file, items=file))
    frame = pq.read_table(tmp_path / "out").to_pandas()
    table = frame.pivot(index="user_id", columns="item_id", values="rating")
    side = table.index.to_numpy() % 2
    assert (table[1000] > table[1001])[side == 0].mean() > 0.95
    assert (table[1000] < table[1001])[side == 1].mean() > 0.95
    np.testing.assert_allclose(table[1002], table[1003])


def test_a_run_with_relations_is_scored_exported_and_explained(social, tmp_path):
    score_top_k(social, tmp_path / "out", 3, TopKOptions())
    export(social, tmp_path / "exported")
    degrees = social.dataset.graph.by_user.degrees
    user = int(np.flatnonzero(degrees)[0])
    best = recommend(social, str(social.dataset.users.ids[user]), 3, explain=True)
    assert len(best) == 3
    new = write(tmp_path / "new.csv", "item_id,rating", [(0, 5), (1, 1), (2, 5)])
    assert len(recommend(social, None, 3, ratings=new)) == 3


def test_an_explanation_leaves_out_a_rating_and_nothing_of_relations(social):
    """One user's only rating left out: what remains is what those it trusts say."""
    dataset = social.dataset
    degrees = dataset.graph.by_user.degrees
    user = torch.tensor([int(np.flatnonzero(degrees)[0])])
    rated = Rated(dataset.graph.by_user, dataset.scale, dataset.biases, torch.arange(len(degrees)))
    items = torch.arange(ITEMS).unsqueeze(0)
    told = social.embeddings
    assert len(told.told_users) == 2
    reasons = find_reasons(social.model, told, social.scorer, rated, user, user, items)
    changed = told.told_users[0].clone()
    changed[user] += 1
    other = type(told)(told.nodes, told.item_layers, told.lists, (changed, told.told_users[1]))
    moved = find_reasons(social.model, other, social.scorer, rated, user, user, items)
    assert not np.array_equal(reasons.contributions, moved.contributions)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("trust",), {}, r"no relation trust; there is trusts, has_kind, .*training rows similar"),
        (("rates",), {}, r"model.relations: .*no relation rates"),
        (
            ("trusts",),
            {"loader": {"kind": "full", "unseen_users": 0.0}},
            r"relations = trusts: loader.kind=full reads",
        ),
        (
            ("trusts",),
            {"loader": {"kind": "neighbor", "unseen_users": 0.0}},
            r"loader.kind=neighbor reads ratings alone",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(by_user, tmp_path, names, options, message):
    with pytest.raises(UsageError, match=message):
        train(by_user, tmp_path / "run", settings_of(names, **options))


def test_relations_count_in_the_memory_that_training_takes(by_user):
    def taken(*names):
        settings = settings_of(names).resolved(by_user.graph)
        model = new_model(settings.model, by_user)
        directions = read_directions(settings.model, by_user)
        return footprint(by_user.graph, model, settings, directions=directions)

    few, many = taken(), taken("trusts")
    assert many.graph - few.graph == sum(
        one.nbytes for one in read_directions(settings_of(("trusts",)).model, by_user)
    )
    assert many.step > few.step and many.model > few.model


def test_relations_take_items_in_reach_too(by_user, tmp_path):
    loader = {"items": "reached", "unseen_items": 0.1}
    found = evaluate(trained_on(by_user, tmp_path / "run", ("trusts", "has_kind"), loader=loader))
    assert found["rmse"] < 0.85 * found["baselines"]["bias"]["rmse"]


def test_a_ridge_is_behind_every_layer_where_users_hear_of_users(social, labelled, by_user):
    def refined(run):
        return [one.refinement is not None for one in run.model.encoder.layers]

    assert refined(social) == [True, True] and social.model.config.refined_layers == "all"
    assert refined(labelled) == [False, True]

    def resolved(*names, among_users=(), loader=None, **model):
        settings = settings_of(names, {**ALL, **(loader or {})}, model)
        return settings.resolved(by_user.graph, among_users=among_users).model.refined_layers

    assert by_user.among_users == ("trusts",)
    assert resolved("trusts", among_users=("trusts",)) == "all"
    assert resolved("trusts", among_users=("trusts",), refined_layers="last") == "last"
    sampled = {"user_fanouts": (5, -1)}
    assert resolved("trusts", among_users=("trusts",), loader=sampled) == "auto"
    assert resolved("has_kind", among_users=("trusts",)) == "auto"
    assert resolved("agreeing_users", loader={"unseen_users": 0.0}) == "all"


def test_settings_of_relations_come_back_from_a_runs_configuration(social, tmp_path):
    assert social.model.config.relations == ("trusts",)
    settings = load_settings(assignments=["model.relations=trusts"])
    assert settings.to_dict()["model"]["relations"] == ["trusts"]
