"""What a model reads as history, beside the rows that it was trained on."""

import json
import shutil
import sys

import pyarrow.parquet as pq
import pytest
import torch
from runs import make_settings

from dglrec import cli
from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import DerivedDataset, PrepareOptions, RatingDataset, derive, prepare
from dglrec.derived import DerivedConfig
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.infer import Diversity, embed_all, predict_pairs
from dglrec.run import BEST, open_run
from dglrec.score import TopKOptions, recommend, score_top_k
from dglrec.score.parts import PLAN_FILE
from dglrec.synthetic import Planting, synthesize
from dglrec.train import train

NO_TEXT = {"text": False, "split": "last"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A source with timestamps, of which the last two rows of each user are held out."""
    folder = tmp_path_factory.mktemp("place")
    planting = Planting(timestamps=True)
    synthesize(folder / "source", users=60, items=40, ratings=1_500, seed=2, planting=planting)
    dataset = prepare(folder / "source", folder / "data", PrepareOptions(**NO_TEXT))
    train(dataset, folder / "run", make_settings({"heads": "both"}, epochs=1))
    train(dataset, folder / "refit", make_settings(epochs=1, refit="valid"))
    return folder


def altered(place, to, split, change):
    """A copy of the data set's source with the rating of one held-out row changed, prepared."""
    dataset = RatingDataset.open(place / "data")
    rows = dataset.held_out(split)
    user = dataset.users.decode(rows.users[:1].numpy())[0].as_py()
    item = dataset.items.decode(rows.items[:1].numpy())[0].as_py()
    shutil.copytree(place / "source", to / "source")
    file = to / "source" / "rating_complete.csv"
    lines = file.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith(f"{user},{item},"))
    cells = lines[number].split(",")
    cells[2] = str(change(int(cells[2])))
    lines[number] = ",".join(cells)
    file.write_text("\n".join(lines) + "\n")
    return prepare(to / "source", to / "data", PrepareOptions(**NO_TEXT)), rows


def predictions(place, dataset, splits):
    """What the run's weights predict for all test rows, with other rows in the graph."""
    model = open_run(place / "run").model
    whole = dataset.with_rows(splits)
    embeddings = embed_all(model, whole.graph, whole.biases)
    rows = dataset.held_out("test")
    return predict_pairs(model, embeddings, whole.biases, rows.users, rows.items)


def test_all_rows_as_history_are_what_a_data_set_of_training_rows_alone_would_be(place, tmp_path):
    same = {"text": False, "valid": 0.0, "test": 0.0}
    everything = prepare(place / "source", tmp_path / "data", PrepareOptions(**same))
    trained = open_run(place / "run", history="all")
    assert trained.dataset.parts == ("train", "valid", "test")
    assert trained.learned_from == ("train",)
    wanted = embed_all(trained.model, everything.graph, everything.biases)
    for found, other in zip(trained.embeddings.nodes, wanted.nodes, strict=True):
        torch.testing.assert_close(found, other)
    assert trained.embeddings.nodes.users.shape == wanted.nodes.users.shape
    plain = open_run(place / "run")
    assert not torch.allclose(plain.embeddings.nodes.users, wanted.nodes.users)


@pytest.mark.parametrize("change", [lambda rating: 1 if rating > 5 else 10])
def test_a_test_row_never_sees_itself_and_sees_the_validation_row_before_it(
    place, tmp_path, change
):
    before = RatingDataset.open(place / "data")
    other, _ = altered(place, tmp_path / "test", "test", change)
    torch.testing.assert_close(
        predictions(place, before, ["valid"]), predictions(place, other, ["valid"]), rtol=0, atol=0
    )
    other, rows = altered(place, tmp_path / "valid", "valid", change)
    user = int(rows.users[0])
    of_user = before.held_out("test").users == user
    found = [predictions(place, one, ["valid"])[of_user] for one in (before, other)]
    assert not torch.allclose(*found)
    # Without it nothing of the change is to be seen.
    found = [predictions(place, one, []) for one in (before, other)]
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_evaluate_says_what_was_read_and_refuses_what_would_see_itself(place):
    trained = open_run(place / "run", history="valid")
    found = evaluate(trained, "test", ranking=5)
    assert found["history"] == ["train", "valid"] and "learned_from" not in found
    assert found["rmse"] != evaluate(open_run(place / "run"), "test")["rmse"]
    with pytest.raises(UsageError, match="its valid rows are among those that the model reads"):
        evaluate(trained, "valid")
    with pytest.raises(UsageError, match="its test rows are among those"):
        evaluate(open_run(place / "run", history="all"), "test")
    # Lists leave out what they left out before: training and validation rows.
    dataset = trained.dataset
    rated = dataset.rated_items(["valid"])
    plain = RatingDataset.open(place / "data").rated_items(["valid"])
    assert rated.items.tolist() == plain.items.tolist()


def test_a_refitted_run_reads_all_rows_where_nobody_measures_it(place):
    assert open_run(place / "refit").dataset.parts == ("train", "valid")
    assert open_run(place / "refit", history="auto").dataset.parts == ("train", "valid", "test")
    assert open_run(place / "refit", history="train").dataset.parts == ("train", "valid")
    assert open_run(place / "run", history="auto").dataset.parts == ("train",)


def test_what_was_derived_stays_what_it_was(place):
    dataset = RatingDataset.open(place / "data")
    names = ["similar"]
    made = derive(dataset, names, DerivedConfig.model_validate({}))
    derived = DerivedDataset(dataset, names, made)
    whole = derived.with_rows(["valid"])
    assert whole.derived_digest == derived.derived_digest
    assert whole.relation("similar").num_edges == derived.relation("similar").num_edges
    assert whole.graph.num_edges == dataset.graph.num_edges + dataset.meta["counts"]["valid"]
    assert whole.biases.mean == whole._plain.biases.mean != dataset.biases.mean


def test_scores_begun_with_one_history_do_not_go_on_with_another(place, tmp_path):
    out, options = tmp_path / "out", TopKOptions()
    score_top_k(open_run(place / "run"), out, 3, options)
    assert "history" not in json.loads((out / PLAN_FILE).read_text())["options"]
    with pytest.raises(UsageError, match='history not given, now \\["train", "valid", "test"\\]'):
        score_top_k(open_run(place / "run", history="all"), out, 3, options)
    refit = open_run(place / "refit", history="auto")
    score_top_k(refit, tmp_path / "refit-out", 3, options)
    plan = json.loads((tmp_path / "refit-out" / PLAN_FILE).read_text())
    assert plan["model"]["learned_from"] == ["train", "valid"]
    assert plan["options"]["history"] == ["train", "valid", "test"]


def test_lists_are_of_the_history_and_leave_out_what_is_known_all_the_same(place):
    users = [str(one) for one in RatingDataset.open(place / "data").users.ids[:5].to_pylist()]
    known, read = open_run(place / "run"), open_run(place / "run", history="all")
    rated = known.dataset.rated_items()
    for index, user in enumerate(users):
        lists = [recommend(one, user, 10) for one in (known, read)]
        own = rated.items[rated.offsets[index] : rated.offsets[index + 1]]
        ids = set(known.dataset.items.decode(own).to_pylist())
        assert not any(one.item_id in ids for found in lists for one in found)
        differ = [one.score for one in lists[0]] != [one.score for one in lists[1]]
        assert differ or not lists[0]  # who has rated everything gets nothing


def test_reasons_may_be_rows_of_the_history(place):
    trained = open_run(place / "run", history="all")
    user = str(trained.dataset.users.ids[0].as_py())
    found = recommend(trained, user, 3, explain=True)
    assert all(reason.rating is not None for one in found for reason in one.because)


def run_command(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, "argv", ["dglrec", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code, *capfd.readouterr()


def test_the_commands_say_what_was_learned_from_and_read(place, tmp_path, monkeypatch, capfd):
    def call(*arguments):
        return run_command(monkeypatch, capfd, *arguments)

    code, out, _ = call("evaluate", place / "refit")
    assert code == 0 and "the model learned from training, validation rows" in out
    code, out, err = call("evaluate", place / "refit", "--split", "valid")
    assert code == 2 and out == "" and "learned from valid rows (train --refit valid)" in err
    code, out, _ = call("evaluate", place / "run", "--history", "valid", "--json")
    assert code == 0 and json.loads(out)["history"] == ["train", "valid"]
    code, _, err = call("compare", place / "refit", place / "run", "--split", "valid")
    assert code == 2 and "refit: split valid: the run has learned" in err
    code, out, _ = call("recommend", place / "run", "--user", 1, "--history", "all", "--json")
    assert code == 0
    code, out, _ = call("export", place / "refit", tmp_path / "export")
    assert code == 0
    described = json.loads((tmp_path / "export" / "export.json").read_text())
    assert described["history"] == ["train", "valid", "test"]
    assert described["model"]["learned_from"] == ["train", "valid"]
    settings = ["--set", "train.epochs=1", "--set", "model.embedding_size=4"]
    code, out, _ = call("train", place / "data", tmp_path / "all", "--refit", "all", *settings)
    assert code == 0 and "learned from training, validation, test rows" in out
    assert "no test rows that the model has not learned from" in out
    assert "the same settings, trained only on training rows:" in out
    assert load_checkpoint(tmp_path / "all" / BEST).meta["learned_from"][-1] == "test"


def test_diverse_lists_are_the_same_wherever_they_are_made(place, tmp_path, monkeypatch, capfd):
    trained = open_run(place / "run")
    user = trained.dataset.users.ids[0].as_py()
    for by in ("genres", "embedding", "series"):
        wanted = Diversity(by, 0.7)
        score_top_k(trained, tmp_path / by, 5, TopKOptions(diversity=wanted))
        table = pq.read_table(tmp_path / by / "part-00000.parquet").to_pandas()
        for index in range(5):
            user = trained.dataset.users.ids[index].as_py()
            shown = recommend(trained, str(user), 5, diversity=wanted)
            assert [one.item_id for one in shown] == table[table.user_id == user].item_id.tolist()
        found = evaluate(trained, "test", ranking=5, diversity=wanted)
        assert found["lists"]["diverse"] == by
    plain = evaluate(trained, "test", ranking=5)
    assert evaluate(trained, "test", ranking=5, diversity=Diversity("genres", 0.0))[
        "ndcg@5"
    ] == pytest.approx(plain["ndcg@5"])
    diverse = evaluate(trained, "test", ranking=5, diversity=Diversity("genres", 0.7))
    assert diverse["lists"]["diversity"] > plain["lists"]["diversity"]
    options = ["--user", user, "--diverse", "genres", "--diversity", "0.7"]
    code, *_ = run_command(monkeypatch, capfd, "recommend", place / "run", *options)
    assert code == 0
    for bad in (["--diversity", "0.5"], ["--diverse", "genres", "--diversity", "2"]):
        line = ["recommend", place / "run", "--user", user, *bad]
        assert run_command(monkeypatch, capfd, *line)[0] == 2
    with pytest.raises(UsageError, match=r'diverse not given, now \["genres", 0.3\]'):
        score_top_k(trained, tmp_path / "plain", 5, TopKOptions())
        score_top_k(trained, tmp_path / "plain", 5, TopKOptions(diversity=Diversity("genres")))
