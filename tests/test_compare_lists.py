"""Runs and studies that are held against each other by their lists."""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import make_settings, planted

from dglrec import cli, compare
from dglrec.compare import LIST_FIGURES, compare_runs, list_sums
from dglrec.config import load_settings
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, UsageError
from dglrec.evaluate import RankingTargets, evaluate
from dglrec.run import open_predictor
from dglrec.schema import RatingScale
from dglrec.study import read_study, run_study
from dglrec.train import train

K = 5


@dataclass(frozen=True)
class Runs:
    folder: Path
    both: Path
    other: Path
    rating: Path
    clicks: Path
    clicks_again: Path
    popularity: Path


def settings_of(heads, seed=0):
    settings = make_settings({"heads": heads, "list_size": 4, "item_items": "none"}, epochs=1)
    return replace(settings, train=settings.train.model_copy(update={"seed": seed}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    rated = planted(folder / "rated", users=60, items=40, ratings=1_500)
    source = folder / "rated" / "source"
    clicks = prepare(source, folder / "clicked", PrepareOptions(text=False, interactions_from=6))
    made = {
        "both": (rated, settings_of("both")),
        "other": (rated, settings_of("both", seed=1)),
        "rating": (rated, settings_of("rating")),
        "clicks": (clicks, settings_of("lists")),
        "clicks_again": (clicks, settings_of("lists", seed=1)),
        "popularity": (clicks, load_settings(file=Path("popularity"))),
    }
    for name, (dataset, settings) in made.items():
        train(dataset, folder / name, settings)
    return Runs(folder, **{name: folder / name for name in made})


def groups_of(*paths):
    return {path.name: [path] for path in paths}


def test_the_sums_are_of_each_users_own_list(runs):
    """One user after the other, with plain loops."""
    trained = open_predictor(runs.both)
    dataset = trained.dataset
    targets = RankingTargets.of(dataset, "test", 8.0)
    found = list_sums(trained.best, targets, K)
    assert found.metrics == tuple(f"{name}@{K}" for name in LIST_FIGURES)
    rows = dataset.held_out("test")
    for place, user in enumerate(found.users.tolist()):
        mine = (rows.users == user) & (rows.ratings >= 8)
        relevant = set(rows.items[mine].tolist())
        one = np.array([user])
        listed = trained.best(torch.from_numpy(one), targets.left_out, K)[1][0].tolist()
        gains = [1 / np.log2(rank + 2) for rank, item in enumerate(listed) if item in relevant]
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(K, len(relevant))))
        expected = [sum(gains) / ideal, len(gains) / len(relevant), float(bool(gains))]
        assert found.sums[place] == pytest.approx(expected)
    assert np.array_equal(found.n, np.ones(len(found.users)))


@pytest.mark.parametrize("split", ["test", "valid"])
def test_figures_are_those_of_evaluate(runs, split):
    result = compare_runs(groups_of(runs.both, runs.other), split, ranking=K, draws=50)
    assert (result["ranking"], result["users"], result["rows"]) == (K, *[result["users"]] * 2)
    assert result["metrics"] == [f"{name}@{K}" for name in LIST_FIGURES]
    for one, run in zip(result["runs"], (runs.both, runs.other), strict=True):
        trained = open_predictor(run)
        report = evaluate(trained, split, ranking=K)
        assert report["ranking_users"] == result["users"]
        for name in result["metrics"]:
            assert one[name]["value"] == pytest.approx(report[name], abs=1e-12)
            assert one[name]["low"] <= one[name]["value"] <= one[name]["high"]
    (pair,) = result["differences"]
    values = [one[f"ndcg@{K}"]["value"] for one in result["runs"]]
    assert pair[f"ndcg@{K}"]["value"] == pytest.approx(values[0] - values[1])
    assert pair["percent"] == pytest.approx(100 * (values[0] / values[1] - 1))


def write(path, rows):
    lines = ["user_id,item_id,rating", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_users_are_matched_by_their_ids(tmp_path, monkeypatch):
    """Figures that ids alone decide do not differ where no index is the same."""
    generator = np.random.default_rng(0)
    pairs = generator.choice(30 * 20, 300, replace=False)
    rows = [(10 + pair // 20, 10 + pair % 20, 1 + pair % 5) for pair in pairs.tolist()]
    training, test = rows[:240], rows[240:]
    others = [(1, 3, 5), (2, 12, 1), (12, 3, 4), *training[::-1]]
    groups = {}
    for name, part in (("one", training), ("other", others)):
        train_file = write(tmp_path / f"{name}.csv", part)
        test_file = write(tmp_path / f"{name}-test.csv", test if name == "one" else test[::-1])
        options = PrepareOptions(
            text=False, train_file=train_file, test_file=test_file, scale=RatingScale(1, 5)
        )
        dataset = prepare(train_file, tmp_path / f"{name}-data", options)
        train(dataset, tmp_path / name, load_settings(file=Path("popularity")))
        groups[name] = [tmp_path / name]
    made = compare.list_sums

    def by_ids(best, targets, k, what=None):
        found = made(best, targets, k)
        ids = next(sets).users.decode(found.users).to_numpy()
        assert not np.array_equal(ids, found.users)
        return replace(found, sums=np.sin(np.outer(ids, [1.0, 2.0, 3.0])))

    sets = (open_predictor(run).dataset for (run,) in groups.values())
    monkeypatch.setattr("dglrec.compare.runs.list_sums", by_ids)
    result = compare_runs(groups, ranking=K, relevant_from=3.0, draws=50)
    (pair,) = result["differences"]
    assert pair["d_z"] is None
    assert all(pair[name]["value"] == 0 and pair[name]["low"] is None for name in result["metrics"])


def test_interactions_are_compared_by_lists_unasked(runs):
    result = compare_runs(groups_of(runs.clicks, runs.clicks_again, runs.popularity), draws=50)
    assert result["ranking"] == 10 and result["relevant_from"] is None
    report = evaluate(open_predictor(runs.clicks), "test", ranking=10)
    assert result["runs"][0]["ndcg@10"]["value"] == pytest.approx(report["ndcg@10"])
    beside = report["baselines"]["popularity"]["ndcg@10"]
    assert result["runs"][2]["ndcg@10"]["value"] == pytest.approx(beside)
    assert len(result["differences"]) == 3


def test_a_level_decides_what_is_relevant(runs):
    groups = groups_of(runs.both, runs.other)
    low, high = (
        compare_runs(groups, ranking=K, relevant_from=level, draws=50) for level in (1.0, 9.0)
    )
    assert low["users"] > high["users"]
    assert (low["relevant_from"], high["relevant_from"]) == (1.0, 9.0)


@pytest.mark.parametrize(
    ("names", "options", "error", "fragment"),
    [
        (("both", "other"), {"relevant_from": 8.0}, UsageError, "--relevant-from goes with"),
        (("both", "other"), {"ranking": 0}, UsageError, "--ranking 0: must be from 1 to"),
        (("both", "other"), {"ranking": 41}, UsageError, "--ranking 41: must be from 1 to"),
        (("both", "other"), {"ranking": 5, "relevant_from": 11.0}, UsageError, "rated 11 or more"),
        (("both", "clicks"), {}, DataError, "rating scales differ"),
    ],
)
def test_what_cannot_be_compared(runs, names, options, error, fragment):
    with pytest.raises(error, match=fragment):
        compare_runs(groups_of(*(getattr(runs, name) for name in names)), draws=50, **options)


def test_a_run_without_ratings_beside_one_with_some(runs, tmp_path):
    dataset = open_predictor(runs.both).dataset
    train(dataset, tmp_path / "lists", settings_of("lists"))
    groups = groups_of(runs.rating, tmp_path / "lists")
    with pytest.raises(UsageError, match=r"lists: predicts no ratings.*--ranking 10"):
        compare_runs(groups, draws=50)
    assert compare_runs(groups, ranking=K, draws=50)["ranking"] == K


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `dglrec`, and gives code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dglrec", *map(str, arguments), "--device", "cpu"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    return call


def test_the_command_says_what_is_compared(runs, command):
    arguments = ("compare", runs.both, runs.other, "--ranking", K, "--bootstrap", 50)
    code, out, _ = command(*arguments)
    flat = " ".join(out.split())
    assert code == 0
    assert "with relevant test items, 95 % intervals" in flat and f"ndcg@{K}" in flat
    assert "rmse" not in out
    code, out, _ = command(*arguments, "--json")
    groups = {str(run): [run] for run in (runs.both, runs.other)}
    assert json.loads(out) == compare_runs(groups, ranking=K, draws=50)


STUDY = """
title = "Lists of a tiny study"
reference = "plain"
seeds = [0, 1]
[common]
train.epochs = 1
model.embedding_size = 4
model.decoder_size = 4
model.list_size = 4
model.item_items = "none"
loader.batch_size = 400
[variants.plain]
[variants.popular]
config = "popularity"
"""


@pytest.fixture(scope="module")
def studied(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studied")
    (folder / "study.toml").write_text(STUDY)
    study = read_study(str(folder / "study.toml"))
    source = open_predictor(runs.clicks).dataset.path
    return study, source, folder / "out", run_study(study, source, folder / "out")


def test_a_study_of_interactions_is_of_lists(studied):
    _, _, out, result = studied
    assert result["metrics"] == [f"{name}@10" for name in LIST_FIGURES]
    assert result["baseline"] == "popularity"
    plain, popular = result["variants"]
    of_runs = [
        evaluate(open_predictor(out / "runs" / "plain" / f"seed-{seed}"), "test", ranking=10)
        for seed in (0, 1)
    ]
    for name in result["metrics"]:
        assert plain[name]["value"] == pytest.approx(np.mean([one[name] for one in of_runs]))
    assert popular["ndcg@10"]["value"] == pytest.approx(popular["baseline"])
    assert plain["baseline"] == pytest.approx(popular["baseline"])
    results = [
        json.loads((out / "runs" / "plain" / f"seed-{seed}" / "results.json").read_text())
        for seed in (0, 1)
    ]
    assert plain["valid"] == pytest.approx(np.mean([one["valid"]["ndcg@10"] for one in results]))
    text = (out / "results.md").read_text()
    assert "| popularity ndcg@10 |" in text and "RMSE" not in text


def test_another_length_of_lists_trains_nothing_anew(studied, monkeypatch):
    study, source, out, result = studied

    def refuse(*_args, **_kwargs):
        raise AssertionError("trained anew")

    monkeypatch.setattr("dglrec.study.running.train", refuse)
    shorter = run_study(study, source, out, ranking=3)
    assert shorter["metrics"][0] == "ndcg@3"
    # No run measured lists of 3 while it chose its epoch.
    assert [row["valid"] for row in shorter["variants"]] == [None, None]
    assert run_study(study, source, out) == result


def test_a_study_of_rated_data_is_of_ratings_unless_lists_are_asked_for(runs, tmp_path):
    (tmp_path / "study.toml").write_text(
        STUDY.replace('[variants.popular]\nconfig = "popularity"', "[variants.no_dot]")
        .replace("[0, 1]", "[0]")
        .replace("[variants.no_dot]", "[variants.no_dot]\nmodel.interaction = false")
    )
    study = read_study(str(tmp_path / "study.toml"))
    source = open_predictor(runs.both).dataset.path
    rated = run_study(study, source, tmp_path / "out")
    assert rated["metrics"] == ["rmse", "mae", "accuracy"] and rated["baseline"] == "bias"
    listed = run_study(study, source, tmp_path / "out", ranking=10)
    assert listed["metrics"][0] == "ndcg@10"
    declared = replace(study, ranking=10)
    assert run_study(declared, source, tmp_path / "out") == listed


def test_runs_of_variants_that_are_not_trained_now_decide_the_table_too(runs, tmp_path):
    """A closed-form run that is there has no rating to stand in a table of ratings."""
    (tmp_path / "study.toml").write_text(STUDY.replace("[0, 1]", "[0]"))
    study = read_study(str(tmp_path / "study.toml"))
    source = open_predictor(runs.both).dataset.path
    run_study(study, source, tmp_path / "out", only=["popular"])
    result = run_study(study, source, tmp_path / "out", only=["plain"])
    assert result["metrics"][0] == "ndcg@10"
    assert [row["name"] for row in result["variants"]] == ["plain", "popular"]
    fresh = run_study(study, source, tmp_path / "fresh", only=["plain"])
    assert fresh["metrics"][0] == "rmse"


@pytest.mark.parametrize("ranking", ["0", "true", '"ten"', "2.5"])
def test_a_declared_length_that_is_none(tmp_path, ranking):
    (tmp_path / "study.toml").write_text(f"ranking = {ranking}\n{STUDY}")
    with pytest.raises(UsageError, match="ranking = .* write a length of lists"):
        read_study(str(tmp_path / "study.toml"))


def test_lists_longer_than_the_catalogue_are_refused_before_training(runs, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    study = read_study(str(tmp_path / "study.toml"))
    source = open_predictor(runs.clicks).dataset.path
    with pytest.raises(UsageError, match=r"variant plain: --ranking 99: must be from 1 to"):
        run_study(study, source, tmp_path / "out", ranking=99)
    assert not (tmp_path / "out" / "runs").exists()


def test_the_study_command(runs, tmp_path, command):
    (tmp_path / "study.toml").write_text(STUDY)
    source = open_predictor(runs.clicks).dataset.path
    arguments = ("study", tmp_path / "study.toml", source, tmp_path / "out", "--seeds", 0)
    code, out, _ = command(*arguments, "--ranking", 5)
    assert code == 0
    assert re.search(r"ndcg@5 against plain", out) and "popularity" in out
    assert RatingDataset.open(source).has_ratings is False
