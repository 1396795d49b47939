"""Features of users from end to end: learned, and used of users of whom nothing else is known."""

import numpy as np
import pytest
import torch
from runs import make_settings

from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.export import export
from dglrec.infer import embed_new_users
from dglrec.run import open_run
from dglrec.score import TopKOptions, recommend, score_top_k
from dglrec.train import train
from dglrec.train.memory import footprint

USERS, ITEMS = 120, 24
SETTINGS = {"unseen_items": 0.0, "batch_size": 200}


def write(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Those from the north love items of even numbers, those from the south the others."""
    folder = tmp_path_factory.mktemp("users")
    rng = np.random.default_rng(4)
    rows = []
    for user in range(USERS):
        for item in rng.choice(ITEMS, 10, replace=False):
            loves = (user % 2) == (item % 2)
            rows.append((user, item, int(np.clip(rng.normal(4.3 if loves else 1.7, 0.5), 1, 5))))
    table = [(user, ("north", "south")[user % 2]) for user in range(USERS)]
    source = write(folder / "ratings.csv", "user_id,item_id,rating", rows)
    options = PrepareOptions(
        text=False,
        split="user",
        test=0.2,
        user_table=write(folder / "users.csv", "user_id,home", table),
    )
    return prepare(source, folder / "data", options)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, used in (("with", True), ("without", False)):
        settings = make_settings({"user_features": used}, SETTINGS, epochs=12, learning_rate=0.02)
        train(dataset, folder / name, settings)
    return {name: open_run(folder / name) for name in ("with", "without")}


def test_users_without_a_rating_are_predicted_from_what_they_are(dataset, runs):
    assert dataset.user_feature_widths == {"home": 2}
    known = evaluate(runs["with"])
    assert known["new_users"]["n"] == known["n"] > 0
    bias = known["baselines"]["bias"]["rmse"]
    assert bias > 1.2 and known["rmse"] < 0.7 * bias
    assert evaluate(runs["without"])["rmse"] > 0.95 * bias


def test_new_users_with_given_ratings_have_their_features(dataset, runs):
    """One rating says as little of a user's home as it says at all."""
    with_features = evaluate(runs["with"], given=1)["rmse"]
    assert with_features < 0.9 * evaluate(runs["without"], given=1)["rmse"]


def test_what_is_not_given_of_a_new_user_counts_as_zeros(dataset, runs):
    model, embeddings = runs["with"].model, runs["with"].embeddings
    ratings = dataset.graph.by_user.of_nodes(0, 3)
    biases = dataset.biases.of_new_users(ratings, dataset.scale)

    def encoded(features):
        given = (model, embeddings, ratings, dataset.scale, biases)
        return embed_new_users(*given, features=features).nodes

    assert torch.equal(encoded(None), encoded(torch.zeros(3, 2)))
    assert not torch.allclose(encoded(dataset.user_features[:3]), encoded(None))


def test_a_run_with_features_of_users_is_scored_exported_and_explained(dataset, runs, tmp_path):
    trained = runs["with"]
    assert "inputs.from_user_features.weight" in trained.model.state_dict()
    score_top_k(trained, tmp_path / "out", 3, TopKOptions())
    export(trained, tmp_path / "exported")
    best = recommend(trained, "0", 3, explain=True)
    assert len(best) == 3
    new = write(tmp_path / "new.csv", "item_id,rating", [(0, 5), (1, 1), (2, 5)])
    even = [one.item_id % 2 == 0 for one in recommend(trained, None, 4, ratings=new)]
    assert sum(even) >= 3


def test_features_of_users_that_there_are_not_are_refused_before_anything_is_written(
    dataset, tmp_path
):
    settings = make_settings({"user_features": ("age",)}, SETTINGS)
    with pytest.raises(UsageError, match=r"model.user_features: .* no age; it has home"):
        train(dataset, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_features_of_users_are_counted_in_the_memory_that_training_takes(dataset, runs):
    def taken(name):
        model = runs[name].model
        settings = make_settings({}, SETTINGS).resolved(dataset.graph)
        return footprint(dataset.graph, model, settings).model

    assert taken("with") - taken("without") >= dataset.user_features.nbytes
