"""A prepared data set that was damaged is refused, whatever is done with it."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xxhash
from damage import WAYS, copied, files_of, victims
from proofs import as_of_an_earlier_version, prove_again, read_meta, sign

from dglrec import cli
from dglrec.config import build_settings
from dglrec.dataset import DATASET_FILE, PrepareOptions, RatingDataset, prepare
from dglrec.dataset import mapped as mapped_module
from dglrec.errors import DataError
from dglrec.run import RESULTS_FILE
from dglrec.synthetic import Planting, synthesize
from dglrec.train import train

OPTIONS = PrepareOptions(text=False)
SMALL = {"epochs": 1}
TINY = {"embedding_size": 4, "decoder_size": 4}


@dataclass(frozen=True)
class Small:
    dataset: Path
    other: Path
    source: Path


@dataclass(frozen=True)
class Runs:
    graph: Path
    knn: Path


def made(folder, seed):
    planting = Planting(
        trust=60, homophily=0.3, timestamps=True, user_attributes=True, attribute_effect=0.3
    )
    synthesize(
        folder / f"source-{seed}", users=60, items=30, ratings=900, seed=seed, planting=planting
    )
    source = folder / f"source-{seed}"
    options = replace(
        OPTIONS, relation={"trusts": source / "trust.csv"}, user_table=source / "users.csv"
    )
    return prepare(source, folder / f"data-{seed}", options)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    datasets = [made(folder, seed) for seed in (1, 2)]
    return Small(*(one.path for one in datasets), folder / "source-1")


@pytest.fixture(scope="module")
def runs(small):
    folder, dataset = small.dataset.parent, RatingDataset.open(small.dataset)
    train(dataset, folder / "run", build_settings({"train": SMALL, "model": TINY}))
    train(dataset, folder / "knn", build_settings({"model": {"kind": "item_knn"}}))
    return Runs(folder / "run", folder / "knn")


@pytest.fixture
def copy(small, tmp_path):
    return copied(small.dataset, tmp_path / "copy")


# --- what is written -----------------------------------------------------------------------------


def test_every_file_is_described_as_other_programs_would(small):
    described = read_meta(small.dataset)["files"]
    assert sorted([*described, DATASET_FILE]) == files_of(small.dataset)
    for name, entry in described.items():
        content = (small.dataset / name).read_bytes()
        assert entry["size"] == len(content)
        assert entry["xxh128"] == xxhash.xxh128_hexdigest(content)
        if name.endswith(".npy"):
            array = np.load(small.dataset / name)
            assert (entry["dtype"], entry["shape"]) == (array.dtype.name, list(array.shape))


def test_checksums_do_not_depend_on_how_a_file_is_cut(small, monkeypatch):
    for size in (8, 64, 1000 * 8):
        monkeypatch.setattr(mapped_module, "_AT_ONCE", size)
        RatingDataset.open(small.dataset).prove()


def test_a_file_is_proved_when_it_is_first_read_and_only_then(copy):
    opened = RatingDataset.open(copy)
    opened.graph  # noqa: B018
    path = copy / "valid.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"valid.parquet: damaged .*prepare the data set again"):
        opened.held_out("valid")
    assert len(opened.held_out("test"))


# --- what is damaged -----------------------------------------------------------------------------


def change(path, place, value):
    array = np.load(path)
    array[place] = value
    np.save(path, array)


def forge(folder, name):
    """Give a file's new content the checksum that goes with it."""
    meta = read_meta(folder)
    meta["files"][name]["xxh128"] = xxhash.xxh128_hexdigest((folder / name).read_bytes())
    sign(folder, meta)


BAD_VALUES = [
    ("train/by_item_neighbours.npy", 100_000_000),
    ("train/by_item_edges.npy", 10**15),
    ("train/by_item_edges.npy", -1),
    ("train/by_user_neighbours.npy", -1),
    ("train/by_user_codes.npy", 200),
    ("train/by_item_codes.npy", 10),
    ("train/user_bias.npy", np.nan),
    ("train/item_squares.npy", np.inf),
    ("features/genres.npy", np.nan),
    ("relations/trusts/backward_neighbours.npy", 60),
]


@pytest.mark.parametrize("written", ["as prepared", "by an earlier version", "forged"])
@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_values_that_cannot_be_are_refused_before_anything_is_computed(
    name, value, written, copy, tmp_path
):
    if written == "by an earlier version":
        as_of_an_earlier_version(copy)
    change(copy / name, 7, value)
    if written == "forged":
        forge(copy, name)
    opened = RatingDataset.open(copy)
    for kind in ("item_knn", "graph"):
        settings = {"model": {"kind": kind}, "train": SMALL}
        if kind == "graph":
            settings["loader"] = {"kind": "neighbor"}
        with pytest.raises(DataError, match=f"{name}: damaged .*; prepare the data set again"):
            train(opened, tmp_path / kind, build_settings(settings))
        assert not (tmp_path / kind).exists()


HELD_OUT_VALUES = [("user", 60), ("user", -1), ("item", 30), ("rating", 11.0), ("rating", np.nan)]


@pytest.mark.parametrize(("column", "value"), HELD_OUT_VALUES)
def test_held_out_rows_that_cannot_be_are_refused(column, value, copy):
    frame = pd.read_parquet(copy / "test.parquet")
    frame.loc[3, column] = value
    frame.to_parquet(copy / "test.parquet", index=False)
    prove_again(copy)
    with pytest.raises(DataError, match=r"test.parquet: damaged"):
        RatingDataset.open(copy).held_out("test")


def test_swapped_and_inverted_codes_are_refused(copy, tmp_path):
    path = copy / "train" / "by_user_codes.npy"
    np.save(path, 9 - np.load(path))
    with pytest.raises(DataError, match="by_user_codes"):
        train(RatingDataset.open(copy), tmp_path / "run", build_settings({"train": SMALL}))


def is_named(name, how, message):
    """Another data set's description is a good one, and it is the files that do not fit it."""
    another = name == DATASET_FILE and how == "of another"
    return Path(name).name in message or (another and "damaged" in message)


@pytest.mark.parametrize("how", WAYS)
def test_no_damaged_file_is_taken_for_the_one_that_was_written(how, small, copy):
    tried = 0
    for name, victim in victims(copy, small.other, files_of(copy)).items():
        content = victim.path.read_bytes()
        if not victim.damage(how):
            continue
        tried += 1
        with pytest.raises(DataError) as raised:
            RatingDataset.open(copy).prove()
        assert is_named(name, how, str(raised.value))
        assert len(str(raised.value).splitlines()) == 1
        victim.mend(content)
    assert tried >= 25
    RatingDataset.open(copy).prove()


# --- each verb -----------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs a command as the console script does: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dglrec", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return (exit_.value.code, *capfd.readouterr())

    return call


def verbs(runs, data, out):
    """A command for each verb that reads a data set."""
    pairs = out.parent / "pairs.csv"
    pairs.write_text("user_id,item_id\n")
    small_set = ["--set", "train.epochs=1"]
    tiny_set = ["--set", "model.embedding_size=4", "--set", "model.decoder_size=4"]
    return {
        "train": ["train", data, out, *small_set],
        "train neighbor": ["train", data, out, *small_set, "--set", "loader.kind=neighbor"],
        "train resume": ["train", data, runs.graph, "--resume"],
        "train refit": ["train", data, out, "--refit", "all", *small_set],
        "train from": ["train", data, out, "--from", runs.graph, *small_set, *tiny_set],
        "train item_knn": ["train", data, out, "--config", "item_knn"],
        "evaluate": ["evaluate", runs.graph, "--dataset", data],
        "evaluate ranking": ["evaluate", runs.graph, "--dataset", data, "--ranking", 5],
        "evaluate details": ["evaluate", runs.graph, "--dataset", data, "--details"],
        "evaluate history": ["evaluate", runs.graph, "--history", "valid", "--dataset", data],
        "evaluate item_knn": ["evaluate", runs.knn, "--dataset", data],
        "recommend": ["recommend", runs.graph, "--user", 1, "--dataset", data],
        "score": ["score", runs.graph, out, "--top-k", 3, "--dataset", data],
        "score all": [
            "score",
            runs.graph,
            out,
            "--top-k",
            3,
            "--history",
            "all",
            "--dataset",
            data,
        ],
        "score pairs": ["score", runs.graph, out, "--pairs", pairs, "--dataset", data],
        "export": ["export", runs.graph, out, "--dataset", data],
        "doctor": ["doctor", data],
    }


def refused_by_all(runs, data, name, how, command, out, chosen=None):
    """Give each verb the data set; how many refused it as promised, and what the others did."""
    wrong, count = [], 0
    for verb, arguments in verbs(runs, data, out).items():
        if chosen is not None and verb not in chosen:
            continue
        code, said, error = command(*arguments)
        count += 1
        as_promised = (
            code == 3
            and is_named(name, how, error + said)
            and "prepare" in error + said
            and "unexpected" not in error
            and len(error.splitlines()) <= 2
            and not out.exists()
        )
        if not as_promised:
            wrong.append((name, how, verb, code, said[-200:], error[-300:]))
    return count, wrong


def damaged_everywhere(small, runs, copy, command, out, names, ways, chosen=None):
    count, wrong = 0, []
    for name, victim in victims(copy, small.other, files_of(copy)).items():
        content = victim.path.read_bytes()
        for how in ways if names is None or name in names else ():
            if victim.damage(how):
                tried, found = refused_by_all(runs, copy, name, how, command, out, chosen)
                count, wrong = count + tried, wrong + found
                victim.mend(content)
    return count, wrong


def test_each_verb_refuses_what_is_in_range_but_wrong(small, runs, copy, command, tmp_path):
    names = ["train/by_item_codes.npy", "planted/user_reach.npy", "users.parquet", DATASET_FILE]
    count, wrong = damaged_everywhere(
        small, runs, copy, command, tmp_path / "out", names, ["in range but wrong"]
    )
    assert not wrong
    assert count == 4 * 17


@pytest.mark.slow
def test_each_verb_refuses_each_file_damaged_in_each_way(small, runs, copy, command, tmp_path):
    count, wrong = damaged_everywhere(small, runs, copy, command, tmp_path / "out", None, WAYS)
    print(json.dumps({"tried": count, "wrong": wrong}, indent=1))
    assert not wrong
    assert count > 7_500


# --- those of earlier versions -------------------------------------------------------------------


def test_a_data_set_without_checksums_opens_and_is_the_same(small, copy):
    dataset, earlier = RatingDataset.open(small.dataset), as_of_an_earlier_version(copy)
    opened = RatingDataset.open(earlier)
    opened.prove()
    assert opened.fingerprint == dataset.fingerprint
    assert torch.equal(opened.held_out("test").users, dataset.held_out("test").users)


@pytest.mark.parametrize("entry", ["files", "checksum"])
def test_one_of_the_proofs_without_the_other_is_refused(entry, copy):
    meta = read_meta(copy)
    del meta[entry]
    (copy / DATASET_FILE).write_text(json.dumps(meta))
    with pytest.raises(DataError, match="altered since it was written"):
        RatingDataset.open(copy)


# --- one writer, many readers --------------------------------------------------------------------


def everything(dataset):
    graph = dataset.graph
    sides = (graph.by_user, graph.by_item)
    arrays = [part for side in sides for part in (side.offsets, side.neighbours, side.codes)]
    rows = [dataset.held_out(split) for split in ("valid", "test")]
    tensors = [part for one in rows for part in (one.users, one.items, one.ratings, one.times)]
    tensors += [dataset.item_features, dataset.user_features, dataset.biases.users]
    trusts = dataset.relations["trusts"].forward
    arrays += [graph.edges_by_item, graph.times, trusts.offsets, trusts.neighbours]
    arrays += [one.numpy() for one in tensors]
    return [one.tobytes() for one in arrays], dataset.users.ids, dataset.titles


def test_what_was_opened_stays_what_it_was_when_the_data_set_is_replaced(small, copy, capfd):
    opened = RatingDataset.open(copy)
    opened.held_out("valid")
    assert capfd.readouterr().err == ""
    options = replace(OPTIONS, seed=5, overwrite=True)
    assert prepare(small.source, copy, options).fingerprint != opened.fingerprint
    capfd.readouterr()
    assert everything(opened) == everything(RatingDataset.open(small.dataset))
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"{copy}: the data set was replaced, or removed, while it was in use")


def test_a_training_whose_data_set_is_replaced_is_that_of_the_old_one(small, runs, copy, tmp_path):
    undisturbed = json.loads((runs.graph / RESULTS_FILE).read_text())
    settings = build_settings({"train": SMALL, "model": TINY})
    opened = RatingDataset.open(copy)
    prepare(small.source, copy, replace(OPTIONS, seed=5, overwrite=True))
    disturbed = train(opened, tmp_path / "disturbed", settings)
    assert disturbed["test"] == undisturbed["test"]
    assert disturbed["valid"] == undisturbed["valid"]


def test_a_data_set_replaced_in_the_moment_it_is_opened_is_opened_again(small, copy, monkeypatch):
    read = mapped_module._read_description

    def replaced_meanwhile(path):
        monkeypatch.setattr(mapped_module, "_read_description", read)
        before = read(path)
        prepare(small.source, path, replace(OPTIONS, seed=5, overwrite=True))
        return before

    monkeypatch.setattr(mapped_module, "_read_description", replaced_meanwhile)
    opened = RatingDataset.open(copy)
    opened.prove()
    assert opened.meta["split"]["seed"] == 5
