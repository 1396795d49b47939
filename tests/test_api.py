"""The same from Python: equal to the verbs to the last digit, and clear about what is wrong."""

import importlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from runs import without_times
from torch.nn import functional

import dglrec
from dglrec import (
    DataError,
    DglrecError,
    Recommender,
    UnknownIdsError,
    UsageError,
    register_convolution,
    register_encoder,
    register_list_loss,
    register_loss,
)
from dglrec.api.words import in_python
from dglrec.cli import cli
from dglrec.config import load_settings
from dglrec.features import ENCODERS, IdentityEncoder
from dglrec.nn import CONVOLUTIONS, GCNConv
from dglrec.train import LIST_LOSSES, LOSSES, train

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "train.epochs": 1,
    "train.learning_rate": 0.01,
    "model.embedding_size": 4,
    "model.decoder_size": 4,
    "model.list_size": 4,
    "model.refinement": 2,
    "loader.batch_size": 400,
    "loader.folds": 2,
}
TEXT_IDS = [f"item {number:02d}" for number in range(30)]


def make_ratings(users=40, items=30, rows=900, seed=0):
    """Ratings by two kinds of users of two kinds of items, in no order."""
    random = np.random.default_rng(seed)
    pairs = random.permutation(users * items)[:rows]
    user, item = pairs // items, pairs % items
    liked = (user % 2) == (item % 2)
    rating = np.clip(np.where(liked, 4, 2) + random.integers(-1, 2, rows), 1, 5)
    return pd.DataFrame({"user_id": user + 100, "item_id": item, "rating": rating})


def make_items():
    return pd.DataFrame(
        {
            "item_id": range(30),
            "title": [f"Title {number}" for number in range(30)],
            "genres": [["even" if number % 2 == 0 else "odd"] for number in range(30)],
            "length": [float(number % 7) for number in range(30)],
        }
    )


def as_text(ratings):
    return ratings.assign(
        user_id="u" + ratings["user_id"].astype(str),
        item_id=[TEXT_IDS[number] for number in ratings["item_id"]],
    )


def fit(ratings, *others, settings=None, **options):
    return Recommender.fit(
        ratings, *others, settings={**SMALL, **(settings or {})}, quiet=True, **options
    )


def verb(capsys, *arguments):
    """What a verb prints as JSON."""
    capsys.readouterr()
    cli.main(args=[*map(str, arguments), "--json"], prog_name="dglrec", standalone_mode=False)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def ratings():
    return make_ratings()


@pytest.fixture(scope="module")
def fitted(ratings, tmp_path_factory):
    return fit(ratings, make_items(), path=tmp_path_factory.mktemp("fitted") / "model")


# ---------------------------------------------------------------- the verbs, and no second path


def test_figures_and_lists_are_those_of_the_verbs_on_the_same_csv(
    ratings, fitted, tmp_path, capsys
):
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    items = make_items().assign(genres=["even", "odd"] * 15)
    items.to_csv(tmp_path / "items.csv", index=False)
    data, run, out = (tmp_path / name for name in ("data", "run", "out"))
    verb(capsys, "prepare", tmp_path / "ratings.csv", data, "--item-table", tmp_path / "items.csv")
    settings = [f"--set={key}={value}" for key, value in SMALL.items()]
    trained = verb(capsys, "train", data, run, *settings)
    assert without_times(trained) == without_times(fitted.results)
    assert fitted.dataset.meta["features"] == {"genres": 2, "length": 2}

    report = verb(capsys, "evaluate", run, "--ranking", 5, "--details")
    assert json.loads(json.dumps(fitted.report(ranking=5, details=True))) == report
    figures = fitted.evaluate(ranking=5)
    assert figures.loc["model", "rmse"] == report["rmse"]
    assert figures.loc["bias", "rmse"] == report["baselines"]["bias"]["rmse"]
    assert figures.loc["popularity", "ndcg@5"] == report["baselines"]["popularity"]["ndcg@5"]

    verb(capsys, "score", run, out, "--top-k", 5)
    lists = fitted.recommend(k=5)
    pd.testing.assert_frame_equal(lists.drop(columns="title"), pd.read_parquet(out))
    assert lists["title"].tolist() == [f"Title {item}" for item in lists["item_id"]]
    some = [139, 100]
    found = fitted.recommend(some, 5)
    wanted = pd.concat([lists[lists["user_id"] == user] for user in some], ignore_index=True)
    pd.testing.assert_frame_equal(found, wanted)
    one = verb(capsys, "recommend", run, "--user", 139, "-k", 5)["recommendations"]
    assert [entry["item_id"] for entry in one] == found["item_id"][:5].tolist()

    pairs = ratings[["user_id", "item_id"]].head(50)
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    verb(capsys, "score", run, tmp_path / "scored", "--pairs", tmp_path / "pairs.csv")
    scored = pd.read_parquet(tmp_path / "scored")
    pd.testing.assert_frame_equal(fitted.predict(pairs), scored)
    pd.testing.assert_frame_equal(fitted.predict(pairs.itertuples(index=False)), scored)


def test_new_users_and_reasons_are_those_of_the_verbs(ratings, fitted, tmp_path, capsys):
    new = ratings[ratings["user_id"] < 103].assign(user_id=lambda rows: rows["user_id"] + 900)
    new.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "out"
    verb(capsys, "score", fitted.path / "run", out, "--top-k=4", "--ratings", tmp_path / "new.csv")
    scored = pd.read_parquet(out)
    wanted = scored[scored["user_id"] >= 1000]
    # In the order in which the frame names them.
    order = {user: place for place, user in enumerate(new["user_id"].unique())}
    wanted = wanted.sort_values("user_id", key=lambda ids: ids.map(order), kind="stable")
    found = fitted.recommend(new, 4)
    pd.testing.assert_frame_equal(found.drop(columns="title"), wanted.reset_index(drop=True))

    explained = fitted.recommend([101, 102], 4, explain=True)
    reasons = fitted.explain(explained)
    assert (reasons["contribution"] > 0).all() and len(reasons)
    assert (reasons["title"] == "Title " + reasons["because"].astype(str)).all()
    by_pair = reasons.groupby(["user_id", "item_id"])
    for row in explained.itertuples():
        if len(row.because):
            of_pair = by_pair.get_group((row.user_id, row.item_id))
            assert of_pair["because"].tolist() == list(row.because)
            np.testing.assert_allclose(of_pair["contribution"], row.contribution, atol=1e-5)


def test_similar_items_are_the_largest_cosines(fitted):
    vectors = fitted._open().embeddings.nodes.items.numpy().astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    found = fitted.similar_items([7, 3], k=4)
    assert found["item_id"].tolist() == [7] * 4 + [3] * 4
    assert found["rank"].tolist() == [1, 2, 3, 4] * 2
    for item, rows in found.groupby("item_id"):
        np.testing.assert_allclose(rows["similarity"], np.sort(cosines[item])[::-1][:4], atol=1e-5)
        near = cosines[item, rows["similar_id"]]
        np.testing.assert_allclose(rows["similarity"], near, atol=1e-5)
    assert len(fitted.similar_items(k=29)) == 30 * 29


# ---------------------------------------------------------------- frames of any library


def test_frames_of_other_libraries_are_the_same_data(ratings, fitted):
    odd = ratings.set_index(np.arange(len(ratings)) * 3)
    frames = {
        "arrow": pa.Table.from_pandas(ratings),
        "another index": odd,
        "nullable": ratings.convert_dtypes(),
        "small types": ratings.astype({"user_id": "int16", "item_id": "uint8", "rating": "int8"}),
        "categories": ratings.astype({"item_id": "category"}),
        "chunks": pa.concat_tables(
            [pa.Table.from_pandas(part) for part in (ratings[:7], ratings[7:])]
        ),
    }
    for name, frame in frames.items():
        model = prepared(frame)
        dataset = model.dataset
        assert dataset.meta["counts"] == fitted.dataset.meta["counts"], name
        assert np.array_equal(dataset.graph.by_user.codes, fitted.dataset.graph.by_user.codes)
        assert dataset.items.ids.equals(fitted.dataset.items.ids), name


def prepared(frame, **options):
    """A model of the data set that a frame becomes, without a training worth its name."""
    return fit(frame, config="bias", **options)


def test_polars_frames_lazy_ones_too(ratings, fitted):
    polars = pytest.importorskip("polars", reason="polars is in no extra: narwhals reads it")
    frame = polars.from_pandas(ratings)
    for one in (frame, frame.lazy()):
        model = prepared(one)
        codes = model.dataset.graph.by_user.codes
        assert np.array_equal(codes, fitted.dataset.graph.by_user.codes)


def test_what_lies_in_pieces_in_memory_has_the_same_checksum(ratings):
    def source_of(frame):
        return prepared(frame).dataset.meta["sources"]

    whole = pa.Table.from_pandas(ratings, preserve_index=False)
    pieces = pa.concat_tables([whole[:300], whole[300:]])
    assert source_of(ratings) == source_of(pieces)
    assert source_of(ratings)[0]["file"] == "ratings"
    assert source_of(ratings.assign(rating=3 + ratings["rating"] % 2)) != source_of(ratings)


def test_ids_stay_text_where_they_are_text(ratings):
    model = fit(as_text(ratings))
    lists = model.recommend(["u101"], 3)
    assert lists["user_id"].tolist() == ["u101"] * 3 and set(lists["item_id"]) <= set(TEXT_IDS)
    assert model.predict([("u101", "item 05")])["item_id"].tolist() == ["item 05"]
    # An item that no table names has its id for a title.
    assert lists["title"].tolist() == lists["item_id"].tolist()


def test_rows_without_ratings_are_interactions_and_users_have_attributes(ratings):
    users = pd.DataFrame({"user_id": range(100, 140), "age": range(20, 60)})
    trust = pd.DataFrame({"user_id": range(100, 139), "to_user_id": range(101, 140)})
    model = fit(
        ratings.drop(columns="rating"),
        None,
        users,
        {"trusts": trust},
        settings={"model.relations": ["trusts"]},
    )
    assert not model.dataset.has_ratings and model.dataset.user_feature_widths == {"age": 2}
    assert model.dataset.relation("trusts").num_edges == 39
    lists = model.recommend(100, 2)
    assert list(lists.columns) == ["user_id", "item_id", "title", "rank", "score"]
    assert "rating" not in model.predict([(100, 1)]) and "ndcg@10" in model.evaluate()


def test_what_is_asked_for_of_lists_is_what_comes(fitted, ratings):
    few = fitted.recommend([100, 101], 2, items=[3, 4, 5], exclude_seen=False)
    assert set(few["item_id"]) <= {3, 4, 5} and len(few) == 4
    by_rating = fitted.recommend([100], 30, order="rating", exclude_seen=False)
    assert by_rating["score"].is_monotonic_decreasing
    np.testing.assert_allclose(by_rating["rating"], by_rating["score"].clip(1, 5), rtol=1e-6)
    diverse = fitted.recommend([100], 6, diverse="genres", diversity=1.0, exclude_seen=False)
    assert diverse["title"].nunique() == 6
    seen = set(ratings.loc[ratings["user_id"] == 100, "item_id"])
    assert not seen & set(fitted.recommend(100, 3)["item_id"])
    # More ratings of a user of the data set.
    more = pd.DataFrame({"user_id": [100], "item_id": [few["item_id"][0]], "rating": [5]})
    assert len(fitted.recommend(more, 3, known="extend")) == 3
    with pytest.raises(DataError, match="known to the data set.*known='extend'"):
        fitted.recommend(more, 3, known="error")


def test_a_frame_may_have_names_of_its_own(ratings, fitted):
    names = {"user_id": "who", "item_id": "what", "rating": "stars"}
    own = ratings.rename(columns=names)
    columns = {"user": "who", "item": "what", "rating": "stars"}
    model = fit(own, make_items(), columns=columns)
    same_figures(model, fitted)
    pairs = own[["who", "what"]].head(9)
    wanted = fitted.predict(ratings.head(9))
    pd.testing.assert_frame_equal(model.predict(pairs), wanted)
    pd.testing.assert_frame_equal(model.predict(wanted), wanted)
    new = ratings.head(20).assign(user_id=999)
    found = model.recommend(new.rename(columns=names), 3)
    pd.testing.assert_frame_equal(found, fitted.recommend(new, 3))


# ---------------------------------------------------------------- what bad input gets


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.rename(columns={"user_id": "userID"}), "rename 'userID' to user_id"),
        (lambda r: r[["user_id", "rating"]], "ratings: no column item_id"),
        (lambda r: r.set_index("item_id"), "ratings: no column item_id"),
        (lambda r: r.rename(columns={"rating": "stars"}), "rename 'stars' to rating"),
        (lambda r: r[:0], "ratings: holds no rows"),
        (
            lambda r: r.astype({"user_id": object}).replace({"user_id": {101: "x"}}),
            r"ratings: column user_id holds values of several types \(.*str.*\)",
        ),
        (lambda r: r.astype({"user_id": float}) + 0.5, "user_id holds double; ids must be"),
        (lambda r: r.replace({"rating": {3: None}}), r"ratings: row \d+: rating is missing"),
        (lambda r: r.astype({"rating": str}), "ratings: column rating holds"),
        (lambda r: r.assign(item_id=r["item_id"] - 3), r"ratings: row \d+: item_id is negative"),
        (lambda r: pd.concat([r, r["rating"]], axis=1), "ratings: .*rating"),
        (lambda r: r.assign(rating=3), "every rating is 3"),
        (lambda r: r.to_numpy(), "ratings: is of type ndarray; give a DataFrame"),
        (lambda r: "ratings.csv", "ratings: is of type str; give a DataFrame"),
    ],
)
def test_a_bad_frame_is_refused_and_leaves_nothing(ratings, tmp_path, change, said):
    with pytest.raises(DglrecError, match=said) as raised:
        fit(change(ratings), path=tmp_path / "model")
    assert isinstance(raised.value, DataError | UsageError)
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"items": pd.DataFrame({"title": ["a"]})}, "items: no column item_id"),
        ({"items": pd.DataFrame({"item_id": [999], "kind": ["a"]})}, "items: none of its 1 ids"),
        ({"users": pd.DataFrame({"user_id": [100]})}, "users: has ids and no other column"),
        ({"relations": {"trusts": pd.DataFrame({"a": [1]})}}, "relation trusts: a relation has"),
        ({"settings": {"train.epoch": 1}}, "settings: no setting train.epoch; did you mean"),
        ({"settings": {"train.epochs": 0}}, "train.epochs = 0"),
        ({"settings": {"train.epochs": "many"}}, "train.epochs = 'many'"),
        ({"settings": {"model.relations": ["trusts"]}}, "no relation trusts"),
        ({"config": "lightgc"}, "none of that name comes with dglrec"),
        ({"attributes": {"length": "heavy"}}, "attributes 'length=heavy'.*number, category"),
        ({"scale": (1, 5, 0.3)}, "step must divide the range"),
        ({"columns": {"users": "user_id"}}, "columns 'users=user_id': write KEY=NAME"),
        ({"columns": {"user": "who"}}, "ratings: no column who"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"split": "chance"}, "chance"),
        ({"valid": 0}, "train.epochs|validation"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(ratings, tmp_path, options, said):
    settings = {**SMALL, **options.pop("settings", {})}
    if "valid" in options:
        del settings["train.epochs"]
    with pytest.raises(DglrecError, match=said) as raised:
        Recommender.fit(ratings, settings=settings, quiet=True, path=tmp_path / "model", **options)
    assert "--" not in str(raised.value).replace("--set train.epochs", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m: m.predict([(100, 999)]), "item_id 999 unknown.*unknown='skip' or null"),
        (lambda m: m.predict([(1, 2), (3, 999)]), "user_id 1, 3 unknown.*and item_id 999"),
        (lambda m: m.recommend([100, 7]), "user_id 7 unknown.*give a frame of their ratings"),
        (lambda m: m.recommend("nobody"), "user_id nobody unknown"),
        (lambda m: m.recommend([100], items=[77]), "items: item_id 77 unknown"),
        (lambda m: m.explain([(100, 77)]), "item_id 77 unknown"),
        (lambda m: m.similar_items([77]), "item_id 77 unknown"),
    ],
)
def test_unknown_ids_are_named_and_what_can_be_done(fitted, ask, said):
    with pytest.raises(UnknownIdsError, match=said):
        ask(fitted)


def test_unknown_ids_can_be_skipped_or_have_no_score(fitted):
    pairs = [(100, 3), (1, 3), (100, 999)]
    assert fitted.predict(pairs, unknown="skip")["item_id"].tolist() == [3]
    scores = fitted.predict(pairs, unknown="null")["score"]
    assert scores.notna().tolist() == [True, False, False]
    assert fitted.recommend([7, 101, 100], 2, unknown="skip")["user_id"].tolist() == [
        *(101, 101),
        *(100, 100),
    ]
    assert len(fitted.explain(pairs, unknown="skip")["item_id"].unique()) <= 1
    assert len(fitted.similar_items([3, 77], 2, unknown="skip")) == 2


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m: m.predict([(100, 1), (100,)]), r"\(100,\) is no pair"),
        (lambda m: m.predict([100, 1]), r"\(100,\) is no pair"),
        (lambda m: m.predict([(100, 1), ("a", 1)]), "pairs: user_id: ids are of several types"),
        (lambda m: m.predict(pd.DataFrame({"user_id": [1]})), "pairs: no column item_id"),
        (lambda m: m.recommend([100, "a"]), "users: ids are of several types"),
        (lambda m: m.recommend([]), "users: no id is given"),
        (lambda m: m.recommend([100], 0), "k = 0"),
        (lambda m: m.recommend([100], 31), "the catalogue has 30 items"),
        (lambda m: m.recommend([1.5]), "users: column user_id holds double"),
        (lambda m: m.recommend(pd.DataFrame({"a": [1]})), "users: no column user_id"),
        (
            lambda m: m.recommend(pd.DataFrame({"user_id": [1], "item_id": [1]})),
            "users: no column rating",
        ),
        (
            lambda m: m.recommend(pd.DataFrame({"user_id": [1], "item_id": [1], "rating": [9]})),
            "users: row 1: rating is off the scale",
        ),
        (lambda m: m.similar_items([1], 30), "k = 30: must be from 1 to 29"),
        (lambda m: m.evaluate("tests"), "split"),
        (lambda m: m.evaluate(diverse="genres"), "diverse.* goes with ranking"),
        (lambda m: m.recommend([100], diverse="genres", diversity=2), "diversity 2"),
    ],
)
def test_bad_questions_are_errors_of_the_package(fitted, ask, said):
    with pytest.raises((UsageError, DataError), match=said) as raised:
        ask(fitted)
    assert "--" not in str(raised.value)


def test_a_baseline_says_what_it_lacks(ratings):
    model = fit(ratings, config="bias")
    assert len(model.recommend([100], 3)) == 3 and "rmse" in model.evaluate()
    assert len(model.predict([])) == 0
    for ask in (model.similar_items, lambda: model.explain([(100, 1)])):
        with pytest.raises(UsageError, match="needs a graph model"):
            ask()


def test_messages_speak_of_keywords():
    said = in_python("take --known extend or replace, --set a.b=true; --top-k or --no-text")
    assert said == "take known='extend' or replace, settings={'a.b': True}; k or text=False"


# ---------------------------------------------------------------- folders


def test_what_was_saved_is_loaded_and_answers_the_same(fitted, tmp_path):
    wanted = fitted.recommend(k=3)
    place = fitted.save(tmp_path / "saved")
    assert sorted(one.name for one in place.iterdir()) == ["data", "run"]
    moved = place.rename(tmp_path / "moved")
    loaded = Recommender.load(moved)
    pd.testing.assert_frame_equal(loaded.recommend(k=3), wanted)
    assert loaded.results == fitted.results and "graph, 40 users" in repr(loaded)
    again = Recommender.load(moved / "run", dataset=moved / "data")
    pd.testing.assert_frame_equal(again.recommend(k=3), wanted)
    with pytest.raises(UsageError, match="exists; .*overwrite=True"):
        loaded.save(moved)
    assert loaded.save(moved, overwrite=True) == moved
    with pytest.raises(DataError, match="no such run"):
        Recommender.load(tmp_path / "nothing")


def test_a_folder_in_use_is_refused_before_any_work_and_replaced_on_demand(
    ratings, tmp_path, monkeypatch
):
    place = tmp_path / "model"
    first = fit(ratings, path=place)
    weights = (place / "run" / "checkpoints" / "best" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("dglrec.api.recommender.prepare", None)
        with pytest.raises(UsageError, match="data exists; .*overwrite=True"):
            fit(ratings, path=place)
    fit(ratings, path=place, overwrite=True, settings={"train.seed": 1})
    assert (place / "run" / "checkpoints" / "best" / "model.safetensors").read_bytes() != weights
    assert first.path == place


def test_without_a_path_the_folder_goes_with_the_recommender(ratings):
    model = fit(ratings, config="bias")
    folder = model.path
    assert folder.is_dir()
    del model
    assert not folder.exists()


# ---------------------------------------------------------------- threads, imports


def test_off_the_main_thread_it_is_the_same(ratings, fitted):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(fit(ratings, make_items()).recommend(k=3))
    )
    thread.start()
    thread.join()
    pd.testing.assert_frame_equal(found[0], fitted.recommend(k=3))


def test_importing_the_package_loads_nothing_and_shows_what_is_public():
    code = (
        "import sys, dglrec; print(sorted({'torch', 'pandas', 'pyarrow', 'numba'} "
        "& set(sys.modules)), *(name in dir(dglrec) for name in dglrec.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", *["True"] * len(dglrec.__all__)]
    with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
        dglrec.Recomender  # noqa: B018
    api = importlib.import_module("dglrec.api")
    assert set(dglrec.__all__) == {*api.__all__, "__version__"}
    assert all(getattr(dglrec, name) is getattr(api, name) for name in api.__all__)


# ---------------------------------------------------------------- parts of one's own


@pytest.fixture
def clean_registries():
    """What a test registers goes when it ends."""
    registries = (LOSSES, LIST_LOSSES, CONVOLUTIONS, ENCODERS)
    before = [(registry, set(registry.added)) for registry in registries]
    yield
    for registry, names in before:
        for name in registry.added - names:
            registry.remove(name)


def same_figures(first, second):
    for name in ("valid", "test"):
        assert first.results[name] == second.results[name]


def test_a_loss_that_is_the_squared_error_trains_what_mse_trains(ratings, fitted, clean_registries):
    @register_loss("my_squares")
    def squares(predictions, ratings):
        return functional.mse_loss(predictions, ratings, reduction="none")

    same_figures(fit(ratings, make_items(), settings={"train.loss": "my_squares"}), fitted)

    @register_loss("absolute")
    def absolute(predictions, ratings):
        return (predictions - ratings).abs()

    other = fit(ratings, make_items(), settings={"train.loss": "absolute"})
    assert other.results["test"]["rmse"] != fitted.results["test"]["rmse"]


def test_a_list_loss_that_is_bpr_trains_what_bpr_trains(ratings, tmp_path, clean_registries):
    @register_list_loss("my_bpr")
    def bpr(positives, negatives, there):
        each = functional.softplus(negatives - positives.unsqueeze(1)) * there
        return each.sum(1) / there.sum(1).clamp(min=1)

    for others in ({"ranking.negatives": "uniform"}, {"ranking.negatives": "hard"}):
        own = fit(ratings, settings={"ranking.loss": "my_bpr", **others}, path=tmp_path / "own")
        same_figures(own, fit(ratings, settings={"ranking.loss": "bpr", **others}))
        LIST_LOSSES.remove("my_bpr")
        assert len(Recommender.load(tmp_path / "own").recommend([100], 3)) == 3
        with pytest.raises(UsageError, match="ranking.loss.*'bpr'.*register_list_loss adds"):
            fit(ratings, settings={"ranking.loss": "my_bpr"})
        with pytest.raises(UsageError, match="ranking.loss.*'bpr'.*register_list_loss adds"):
            Recommender.resume(tmp_path / "own")
        register_list_loss("my_bpr")(bpr)
        (tmp_path / "own").rename(tmp_path / others["ranking.negatives"])
    with pytest.raises(UsageError, match="negatives catalogue go with loss softmax"):
        fit(ratings, settings={"ranking.loss": "my_bpr", "ranking.negatives": "catalogue"})


def test_a_convolution_that_is_gcn_trains_what_gcn_trains(ratings, tmp_path, clean_registries):
    @register_convolution("my_gcn")
    class MyGCN(GCNConv):
        def __init__(self, size):
            super().__init__(size, size)

    own = fit(ratings, settings={"model.convolution": "my_gcn"}, path=tmp_path / "own")
    same_figures(own, fit(ratings, settings={"model.convolution": "gcn"}))
    assert len(Recommender.load(tmp_path / "own").recommend([100], 3)) == 3
    CONVOLUTIONS.remove("my_gcn")
    with pytest.raises(DataError, match="'gcn'.* or what register_convolution adds"):
        Recommender.load(tmp_path / "own")
    CONVOLUTIONS.add("my_gcn", lambda size, config: MyGCN(size))
    with pytest.raises(UsageError, match="loader.kind=saint weighs the edges"):
        fit(ratings, settings={"model.convolution": "my_gcn", "loader.kind": "saint"})


def test_an_encoder_that_standardises_makes_the_features_of_numbers(
    ratings, fitted, tmp_path, clean_registries
):
    @register_encoder("my_number")
    class MyNumber:
        def __init__(self, encoder):
            self.encoder = encoder

        @classmethod
        def fit(cls, column, training):
            return cls(IdentityEncoder.fit(column.to_numpy(float), training, True))

        def encode(self, column):
            return self.encoder.encode(column.to_numpy(float))

    own = fit(ratings, make_items(), attributes={"length": "my_number"}, path=tmp_path / "own")
    same_figures(own, fitted)
    assert torch.equal(own.dataset.item_features, fitted.dataset.item_features)
    # Items that training never saw are encoded by it, too.
    new = pd.DataFrame({"item_id": [50], "genres": [["even"]], "length": [3.0]})
    scores = [one.predict([(100, 50)], new_items=new) for one in (own, fitted)]
    pd.testing.assert_frame_equal(*scores)
    ENCODERS.remove("my_number")


WRONG_LOSSES = {
    "mean": (lambda p, r: ((p - r) ** 2).mean(), r"gives \[\] for 3 predictions; give \[3\]"),
    "none": (lambda p, r: None, "gives NoneType for 3 predictions"),
    "nan": (lambda p, r: (p - r) * float("nan"), "no finite number"),
    "flat": (lambda p, r: (p - r).detach(), "has no gradient"),
    "raises": (lambda p, r: p @ r[:1], r"fails on 3 predictions \(RuntimeError"),
}


WRONG_LIST_LOSSES = {
    "mean": (lambda p, n, t: (n - p[:, None]).mean(), r"gives \[\] for 3 positives; give \[3\]"),
    "wide": (lambda p, n, t: n - p[:, None], r"gives \[3, 2\] for 3 positives"),
    "none": (lambda p, n, t: None, "gives NoneType for 3 positives"),
    "nan": (lambda p, n, t: p + n.sum(1) / t.sum(1), "no finite number"),  # one has no negative
    "flat": (lambda p, n, t: (p + n.sum(1)).detach(), "has no gradient"),
    "raises": (lambda p, n: p, r"fails on 3 positives \(TypeError"),
}


@pytest.mark.parametrize(
    ("key", "register", "loss", "said"),
    [
        pytest.param(key, register, *wrong, id=f"{key} {name}")
        for key, register, losses in (
            ("train.loss", register_loss, WRONG_LOSSES),
            ("ranking.loss", register_list_loss, WRONG_LIST_LOSSES),
        )
        for name, wrong in losses.items()
    ],
)
def test_a_loss_of_the_wrong_shape_is_refused_before_training(
    ratings, tmp_path, key, register, loss, said, clean_registries
):
    register("wrong")(loss)
    with pytest.raises(UsageError, match=f"^{key} = wrong: .*{said}"):
        fit(ratings, settings={key: "wrong"}, path=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refit", ["none", "valid"])
def test_a_wrong_part_leaves_the_run_that_it_was_to_replace(
    ratings, tmp_path, refit, clean_registries
):
    model = fit(ratings, path=tmp_path / "model")
    before = (tmp_path / "model" / "run" / "checksums.json").read_bytes()
    register_loss("wrong")(lambda predictions, ratings: None)
    settings = load_settings(given={**SMALL, "train.loss": "wrong", "train.refit": refit})
    with pytest.raises(UsageError, match="train.loss = wrong: gives NoneType"):
        train(model.dataset, tmp_path / "model" / "run", settings, overwrite=True)
    assert (tmp_path / "model" / "run" / "checksums.json").read_bytes() == before


def test_a_list_loss_that_changes_its_shape_is_an_error_while_training(ratings, clean_registries):
    register_list_loss("of_three")(lambda p, n, t: p if len(p) == 3 else p.sum())
    with pytest.raises(UsageError, match=r"of_three: gives \[\] for \d+ positives; give"):
        fit(ratings, settings={"ranking.loss": "of_three"})


class Wrong(dglrec.Convolution):
    def __init__(self, size, out=None, bare=None):
        super().__init__()
        self.out, self.bare = out, bare

    def forward(self, block, sources, destinations):
        return destinations if self.out is None else self.out(destinations)

    def without_edges(self, destinations):
        return destinations if self.bare is None else self.bare(destinations)


WRONG_CONVOLUTIONS = {
    "narrow": ({"out": lambda d: d[:, :2]}, r"forward gives \[3, 2\] for 3 nodes; give \[3, 4\]"),
    "short": ({"bare": lambda d: d[:1]}, r"without_edges gives \[1, 4\]"),
    "other": ({"bare": lambda d: d + 1}, "without_edges and forward give different"),
    "infinite": ({"out": lambda d: d / 0}, "no finite number"),
    "raises": ({"out": lambda d: d @ d}, r"fails on a block of 3 nodes \(RuntimeError"),
}


@pytest.mark.parametrize("name", WRONG_CONVOLUTIONS)
def test_a_convolution_of_the_wrong_shape_is_refused_before_training(
    ratings, tmp_path, name, clean_registries
):
    options, said = WRONG_CONVOLUTIONS[name]
    register_convolution(f"wrong_{name}")(lambda size: Wrong(size, **options))
    with pytest.raises(UsageError, match=f"model.convolution = wrong_{name}: .*{said}"):
        fit(ratings, settings={"model.convolution": f"wrong_{name}"}, path=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


WRONG_ENCODERS = {
    "flat": (lambda column: np.zeros(len(column)), r"gives float64 \[30\] for 30 rows; give"),
    "short": (lambda column: np.zeros((2, 3)), r"gives float64 \[2, 3\] for 30 rows"),
    "text": (lambda column: np.array([["a"]] * len(column)), "give numbers"),
    "nan": (lambda column: np.full((len(column), 1), np.nan), "not a finite number"),
    "raises": (lambda column: 1 / 0, "fails .ZeroDivisionError"),
}


@pytest.mark.parametrize("name", WRONG_ENCODERS)
def test_an_encoder_of_the_wrong_shape_is_refused_before_anything_is_written(
    ratings, tmp_path, name, clean_registries
):
    encode, said = WRONG_ENCODERS[name]

    @register_encoder(f"wrong_{name}")
    class WrongEncoder:
        @classmethod
        def fit(cls, column, training):
            return cls()

        def encode(self, column):
            return encode(column)

    options = {"attributes": {"length": f"wrong_{name}"}, "path": tmp_path / "model"}
    with pytest.raises(UsageError, match=f"attribute length: encoder wrong_{name} .*{said}"):
        fit(ratings, make_items(), **options)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_taken_or_none_are_refused(clean_registries):
    def loss(predictions, ratings):
        return (predictions - ratings) ** 2

    for register, taken in (
        (register_loss, ["mse", "weighted_mse"]),
        (register_list_loss, ["softmax", "bpr"]),
        (register_convolution, ["sage", "lightgcn", "graph_filter"]),
        (register_encoder, ["number", "none"]),
    ):
        part = type("Part", (), {"fit": loss, "encode": loss})
        for name in taken:
            with pytest.raises(UsageError, match=f"{name}: this name comes with dglrec"):
                register(name, replace=True)(part)
        for name in ("Mine", "a b", "", "../x", 3):
            with pytest.raises(UsageError, match="is no name"):
                register(name)(part)
    register_loss("mine")(loss)
    with pytest.raises(UsageError, match="mine: is registered already; .*replace=True"):
        register_loss("mine")(loss)
    assert register_loss("mine", replace=True)(loss) is loss
    with pytest.raises(UsageError, match="no function or class"):
        register_loss("nothing")(None)
    with pytest.raises(UsageError, match="encoder x's encode: is no function"):
        register_encoder("x")(type("Half", (), {"fit": loss}))


# ---------------------------------------------------------------- what is written about it


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch, capsys, clean_registries):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Recommender, "fit", with_settings(Recommender.fit))
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 9
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/api.md, example {number + 1}", "exec"), names)
    assert "ratings: column rating holds" in capsys.readouterr().out
    assert (tmp_path / "films" / "run" / "results.json").is_file()
    public = text[text.index("## What is public") :]
    assert all(f"`{name}`" in public for name in dglrec.__all__ if name != "__version__")


def test_the_example_of_the_readme_runs(ratings, tmp_path, monkeypatch, clean_registries):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Recommender, "fit", with_settings(Recommender.fit))
    ratings.assign(user_id=ratings["user_id"] - 70).to_csv("ratings.csv", index=False)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "Recommender" in block)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "model" / "run" / "results.json").is_file()


def with_settings(fit_as_it_is):
    """`Recommender.fit` of a model that takes no time, whatever else is asked for."""

    def fit_small(*frames, settings=None, **options):
        settings = {**SMALL, **(settings or {})}
        return fit_as_it_is(*frames, settings=settings, quiet=True, **options)

    return fit_small


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """Its cells in a fresh interpreter, as a kernel would run them; a kernel is no dependency."""
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    lines = [line for source in sources for line in source.splitlines() if line.strip()]
    assert len(lines) <= 12 and not any(cell["outputs"] for cell in cells)
    shown = "rmse = model.evaluate()['rmse']; print(rmse['model'] / rmse['bias'])"
    code = "\n".join((*sources, shown))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    # Noise of variance 2/3 is left of a variance of 5/3 that biases say nothing of.
    assert 0.6 < float(done.stdout) < 0.7 and list(tmp_path.iterdir()) == []
