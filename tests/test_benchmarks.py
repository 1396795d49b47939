"""The drivers measure what they say: slices, subsets, gaps, and the form of their results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.graph import build_graph
from dglrec.nn import ModelConfig
from dglrec.sampling import LoaderConfig
from dglrec.schema import RatingScale
from dglrec.synthetic import synthesize
from dglrec.train import Settings, TrainConfig, train

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def drivers() -> Any:
    """Imports a driver by name; they import each other as neighbours."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


def test_rates_are_those_of_slices(drivers: Any) -> None:
    rates = drivers("common")._slice_rates
    assert rates([(10, 1.0)] * 10) == pytest.approx([10.0] * 5)
    assert rates([(10, 1.0), (30, 1.0)]) == pytest.approx([10.0, 30.0])
    # One slow step spoils one slice of five, and the median not at all.
    assert sorted(rates([(10, 1.0)] * 8 + [(10, 2.0)]))[1:] == pytest.approx([10.0] * 4)
    # All edges are in some slice.
    steps = [(edges, 0.1 + edges % 3) for edges in range(1, 40)]
    assert len(rates(steps)) == 5


class FakeLoop:
    """Epochs of three steps with 1, 2 and 3 edges."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def steps(self) -> Any:
        for edges in (1, 2, 3):
            self.done.append(edges)
            yield edges


def test_a_loop_is_warmed_up_and_goes_over_several_epochs(drivers: Any) -> None:
    loop = FakeLoop()
    found = drivers("common").measure_loop(loop, seconds=0.0)
    assert loop.done == [1, 2, 3, 1, 2]  # two to warm up, three at least
    assert found["steps"] == 3
    assert found["edges_per_second"] > 0
    assert found["ns_per_edge"] == pytest.approx(1e9 / found["edges_per_second"], rel=0.1)


def test_a_subset_is_all_ratings_of_some_users(drivers: Any) -> None:
    generator = np.random.default_rng(0)
    pairs = generator.permutation(50 * 30)[:600]
    scale = RatingScale(1, 10)
    graph = build_graph(
        pairs // 30,
        pairs % 30,
        generator.integers(scale.levels, size=600),
        num_users=50,
        num_items=30,
        scale=scale,
    )
    subset = drivers("common").subset
    assert subset(graph, 1) is graph
    small = subset(graph, 0.3, seed=1)
    assert (small.num_users, small.num_items) == (15, 30)

    def users_of(whole: Any) -> list[tuple[Any, ...]]:
        side = whole.by_user
        return [
            (tuple(side.neighbours[side.of(user)]), tuple(side.codes[side.of(user)]))
            for user in range(whole.num_users)
        ]

    everybody = users_of(graph)
    places = [everybody.index(user) for user in users_of(small)]
    assert places == sorted(set(places)) and len(places) == 15
    assert users_of(subset(graph, 0.3, seed=2)) != users_of(small)
    for share in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="share"):
            subset(graph, share)


def test_time_to_a_gap(drivers: Any) -> None:
    module = drivers("time_to_rmse")
    ends = {"bias_rmse": 2.0, "irreducible_rmse": 1.0}
    assert module.gap_closed(2.0, ends) == 0
    assert module.gap_closed(1.0, ends) == 1
    assert module.gap_closed(2.5**0.5, ends) == pytest.approx(0.5)
    epochs = [
        {"epoch": number, "valid_rmse": rmse, "seconds": 10.0 * number}
        for number, rmse in ((1, 1.9), (2, 1.4), (3, 1.2), (4, 1.3))
    ]
    row = module.judge({"by_epoch": epochs, "valid_rmse": 1.2, "test_rmse": 1.21}, ends, 0.6)
    assert (row["epoch_reached"], row["seconds_to_gap"]) == (2, 20.0)
    never = module.judge({"by_epoch": epochs, "valid_rmse": 1.2, "test_rmse": 1.22}, ends, 0.99)
    assert never["seconds_to_gap"] is None
    slower = {**row, "seconds_to_gap": 50.0}
    assert module.compare([row, slower])["times_sooner"] == 2.5
    assert module.compare([row, never])["times_sooner"] is None
    assert module.compare([row, never])["test_rmse_difference_percent"] == pytest.approx(-0.82)
    assignments = ["train.epochs=2", "users:loader.folds=3", "neighbor:loader.batch_size=7"]
    assert module.settings_for("users", assignments) == ["train.epochs=2", "loader.folds=3"]


def test_the_best_batch_of_each_loop_is_marked(drivers: Any) -> None:
    rows = [
        {"loop": loop, "model": "plain", "scale": scale, "batch": batch, "edges_per_second": rate}
        for loop, scale, batch, rate in [
            ("dgl", 1.0, 1, 10),
            ("dgl", 1.0, 2, 30),
            ("dgl", 0.1, 1, 40),
            ("pyg", 1.0, 1, 5),
        ]
    ]
    rows.append({"loop": "pyg", "model": "plain", "scale": 1.0, "batch": 2, "error": "killed"})
    drivers("bench_train").mark_best(rows)
    assert [row["best"] for row in rows] == [False, True, True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["dgl", "pyg"])
def test_bench_train_end_to_end(drivers: Any, tmp_path: Path, peer: str) -> None:
    if reason := drivers("bench_train").unusable(peer):
        pytest.skip(f"{reason}; docs/benchmarks.md says how to build it")
    synthesize(tmp_path / "source", users=300, items=100, ratings=8_000, seed=1)
    prepare(tmp_path / "source", tmp_path / "data", PrepareOptions(text=False))
    command = [sys.executable, str(FOLDER / "bench_train.py"), "--data", str(tmp_path / "data")]
    options = ["--scale", "0.5", "1.0", "--against", peer, "--batch", "500"]
    target = tmp_path / "results" / "train.json"
    done = subprocess.run(
        [*command, *options, "--seconds", "0.1", "--json", str(target)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(target.read_text())
    assert report["machine"]["cores"] >= 1 and report["machine"]["torch"]
    assert report["command"].startswith("benchmarks/bench_train.py --data data --scale 0.5 1.0")
    found = {(row["loop"], row["model"], row["scale"]) for row in report["rows"]}
    loops = {("dglrec", model) for model in ("plain", "ratings", "default")}
    loops.add((peer, "plain"))
    assert {(*loop, scale) for loop in loops for scale in (0.5, 1.0)} == found
    for row in report["rows"]:
        assert row["batch"] == 500 and row["best"]
        assert row["edges_per_second"] > 0 and row["peak_memory_gb"] > 0


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    synthesize(folder / "source", users=60, items=40, ratings=900, seed=1)
    prepare(folder / "source", folder / "data", PrepareOptions(text=False))
    return folder / "data"


def test_sides_of_batch_scoring_agree(
    drivers: Any, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = drivers("bench_score")
    place = {"dataset": str(small_data), "folder": None, "target": str(tmp_path / "embedded")}
    embedded = module.embed(**place)
    assert embedded["hidden"] > 0 and embedded["factors"] > 0
    for catalogue in (5, 40):
        found = module.agree(**place, catalogue=catalogue, seed=0)
        assert found["largest_difference"] <= 1e-4
    # Every way covers all users; what a way sets stays behind, so it is put back.
    predict = importlib.import_module("dglrec.infer.predict")
    monkeypatch.setattr(predict, "_SCORES_AT_ONCE", predict._SCORES_AT_ONCE)
    for side in ("dglrec", "torch_pairs", "torch_split"):
        ways, users = module.ways_of(side, **place, catalogue=40, seed=0, threads=1)
        assert users == 60
        for way in ways:
            way.start()
            assert sum(module.Passes(way, users).steps()) == users

    best = module.PairLoop.best

    def wrong(loop: Any, users: Any, k: int) -> Any:
        scores, items = best(loop, users, k)
        return scores, items.roll(1, dims=1)

    monkeypatch.setattr(module.PairLoop, "best", wrong)
    with pytest.raises(RuntimeError, match="torch_pairs and dglrec differ"):
        module.agree(**place, catalogue=40, seed=0)


def test_surprise_gets_a_data_sets_own_rows(drivers: Any, small_data: Path, tmp_path: Path) -> None:
    module = drivers("surprise_baselines")
    assert module.export(small_data, tmp_path) == {"minimum": 1.0, "maximum": 10.0, "step": 1.0}
    opened = RatingDataset.open(small_data)
    sizes = {name: len(np.load(tmp_path / f"{name}.npy")) for name in ("train", "valid", "test")}
    assert sizes == {name: opened.meta["counts"][name] for name in sizes}
    rows = opened.held_out("test")
    for column, values in enumerate((rows.users, rows.items, rows.ratings)):
        assert np.load(tmp_path / "test.npy")[:, column].tolist() == values.tolist()


def test_predictions_of_surprise_are_clipped_and_rounded_half_up(drivers: Any) -> None:
    scale = {"minimum": 1.0, "maximum": 5.0, "step": 0.5}
    found = drivers("surprise_baselines").errors(
        np.array([9.0, 2.25, 2.24, -3.0]), np.array([5.0, 2.5, 2.5, 2.0]), scale
    )
    assert found["n"] == 4 and found["accuracy"] == 0.5
    assert found["mae"] == pytest.approx((0 + 0.25 + 0.26 + 1) / 4)
    assert found["rmse"] == pytest.approx(((0.25**2 + 0.26**2 + 1) / 4) ** 0.5)


def test_limit_and_stage_rates_of_batch_scoring(drivers: Any) -> None:
    module = drivers("bench_score")
    low = {"part": "limit", "max_per_second": 1e6, "fma_per_second": 2e6}
    high = {"part": "limit", "max_per_second": 2e6, "fma_per_second": 4e6}
    # 10 items of 50 units and of 100 factors: 0.25 ms and 0.25 ms.
    assert module.users_allowed(high, 10, 50, 100) == pytest.approx(2_000)
    row = {"part": "stage", "side": "dglrec", "catalogue": 10, "users_per_second": 500}
    peer = {**row, "side": "torch_pairs"}
    module.add_shares([low, {"part": "embed", "hidden": 50, "factors": 100}, row, peer, high])
    assert (row["limit_users_per_second"], row["share_of_limit"]) == (2_000, 0.25)
    assert "share_of_limit" not in peer
    rows = [
        {"part": "command", "command": command, "count": count, "seconds": seconds}
        for command, count, seconds in (
            ("top 10", 7, 1.0),
            ("pairs", 100, 5.0),
            ("pairs", 1_100, 7.0),
            ("pairs", 2_100, 5.0),
        )
    ]
    module.add_stage_rates(rows)
    assert [row.get("stage_per_second") for row in rows] == [None, None, 500, None]


@pytest.mark.slow
def test_bench_score_end_to_end(small_data: Path, tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "score.json"
    settings = Settings(ModelConfig(), LoaderConfig(), TrainConfig(epochs=1))
    train(RatingDataset.open(small_data), run, settings)
    command = [sys.executable, str(FOLDER / "bench_score.py"), "--data", str(small_data)]
    options = ["--run", str(run), "--scale", "0.5", "--catalogue", "--against", "implicit_als"]
    options += ["--pairs-millions", "0.001", "--seconds", "0.1", "--repeats", "3"]
    options += ["--json", str(target)]
    done = subprocess.run([*command, *options], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(target.read_text())
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        parts.setdefault(row["part"], []).append(row)
    assert {part: len(rows) for part, rows in parts.items() if part != "stage"} == {
        "limit": 2,
        "embed": 1,
        "command": 2,
    }
    sides = [row["side"] for row in parts["stage"]]
    left_out = "implicit_als is left out" in done.stderr
    assert sides == ["dglrec", *([] if left_out else ["implicit_als"])]
    assert left_out == (report["implicit"] is None)
    for row in parts["stage"]:
        assert (row["users"], row["catalogue"]) == (30, 40)
        assert row["scores_per_second"] == 40 * row["users_per_second"] > 0
        assert row["peak_memory_gb"] > 0
    assert 0 < parts["stage"][0]["share_of_limit"] < 1
    top, pairs = parts["command"]
    assert (top["command"], top["count"]) == ("top 10", 60)
    assert 0 < top["rows"] <= 600  # some have rated nearly all there is
    assert (pairs["command"], pairs["count"]) == ("pairs", 1_000)
    for row in parts["command"]:
        assert row["seconds"] > 0 and row["bytes_written"] > 0 and row["peak_memory_gb"] > 0


def curve_of(*points: tuple[float, float, float]) -> list[dict[str, float]]:
    """A curve of (seconds, validation recall, test recall)."""
    return [
        {
            "seconds": seconds,
            "valid_recall@20": valid,
            "test_recall@20": test,
            "test_ndcg@20": test / 2,
        }
        for seconds, valid, test in points
    ]


def test_validation_rows_choose_what_counts_as_reached(drivers: Any) -> None:
    module = drivers("bench_ranking")
    curve = curve_of((30.0, 0.2, 0.04), (90.0, 0.1, 0.09), (400.0, 0.3, 0.07))
    assert module.best_until(curve, 10) is None
    # The middle measurement is better on test rows, which nobody could have known.
    assert module.best_until(curve, 100)["test_recall@20"] == 0.04
    row = module.summary(curve, 400.0, 2_000, 1_000)
    assert (row["epochs"], row["pairs_per_second"]) == (2, 5)
    row |= module.propagation(4, 1_000, layers=3, width=64)
    products = 2 * 3 * 4 * 2_000 * 64  # there and back, layers, steps, entries, columns
    assert (row["flop_per_epoch"], row["bytes_per_epoch"]) == (2 * products, 4 * products)
    rates = {"gflop_per_second": 1.0, "fetched_gb_per_second": products / 1e9}
    judged = module.judge_row(row, 0.06, rates)
    assert (judged["after_60"], judged["after_300"], judged["after_900"]) == (0.04, 0.04, None)
    assert (judged["recall@20"], judged["seconds_to_reach"]) == (0.07, 400.0)
    assert judged["limit_seconds_per_epoch"] == 4.0  # memory; an epoch takes 200 s
    assert judged["share_of_limit"] == 0.02
    assert module.judge_row(row, 0.08, rates)["seconds_to_reach"] is None
    rows = [{"model": "a", "valid": 0.1}, {"model": "a", "valid": 0.2}, {"model": "b", "valid": 0}]
    module.mark_best(rows)
    assert [row["best"] for row in rows] == [False, True, True]


def test_measuring_is_off_the_clock(drivers: Any) -> None:
    module = drivers("bench_ranking")
    time = [0.0]

    def measure(users: Any, items: Any) -> dict[str, float]:
        time[0] += 1_000.0
        return {"found": users + items}

    watch = module.Stopwatch(measure, limit=10.0, every=4.0, now=lambda: time[0])
    time[0] += 50.0  # what is done before training
    watch.start()
    over = []
    for _ in range(4):
        time[0] += 3.0
        over.append(watch.report(7, lambda: (1, 2)))
    assert over == [False, False, False, True]
    assert [(point["seconds"], point["pairs"]) for point in watch.curve] == [(6.0, 14), (12.0, 28)]
    assert watch.curve[0]["found"] == 3 and watch.memory_gb > 0


def test_vectors_of_peers_are_ranked_by_their_dot_products(drivers: Any, small_data: Path) -> None:
    module = drivers("bench_ranking")
    opened = RatingDataset.open(small_data)
    users, items = opened.graph.num_users, opened.graph.num_items
    generator = np.random.default_rng(0)
    of_users, of_items = generator.normal(size=(users, 8)), generator.normal(size=(items, 8))
    found = module.Judge(opened, 6.0).figures(module.best_of_vectors(of_users, of_items))
    scores = of_users @ of_items.T
    train, valid = opened.graph.by_user, opened.held_out("valid")
    for user in range(users):
        scores[user, train.neighbours[train.of(user)]] = -np.inf
    for split in ("valid", "test"):
        rows = opened.held_out(split)
        if split == "test":
            scores[valid.users.numpy(), valid.items.numpy()] = -np.inf
        liked = rows.ratings.numpy() >= 6.0
        recalls = []
        for user in np.unique(rows.users.numpy()[liked]):
            wanted = rows.items.numpy()[liked & (rows.users.numpy() == user)]
            order = np.argsort(-scores[user])[:20]
            listed = order[np.isfinite(scores[user][order])]
            recalls.append(np.isin(wanted, listed).mean())
        assert found[f"{split}_recall@20"] == pytest.approx(np.mean(recalls), abs=1e-5)


def test_an_unknown_model_is_refused(drivers: Any) -> None:
    with pytest.raises(SystemExit, match="--models gowalla: choose of ours"):
        list(drivers("bench_ranking").chosen_models("gowalla"))


@pytest.mark.slow
def test_bench_ranking_end_to_end(small_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "ranking.json"
    command = [sys.executable, str(FOLDER / "bench_ranking.py"), "--data", str(small_data)]
    options = ["--minutes", "0.01", "--every", "0.2", "--settings", "1", "--json", str(target)]
    done = subprocess.run(
        [*command, *options, "--set", "train.epochs=2"], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(target.read_text())["rows"]
    names = ("lightgcn_softmax", "lightgcn", "pyg", "cornac", "implicit_bpr", "implicit_als")
    assert [row["model"] for row in rows] == [
        name for name in names if f"{name} is left out" not in done.stderr
    ]
    for row in rows:
        assert row["best"] and 0 < row["recall@20"] <= 1
        assert row["pairs_per_second"] > 0 and row["training_memory_gb"] > 0
        assert row["curve"][-1]["pairs"] >= row["pairs"]
