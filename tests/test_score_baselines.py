"""Lists, pairs and recommendations of models without a gradient."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from runs import planted

from dglrec.config import load_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.kernels import ItemLists
from dglrec.run import TrainedBaseline, open_predictor
from dglrec.score import ScoreOptions, TopKOptions, recommend, score_pairs, score_top_k
from dglrec.train import train

RATING = ("global_mean", "bias", "item_knn")
LISTS = ("popularity", "ease", "graph_filter", "clicks_item_knn")


@dataclass(frozen=True)
class World:
    folder: Path

    def open(self, name) -> TrainedBaseline:
        trained = open_predictor(self.folder / name)
        assert isinstance(trained, TrainedBaseline)
        return trained


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    rated = planted(folder / "rated", users=50, items=30, ratings=1_000)
    source = folder / "rated" / "source"
    clicks = prepare(source, folder / "clicked", PrepareOptions(text=False, interactions_from=6))
    for name in RATING:
        train(rated, folder / name, load_settings(file=Path(name)))
    for name in LISTS:
        settings = load_settings(file=Path(name.removeprefix("clicks_")))
        train(clicks, folder / name, settings)
    return World(folder)


@pytest.mark.parametrize("name", [*RATING, *LISTS])
def test_lists_hold_the_best_of_what_a_user_lacks(world, tmp_path, name):
    trained = world.open(name)
    dataset, k = trained.dataset, 4
    summary = score_top_k(trained, tmp_path / "scores", k)
    assert summary["complete"] and summary["users"] == len(dataset.users)
    table = pd.read_parquet(tmp_path / "scores")
    rated = dataset.rated_items()
    items = torch.arange(len(dataset.items))
    for user in range(len(dataset.users)):
        own = table[table["user_id"] == dataset.users.ids[user].as_py()]
        scores = trained.rank_pairs(torch.full_like(items, user), items).numpy().copy()
        scores[rated.items[rated.offsets[user] : rated.offsets[user + 1]]] = -np.inf
        places = np.sort(scores)[::-1][:k]
        places = places[np.isfinite(places)]
        assert own["rank"].tolist() == list(range(1, len(places) + 1))
        np.testing.assert_allclose(own["score"], places, rtol=1e-5, atol=1e-6)
        found = dataset.items.encode(pa.array(own["item_id"]))
        np.testing.assert_allclose(scores[found], own["score"], rtol=1e-5, atol=1e-6)
    assert ("rating" in table) == (name in RATING)
    if name in RATING:
        scale = dataset.scale
        expected = table["score"].clip(scale.minimum, scale.maximum)
        np.testing.assert_allclose(table["rating"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["bias", "ease"])
def test_a_recommendation_is_the_list_that_is_written(world, tmp_path, name):
    trained = world.open(name)
    score_top_k(trained, tmp_path / "scores", 3)
    table = pd.read_parquet(tmp_path / "scores")
    user = trained.dataset.users.ids[7].as_py()
    own = table[table["user_id"] == user]
    found = recommend(trained, str(user), 3)
    assert [one.item_id for one in found] == own["item_id"].tolist()
    assert [one.score for one in found] == own["score"].tolist()
    assert [one.rating is None for one in found] == [name == "ease"] * len(found)


def test_seen_items_may_be_asked_for(world, tmp_path):
    trained = world.open("popularity")
    score_top_k(trained, tmp_path / "scores", 2, TopKOptions(include_seen=True))
    table = pd.read_parquet(tmp_path / "scores")
    nothing = ItemLists(np.zeros(len(trained.dataset.users) + 1, np.int64), np.empty(0, np.int32))
    best = trained.best(torch.tensor([0]), nothing, 2)[1][0]
    expected = trained.dataset.items.decode(best.numpy()).to_pylist()
    for _, own in table.groupby("user_id"):
        assert own["item_id"].tolist() == expected


@pytest.mark.parametrize("name", ["bias", "graph_filter"])
def test_pairs_get_ratings_or_what_orders_lists(world, tmp_path, name):
    trained = world.open(name)
    dataset = trained.dataset
    pairs = pd.DataFrame(
        {
            "user_id": dataset.users.decode(np.array([0, 3, 3])).to_pandas(),
            "item_id": dataset.items.decode(np.array([5, 5, 0])).to_pandas(),
        }
    )
    pairs.to_parquet(tmp_path / "pairs.parquet")
    score_pairs(trained, tmp_path / "scores", tmp_path / "pairs.parquet")
    table = pd.read_parquet(tmp_path / "scores")
    indices = torch.tensor([0, 3, 3]), torch.tensor([5, 5, 0])
    expected = trained.predict(*indices) if name == "bias" else trained.rank_pairs(*indices)
    if name == "bias":
        expected = expected.clamp(dataset.scale.minimum, dataset.scale.maximum)
    np.testing.assert_allclose(table["score"], expected.numpy(), rtol=1e-6)


def test_what_a_baseline_cannot_do_is_refused_and_leaves_nothing(world, tmp_path):
    trained = world.open("ease")
    mine = tmp_path / "mine.csv"
    mine.write_text("user_id,item_id\n900001,1\n")
    some = tmp_path / "some.csv"
    some.write_text(f"item_id\n{trained.dataset.items.ids[0].as_py()}\n")
    for option, options in (
        ("--ratings", TopKOptions(ratings=mine)),
        ("--new-items", TopKOptions(new_items=some)),
        ("--explain", TopKOptions(explain=True)),
        ("--items", TopKOptions(items=some)),
    ):
        with pytest.raises(UsageError, match=f"{option} needs a graph model.*ease baseline"):
            score_top_k(trained, tmp_path / "scores", 1, options)
    assert not (tmp_path / "scores").exists()
    with pytest.raises(UsageError, match="--ratings needs a graph model"):
        score_pairs(trained, tmp_path / "scores", mine, ScoreOptions(ratings=mine))
    for given, option in (({"explain": True}, "--explain"), ({"ratings": mine}, "--ratings")):
        with pytest.raises(UsageError, match=f"{option} needs a graph model"):
            recommend(trained, "1", 3, **given)
    with pytest.raises(UsageError, match="ease baseline predicts no ratings"):
        trained.ordered_by("rating")
    with pytest.raises(DataError, match="no user nobody"):
        recommend(trained, "nobody", 3)
