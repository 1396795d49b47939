"""Training that begins with another run's model: vectors matched by external ids."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import lines_of, make_settings, same_run, train_one_epoch, weights_of

from dglrec.config import load_settings, resumed_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.distributed import ALONE
from dglrec.errors import DataError, UsageError
from dglrec.run import BEST, LAST, new_model
from dglrec.train import remove_checkpoints, train
from dglrec.train.beginning import begin, read_source

MODEL = {
    "heads": "both",
    "user_identity": True,
    "relations": ("has_kind",),
    "embedding_size": 4,
    "list_size": 5,
}
FIT = {"epochs": 2, "learning_rate": 0.02}
FANOUTS = {"user_fanouts": "auto", "item_fanouts": "auto"}


def prepared(folder, users, items, kinds, seed, to=5):
    """Ratings of some users of some items, each of a kind that its number and `kinds` say."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    lines = [
        f"{user},{item},{rng.integers(1, to + 1)}\n"
        for user in users
        for item in rng.choice(items, 9, replace=False)
    ]
    (folder / "ratings.csv").write_text("user_id,item_id,rating\n" + "".join(lines))
    rows = [
        f"{item},{kinds[number % len(kinds)]},{number}.5\n" for number, item in enumerate(items)
    ]
    (folder / "items.csv").write_text("item_id,kind,size\n" + "".join(rows))
    options = PrepareOptions(text=False, item_table=folder / "items.csv")
    return prepare(folder / "ratings.csv", folder / "data", options)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("from") / "first"
    return prepared(folder, range(40), range(20), ["a", "b", "c"], seed=0)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Half of its users and three quarters of its items are those of the first, and two labels."""
    folder = tmp_path_factory.mktemp("from") / "second"
    return prepared(folder, range(20, 60), range(5, 30), ["b", "c", "d"], seed=1)


@pytest.fixture(scope="module")
def run(first, tmp_path_factory):
    run = tmp_path_factory.mktemp("from") / "run"
    train(first, run, settings_of())
    return run


def settings_of(source="", model=None, **fitting):
    fitting = {**FIT, "begin_with": str(source), **fitting}
    return make_settings({**MODEL, **(model or {})}, FANOUTS, **fitting)


def origin_of(run):
    return json.loads((run / "environment.json").read_text())["from"]


def test_a_run_from_itself_begins_at_its_validation_figures(first, run, tmp_path, capsys):
    train(first, tmp_path / "run", settings_of(run))
    origin = origin_of(tmp_path / "run")
    assert "before the first step: validation RMSE" in capsys.readouterr().err
    best = json.loads((run / "results.json").read_text())
    expected = lines_of(run)[best["best_epoch"] - 1]
    assert origin["valid"] == {
        name: pytest.approx(expected[f"valid_{name}"], rel=1e-6) for name in origin["valid"]
    }
    assert origin["valid"]["rmse"] and origin["run"] == str(run)
    assert origin["matched"] == {"users": 40, "items": 20}
    assert origin["held_out_rows_trained_on"] == {"valid": 0, "test": 0}
    assert origin["epoch"] == best["best_epoch"] and len(origin["weights"]) == 64
    assert "from" not in json.loads((run / "environment.json").read_text())


def places(ids, known):
    known = known.ids.to_pylist()
    return [known.index(one) if one in known else -1 for one in ids.ids.to_pylist()]


def test_vectors_are_matched_by_id_and_others_begin_as_a_new_runs(first, second, run, capsys):
    settings = settings_of(run).resolved(second.graph)
    torch.manual_seed(5)
    fresh = new_model(settings.model, second).state_dict()
    torch.manual_seed(5)
    model = new_model(settings.model, second)
    origin = begin(model, second, settings, read_source(Path("x"), str(run), ALONE), ALONE)
    found, old = model.state_dict(), weights_of(run, BEST)
    users, items = places(second.users, first.users), places(second.items, first.items)
    rows = dict.fromkeys(model.tables(), items) | {"inputs.user_vectors.weight": users}
    rows["relations.labels.of_kind.weight"] = [1, 2, -1]  # b, c, d among a, b, c
    assert set(rows) == {
        "inputs.user_vectors.weight",
        "inputs.item_vectors.weight",
        "list_head.rated.weight",
        "list_head.weighed.weight",
        "list_head.item_vectors.weight",
        "relations.labels.of_kind.weight",
    }
    # Features of a kind, by label, and the number with its flag.
    columns = [1, 2, -1, 3, 4]
    assert second.meta["features"] == {"kind": 3, "size": 2}
    for name, tensor in found.items():
        if name in rows:
            for row, place in enumerate(rows[name]):
                expected = fresh[name][row] if place < 0 else old[name][place]
                assert torch.equal(tensor[row], expected)
        elif name == "inputs.from_features.weight":
            for column, place in enumerate(columns):
                source = fresh[name][:, column] if place < 0 else old[name][:, place]
                assert torch.equal(tensor[:, column], source)
        else:
            assert torch.equal(tensor, old[name])
    assert origin["matched"] == {"users": 20, "items": 15}
    assert "of 40 users 20 are among its 40, and of 25 items 15 among its 20" in (
        capsys.readouterr().err
    )


def test_held_out_rows_that_the_other_run_was_trained_on_are_counted(first, run, tmp_path, capsys):
    folder = tmp_path / "again"
    options = PrepareOptions(text=False, seed=9, item_table=first.path.parent / "items.csv")
    again = prepare(first.path.parent / "ratings.csv", folder, options)
    known = set()
    for user in range(40):
        rated = first.graph.by_user.neighbours[first.graph.by_user.of(user)]
        known |= {(user, int(item)) for item in rated}
    train(again, tmp_path / "run", settings_of(run, epochs=1))
    expected = {}
    for split in ("valid", "test"):
        rows = again.held_out(split)
        pairs = zip(rows.users.tolist(), rows.items.tolist(), strict=True)
        expected[split] = sum(pair in known for pair in pairs)
    assert origin_of(tmp_path / "run")["held_out_rows_trained_on"] == expected
    assert expected["valid"] and f"{expected['valid']} valid rows" in capsys.readouterr().err


def test_what_was_auto_is_what_it_came_to_there(first, run, second, tmp_path):
    asked = settings_of(run, {"heads": "auto", "list_size": "auto"}, epochs=1)
    train(second, tmp_path / "run", asked)
    model = load_settings(file=tmp_path / "run" / "config.toml").model
    assert (model.heads, model.list_size) == ("both", 5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"layers": 1}, "model.layers is 2 there and 1 here"),
        (
            {"convolution": "gcn", "user_identity": False},
            "model.convolution is sage there and gcn here; model.user_identity is true there",
        ),
        ({"relations": ()}, "model.relations is has_kind there and none here"),
    ],
    ids=str,
)
def test_another_architecture_is_refused_by_the_settings_that_differ(
    second, run, tmp_path, model, message
):
    with pytest.raises(UsageError, match=message) as refused:
        train(second, tmp_path / "run", settings_of(run, model))
    assert refused.value.exit_code == 2 and "config.toml" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_what_does_not_decide_what_weights_mean_may_differ(second, run, tmp_path):
    other = {"dropout": 0.3, "identity_start": "spectral", "item_items": "none"}
    train(second, tmp_path / "run", settings_of(run, other, epochs=1))


def test_features_that_one_data_set_lacks_are_refused(first, run, tmp_path):
    options = PrepareOptions(text=False)
    bare = prepare(first.path.parent / "ratings.csv", tmp_path / "bare", options)
    train(bare, tmp_path / "plain", settings_of(model={"relations": ()}, epochs=1))
    with pytest.raises(UsageError, match=r"one of the two data sets alone has features of items"):
        train(first, tmp_path / "run", settings_of(tmp_path / "plain", {"relations": ()}))
    assert not (tmp_path / "run").exists()


def test_what_is_damaged_or_gone_is_refused_before_anything_is_written(
    first, second, run, tmp_path
):
    damaged = shutil.copytree(run, tmp_path / "damaged")
    path = damaged / BEST / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    nowhere = shutil.copytree(first.path, tmp_path / "data")
    opened = type(first).open(nowhere)
    train(opened, tmp_path / "moved", settings_of(epochs=1))
    shutil.rmtree(nowhere)
    for source, message in (
        (damaged, "damaged or altered"),
        (tmp_path / "none", "no such run"),
        (first.path, "is a data set and no run"),
        (tmp_path / "moved", "is not there; put it back"),
    ):
        with pytest.raises(DataError, match=message) as refused:
            train(second, tmp_path / "run", settings_of(source))
        assert refused.value.exit_code == 3 and not (tmp_path / "run").exists()


def test_baselines_and_the_run_itself_are_refused(first, run, tmp_path):
    bias = load_settings(file=Path("bias"))
    train(first, tmp_path / "bias", bias)
    with pytest.raises(UsageError, match="is a run of the bias baseline, which is fitted in one"):
        train(first, tmp_path / "run", settings_of(tmp_path / "bias"))
    with pytest.raises(UsageError, match="is the run that is to be trained"):
        train(first, run, settings_of(run), overwrite=True)
    asked = load_settings(file=Path("bias"), assignments=[f"train.begin_with={run}"])
    with pytest.raises(UsageError, match="the bias baseline is fitted in one go"):
        train(first, tmp_path / "run", asked)


def test_it_resumes_to_the_bit_without_the_other_run(first, second, run, tmp_path, monkeypatch):
    source = shutil.copytree(run, tmp_path / "source")
    train(second, tmp_path / "whole", settings_of(source))
    train_one_epoch(monkeypatch, second, tmp_path / "run", settings_of(source))
    before = origin_of(tmp_path / "run")
    shutil.rmtree(source)
    train(second, tmp_path / "run", settings_of(source), resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "run")
    assert origin_of(tmp_path / "run") == before


def test_a_refit_begins_with_the_other_run_twice(first, second, run, tmp_path):
    asked = settings_of(run, {"list_size": "auto"}, epochs=1, refit="all")
    train(second, tmp_path / "run", asked)
    for place in (tmp_path / "run", tmp_path / "run" / "selection"):
        origin = origin_of(place)
        assert origin["matched"] == {"users": 20, "items": 15}
        assert bool(origin["valid"]) == (place.name == "selection")
    assert weights_of(tmp_path / "run")["list_head.rated.weight"].shape[1] == 5
    # What learned from all rows has seen those that a data set of the same source holds out.
    train(second, tmp_path / "more", settings_of(tmp_path / "run", epochs=1))
    counts = second.meta["counts"]
    seen = origin_of(tmp_path / "more")["held_out_rows_trained_on"]
    assert seen == {"valid": counts["valid"], "test": counts["test"]}
    with pytest.raises(UsageError, match="is the run that is to be trained"):
        train(second, tmp_path / "run", settings_of(tmp_path / "run", refit="all"), overwrite=True)
    assert (tmp_path / "run" / BEST).is_dir()


@pytest.mark.parametrize("start", ["normal", "spectral"])
def test_without_a_checkpoint_it_resumes_from_the_same_beginning(
    second, run, tmp_path, monkeypatch, start
):
    """As after a crash in the first epoch: neither the other run nor the spectrum is forgotten."""
    source = run if start == "normal" else ""
    settings = settings_of(source, {"identity_start": start}, epochs=1)
    train(second, tmp_path / "whole", settings)
    train_one_epoch(monkeypatch, second, tmp_path / "run", settings)
    remove_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / LAST).exists()
    train(second, tmp_path / "run", settings, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "run")


def test_the_command_takes_a_run_and_refuses_with_exit_code_2(second, run, tmp_path):
    command = [sys.executable, "-m", "dglrec", "train", second.path, tmp_path / "run"]
    asked = ["--from", run, "--set", "train.epochs=1"]
    done = subprocess.run([*command, *asked], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: --from {run}: is a run of another architecture: model.")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_resuming_with_another_source_is_refused(second, run, tmp_path):
    train(second, tmp_path / "run", settings_of(run, epochs=1))
    with pytest.raises(UsageError, match=r"these would change: train\.begin_with"):
        resumed_settings(tmp_path / "run", None, ["train.begin_with=elsewhere"], {})
