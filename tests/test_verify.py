"""What `dglrec doctor FOLDER` finds: damage of any kind in a data set, a run, scores, an export."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from damage import WAYS, copied, files_of, victims
from proofs import as_of_an_earlier_version
from runs import lines_of, make_settings, planted, train_one_epoch

from dglrec import files as files_module
from dglrec.config import resumed_settings
from dglrec.errors import DataError
from dglrec.export import export
from dglrec.files import CHECKSUMS_FILE, TEMPORARY, check_checksums, write_checksums
from dglrec.run import (
    CONFIG_FILE,
    ITEM_ITEMS,
    LAST,
    LOG_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    open_predictor,
    open_run,
)
from dglrec.score import score_top_k
from dglrec.train import train
from dglrec.verify import verify


@dataclass(frozen=True)
class Made:
    data: Path
    run: Path
    scores: Path
    exported: Path


def made(folder, seed):
    folder.mkdir()
    dataset = planted(folder, 40, 20, 500)
    settings = make_settings(epochs=2, seed=seed, keep_checkpoints=2, checkpoint_steps=1)
    train(dataset, folder / "run", settings)
    trained = open_run(folder / "run")
    score_top_k(trained, folder / "scores", 2 + seed)
    export(trained, folder / "exported")
    return Made(*(folder / name for name in ("data", "run", "scores", "exported")))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    return made(folder / "one", 0), made(folder / "other", 1)


def failures(folder):
    return [check.found for check in verify(folder) if check.level == "failure"]


def warnings(folder):
    return [check.found for check in verify(folder) if check.level == "warning"]


@pytest.mark.parametrize("kind", ["data", "run", "scores", "exported"])
def test_nothing_is_found_where_all_is_as_it_was_written(kind, both):
    checks = verify(getattr(both[0], kind))
    assert checks and all(check.level == "ok" for check in checks), checks


# A file of scores or an export that is altered is told by another that it fits no longer.
NAMES_ANOTHER = ("_plan.json", "_manifest.json", "_parts/00000.json", "export.json")


FAST_WAYS = ("missing", "noise", "in range but wrong")


@pytest.mark.parametrize(
    "how", [how if how in FAST_WAYS else pytest.param(how, marks=pytest.mark.slow) for how in WAYS]
)
@pytest.mark.parametrize("kind", ["run", "scores", "exported"])
def test_every_file_that_is_damaged_is_found(kind, how, both, tmp_path):
    folder = copied(getattr(both[0], kind), tmp_path / kind)
    # What training said is no result, and nothing reads it.
    names = [name for name in files_of(folder) if name not in (CHECKSUMS_FILE, LOG_FILE)]
    tried = 0
    for name, victim in victims(folder, getattr(both[1], kind), names).items():
        content = victim.path.read_bytes()
        if not victim.damage(how):
            continue
        tried += 1
        if name == "_SUCCESS" and how in ("missing", "a folder"):
            assert "not all of them" in " ".join(warnings(folder))
        else:
            found = refused_for(folder)
            assert str(folder) in found
            assert Path(name).name in found or name in NAMES_ANOTHER, (name, how, found)
        victim.mend(content)
    least = {"run": 10, "scores": 3, "exported": 3}[kind]
    if how == "one byte short":  # of JSON that is the end of its last line
        least = sum(not name.endswith(".json") and name != "_SUCCESS" for name in names)
    assert tried >= least
    assert not failures(folder)


def refused_for(folder):
    """Whatever failed; of a folder that no longer says what it is, what is said of that."""
    try:
        return " ".join(failures(folder))
    except DataError as error:
        return str(error)


def test_checksums_of_a_run_that_are_damaged_are_named(both, tmp_path):
    run = copied(both[0].run, tmp_path / "run")
    for content in ("", "[]", "{}", '{"xxh128": 3}', '{"xxh128": {"../x": "0"}}'):
        (run / CHECKSUMS_FILE).write_text(content)
        assert CHECKSUMS_FILE in " ".join(failures(run))
        with pytest.raises(DataError, match=CHECKSUMS_FILE):
            open_predictor(run)


@pytest.mark.parametrize("name", [CONFIG_FILE, METRICS_FILE, RESULTS_FILE, "environment.json"])
def test_a_run_with_an_altered_file_is_not_used(name, both, tmp_path):
    run = copied(both[0].run, tmp_path / "run")
    (run / name).write_text((run / name).read_text() + "\n")
    with pytest.raises(DataError, match=f"{name}: damaged or altered since it was written"):
        open_predictor(run)
    (run / CHECKSUMS_FILE).unlink()  # as of a training that was stopped, or of an earlier version
    open_predictor(run)
    assert any(CHECKSUMS_FILE in found for found in warnings(run))


def test_a_finished_run_that_goes_on_has_the_checksums_of_what_it_became(both, tmp_path):
    dataset_of = open_run(both[0].run).dataset
    run = copied(both[0].run, tmp_path / "run")
    before = json.loads((run / CHECKSUMS_FILE).read_text())
    settings = make_settings(epochs=3, seed=0, keep_checkpoints=2, checkpoint_steps=1)
    train(dataset_of, run, settings, resume=True)
    check_checksums(run)
    assert json.loads((run / CHECKSUMS_FILE).read_text()) != before


def test_what_cannot_be_compared_is_a_warning(both, tmp_path):
    data = as_of_an_earlier_version(copied(both[0].data, tmp_path / "data"))
    assert "no checksums" in " ".join(warnings(data)) and not failures(data)
    run = copied(both[0].run, tmp_path / "run")
    (run / f"{TEMPORARY}x-config.toml").write_text("")
    (run / LAST).rename(run / "checkpoints" / "damaged-last")
    found = " ".join(warnings(run))
    assert "half-written" in found and "moved aside" in found and not failures(run)


def test_what_is_none_of_ours_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a data set nor a run, scores or an export"):
        verify(tmp_path)


def test_files_are_compared_by_all_their_bytes(tmp_path):
    for name, content in (("a", b"1"), ("b", b"")):
        (tmp_path / name).write_bytes(content)
    check_checksums(tmp_path)  # nothing to compare with
    write_checksums(tmp_path, ["a", "b"])
    check_checksums(tmp_path)
    (tmp_path / "b").unlink()
    check_checksums(tmp_path)
    with pytest.raises(DataError, match="b: no such file"):
        check_checksums(tmp_path, all_there=True)
    (tmp_path / "a").write_bytes(b"2")
    with pytest.raises(DataError, match="a: damaged or altered since it was written"):
        check_checksums(tmp_path)


# --- a run that is not finished ------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(both, tmp_path_factory):
    """A run that was cut off in its second epoch."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    settings = make_settings(epochs=3, seed=0, keep_checkpoints=2, checkpoint_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        train_one_epoch(patch, open_run(both[0].run).dataset, run, settings)
    return run


def goes_on(run, both):
    return train(
        open_run(both[0].run).dataset, run, resumed_settings(run, None, (), {}), resume=True
    )


def test_what_stands_in_a_run_from_the_start_is_proven_while_it_is_trained(stopped, both, tmp_path):
    assert not failures(stopped) and "training has not finished" in " ".join(warnings(stopped))
    for name in (CONFIG_FILE, "environment.json"):
        run = copied(stopped, tmp_path / name)
        (run / name).write_text((run / name).read_text() + "\n")
        for use in (open_predictor, lambda run: goes_on(run, both)):
            with pytest.raises(DataError, match=f"{name}: damaged or altered since it was written"):
                use(run)
        assert name in " ".join(failures(run))


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", None])
def test_a_run_does_not_go_on_with_other_figures_than_it_had(content, stopped, both, tmp_path):
    run = copied(stopped, tmp_path / "run")
    if content is None:
        (run / METRICS_FILE).unlink()
    else:
        (run / METRICS_FILE).write_bytes(content)
    assert METRICS_FILE in " ".join(failures(run))
    before = files_of(run)
    with pytest.raises(DataError, match=f"{METRICS_FILE}: damaged or altered"):
        goes_on(run, both)
    assert files_of(run) == [*before]


def test_lines_of_an_epoch_that_was_not_saved_are_dropped(stopped, both, tmp_path):
    run = copied(stopped, tmp_path / "run")
    with (run / METRICS_FILE).open("ab") as file:
        file.write(b'{"epoch": 2, "half')
    goes_on(run, both)
    assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3]
    assert not failures(run) and not warnings(run)


def test_a_run_without_its_configuration_is_no_run_to_go_on_with(stopped, both, tmp_path):
    run = copied(stopped, tmp_path / "run")
    (run / CONFIG_FILE).unlink()
    with pytest.raises(DataError, match=rf"{CONFIG_FILE}: no such file, though .* checkpoints"):
        resumed_settings(run, None, (), {})


def test_item_weights_that_are_gone_are_missed(both, tmp_path):
    settings = make_settings(model={"heads": "both", "item_items": "ease"}, epochs=1)
    train(open_run(both[0].run).dataset, tmp_path / "run", settings)
    open_predictor(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / ITEM_ITEMS)
    with pytest.raises(DataError, match="checkpoints/items/meta.json: no such file"):
        open_predictor(tmp_path / "run")


def test_checksums_that_change_while_they_are_compared_are_read_again(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"1")
    write_checksums(tmp_path, ["a"])
    (tmp_path / "a").write_bytes(b"2")
    compare, calls = files_module._compare, []

    def replaced_meanwhile(*arguments):
        calls.append(arguments)
        try:
            compare(*arguments)
        finally:
            write_checksums(tmp_path, ["a"])

    monkeypatch.setattr(files_module, "_compare", replaced_meanwhile)
    check_checksums(tmp_path)
    assert len(calls) == 2
    monkeypatch.undo()
    for name in ("../a", "/a", "", "a\\u0000"):
        (tmp_path / CHECKSUMS_FILE).write_text(f'{{"xxh128": {{"{name}": "0"}}}}')
        with pytest.raises(DataError, match=f"{CHECKSUMS_FILE}: damaged"):
            check_checksums(tmp_path)
