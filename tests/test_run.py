"""A run is opened with the data set it was trained on, or refused with a word on why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dglrec import checkpoint, files
from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import DATASET_FILE, PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, UsageError
from dglrec.infer import embed_all, predict_pairs
from dglrec.nn import ModelConfig
from dglrec.run import BEST, LAST, TrainedModel, locked, open_predictor, open_run
from dglrec.sampling import LoaderConfig
from dglrec.synthetic import synthesize
from dglrec.train import Settings, TrainConfig, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `source`, a `data` set and a `run` trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    synthesize(folder / "source", users=60, items=30, ratings=900, seed=1)
    dataset = prepare(folder / "source", folder / "data", PrepareOptions(text=False))
    settings = Settings(
        ModelConfig(embedding_size=4, decoder_size=4, layers=1),
        LoaderConfig(user_fanouts=(5,), item_fanouts=(5,)),
        TrainConfig(epochs=2),
    )
    train(dataset, folder / "run", settings)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """The same to be spoilt; its run still names the first data set."""
    for name in ("data", "run"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def rewrite_meta(folder, **changes):
    """Change a checkpoint's description and make its checksum right again."""
    path = folder / "meta.json"
    meta = {**json.loads(path.read_text()), **changes}
    described = {name: value for name, value in meta.items() if name != "sha256"}
    meta["sha256"]["meta.json"] = files.json_digest(described)
    path.write_text(json.dumps(meta))


def test_an_opened_run_is_the_best_model_ready_to_predict(trained):
    opened = open_run(trained / "run")
    assert not opened.model.training
    assert not any(module.training for module in opened.model.modules())
    stored = load_checkpoint(trained / "run" / BEST)
    found = opened.model.state_dict()
    assert found.keys() == stored.weights.keys()
    assert all(torch.equal(found[name], stored.weights[name]) for name in found)
    assert opened.meta == stored.meta
    assert opened.dataset.path == (trained / "data").resolve()
    assert opened.model.config == ModelConfig(
        heads="both", embedding_size=4, decoder_size=4, layers=1, dropout=0.1, list_size=128
    )
    assert torch.equal(opened.model.inputs.features, opened.dataset.item_features)


def test_embeddings_are_computed_once(trained):
    opened = open_run(trained / "run", device=torch.device("cpu"))
    assert opened.embeddings is opened.embeddings
    expected = embed_all(opened.model, opened.dataset.graph, opened.dataset.biases)
    assert torch.equal(opened.embeddings.nodes.users, expected.nodes.users)


def test_a_runs_scorer_predicts_among_all_users_and_items_of_its_data_set(trained):
    opened = open_run(trained / "run")
    dataset = opened.dataset
    scorer = opened.scorer
    assert scorer is opened.scorer
    assert scorer.catalogue_size == dataset.graph.num_items
    users, items = torch.cartesian_prod(
        torch.arange(dataset.graph.num_users), torch.arange(dataset.graph.num_items)
    ).T
    expected = predict_pairs(opened.model, opened.embeddings, dataset.biases, users, items)
    torch.testing.assert_close(scorer.pairs(users, items), expected)
    rated = dataset.rated_items()
    scores, best = scorer.best(torch.tensor([4]), rated, 1)
    left = expected.view(dataset.graph.num_users, -1)[4].clone()
    left[torch.from_numpy(rated.items[rated.offsets[4] : rated.offsets[5]]).long()] = -torch.inf
    assert best.item() == left.argmax().item()
    assert scores.item() == pytest.approx(left.max().item(), abs=1e-5)


def test_the_best_model_is_opened_not_the_last(copy):
    weights = copy / "run" / LAST / "model.safetensors"
    weights.write_bytes(b"")
    open_run(copy / "run")


def test_opening_draws_no_random_number_into_the_model(trained):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(open_run(trained / "run").model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_moved_data_set_is_found_where_it_is_said_to_be(trained, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(trained, folder)
    shutil.move(folder / "data", folder / "moved")
    rewrite_meta(folder / "run" / BEST, dataset=str(folder / "data"))
    with pytest.raises(DataError, match=f"{folder / 'data'}: .*--dataset"):
        open_run(folder / "run")
    opened = open_run(folder / "run", dataset=folder / "moved")
    first = open_run(trained / "run")
    pairs = torch.arange(20), torch.arange(20)
    predictions = [
        predict_pairs(run.model, run.embeddings, run.dataset.biases, *pairs)
        for run in (opened, first)
    ]
    assert torch.equal(*predictions)


def test_a_relative_data_set_is_found_from_anywhere(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained)
    settings = Settings(ModelConfig(embedding_size=2), LoaderConfig(), TrainConfig(epochs=1))
    train(RatingDataset.open(Path("data")), tmp_path / "run", settings)
    monkeypatch.chdir(tmp_path)
    assert len(open_run(Path("run")).dataset.held_out("test"))


def test_another_data_set_is_refused(trained, tmp_path):
    for number, changes in enumerate(({"seed": 1}, {"valid": 0.2})):
        other = tmp_path / str(number)
        prepare(trained / "source", other, PrepareOptions(text=False, **changes))
        with pytest.raises(DataError, match=f"{other}: not the data set"):
            open_run(trained / "run", dataset=other)


def test_a_data_set_prepared_again_alike_is_the_same(trained, tmp_path):
    prepare(trained / "source", tmp_path / "again", PrepareOptions(text=False))
    open_run(trained / "run", dataset=tmp_path / "again")


def test_a_data_set_without_its_parts_is_refused(copy):
    (copy / "data" / DATASET_FILE).unlink()
    with pytest.raises(DataError, match="no prepared data set"):
        open_run(copy / "run", dataset=copy / "data")
    with pytest.raises(DataError, match="--dataset"):
        open_run(copy / "run", dataset=copy / "nowhere")


def test_a_folder_is_locked_under_the_name_it_goes_by(tmp_path):
    folder, shown = tmp_path / "made" / "parts", tmp_path / "table.csv"
    with locked(folder, ".mine", shown=shown):
        assert (folder / ".mine").read_text().startswith("process ")
        again, other = locked(folder, ".mine", shown=shown), locked(folder, ".other")
        with pytest.raises(UsageError, match=f"^{shown}: in use by process"), again:
            pass
        with other:  # another lock of the same folder
            pass
        with pytest.raises(UsageError, match=f"^{folder}: in use by"), locked(folder, ".mine"):
            pass
    with locked(folder, ".mine"):
        pass


def test_no_run_there(tmp_path):
    with pytest.raises(DataError, match="no such run.*dglrec train"):
        open_run(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="no such run"):
        open_run(tmp_path / "file")


def test_a_run_without_a_checkpoint(copy):
    shutil.rmtree(copy / "run" / BEST)
    with pytest.raises(DataError, match="not finished an epoch"):
        open_run(copy / "run")


def test_tampered_weights_are_refused(copy):
    path = copy / "run" / BEST / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"model\.safetensors: damaged or altered"):
        open_run(copy / "run")
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        open_run(copy / "run")


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("decoder.out.bias"),
        lambda weights: weights.update(more=torch.zeros(1)),
        lambda weights: weights.update({"decoder.out.bias": torch.zeros(2)}),
    ],
    ids=["one missing", "one more", "other shape"],
)
def test_weights_of_another_model_are_refused_though_checksums_fit(copy, change):
    folder = copy / "run" / BEST
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"]["model.safetensors"] = checkpoint.sha256_of(folder / "model.safetensors")
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="do not fit the model"):
        open_run(copy / "run")


def test_another_schema_version_is_refused(copy):
    rewrite_meta(copy / "run" / BEST, schema_version=99)
    with pytest.raises(DataError, match="schema version 99"):
        open_run(copy / "run")


@pytest.mark.parametrize(
    "model",
    [
        {"embedding_size": 4, "heads": 8},
        {"embedding_size": "4"},
        {"layers": -1},
        {"item_features": ["genres", 3]},
        {"aggregator": "median"},
        None,
        [],
        "mean",
    ],
    ids=str,
)
def test_a_description_of_no_model_is_refused(copy, model):
    rewrite_meta(copy / "run" / BEST, model=model)
    with pytest.raises(DataError, match="describes no model of this version"):
        open_run(copy / "run")


def test_a_description_that_leaves_things_out_is_refused(copy):
    folder = copy / "run" / BEST
    meta = json.loads((folder / "meta.json").read_text())
    rewrite_meta(folder, fingerprint=None)
    with pytest.raises(DataError, match="not the data set"):
        open_run(copy / "run")
    rewrite_meta(
        folder, fingerprint=meta["fingerprint"], dataset=str(copy / "gone"), dataset_from_run=None
    )
    with pytest.raises(DataError, match=f"{copy / 'gone'}"):
        open_run(copy / "run")
    del meta["dataset"]
    (folder / "meta.json").write_text(json.dumps(meta))
    rewrite_meta(folder)
    with pytest.raises(DataError):
        open_run(copy / "run")
    open_run(copy / "run", dataset=copy / "data")


def test_a_run_from_before_there_were_baselines_is_opened(copy):
    folder = copy / "run" / BEST
    model = json.loads((folder / "meta.json").read_text())["model"]
    assert model.pop("kind") == "graph"
    rewrite_meta(folder, model=model)
    first = open_run(copy / "run").model.state_dict()
    opened = open_predictor(copy / "run")
    assert isinstance(opened, TrainedModel)
    assert all(torch.equal(first[name], value) for name, value in opened.model.state_dict().items())


def test_a_model_predicts_and_ranks_as_its_parts_do(trained):
    opened = open_predictor(trained / "run")
    opened.prepare()
    users, items = torch.arange(20), torch.arange(20)
    biases = opened.dataset.biases
    expected = predict_pairs(opened.model, opened.embeddings, biases, users, items)
    assert torch.equal(opened.predict(users, items), expected)
    rated = opened.dataset.rated_items()
    by_rating = opened.ordered_by("rating")
    for ranked, scorer in ((opened, opened.list_scorer), (by_rating, by_rating.scorer)):
        assert torch.equal(ranked.rank_pairs(users, items), scorer.pairs(users, items))
        for found, same in zip(
            ranked.best(users, rated, 3), scorer.best(users, rated, 3), strict=True
        ):
            assert torch.equal(found, same)


def test_a_description_altered_by_hand_is_refused(copy):
    path = copy / "run" / BEST / "meta.json"
    meta = json.loads(path.read_text())
    meta["model"]["interaction"] = False
    path.write_text(json.dumps(meta))
    with pytest.raises(DataError, match="damaged or altered"):
        open_run(copy / "run")
