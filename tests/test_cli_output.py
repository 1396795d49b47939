"""What the command line prints: nothing that changes a terminal, whatever the data hold."""

import datetime
import json
import sys

import pytest

from dglrec import cli
from dglrec.cli import _in_short
from dglrec.cli.output import (
    print_evaluation,
    print_json,
    print_recommendations,
    print_results,
    report,
    say,
)
from dglrec.errors import DataError
from dglrec.progress import log, progress
from dglrec.score.recommend import Reason, Recommendation

HOSTILE = "A\x1b[2J\x9b31m\x07\u202eB"


def assert_harmless(text):
    assert "A\ufffd[2J\ufffd31m\ufffd\ufffdB" in text
    assert not set(text) & set("\x1b\x9b\x07\u202e")


def test_lists_show_titles_and_ids_without_what_a_terminal_acts_on(capsys):
    reason = Reason(HOSTILE, HOSTILE, 0.5)
    print_recommendations([Recommendation(1, HOSTILE, HOSTILE, 2.0, 3.0, (reason,))])
    out = capsys.readouterr().out
    assert_harmless(out)
    assert out.count("\ufffd[2J") == 3


def reasons(contribution, rating=8.0):
    reason = Reason(3, "Heat", contribution, rating)
    return [Recommendation(1, 7, "Ran", 2.0, 3.0, (reason,))]


def test_reasons_show_what_they_were_rated(capsys):
    print_recommendations(reasons(0.41))
    assert "Heat, rated 8 (+0.41)" in capsys.readouterr().out
    print_recommendations(reasons(0.41, None))
    out = capsys.readouterr().out
    assert "Heat (+0.41)" in out and "note" not in out


def test_reasons_too_small_to_mean_anything_are_called_so(capsys):
    print_recommendations(reasons(0.004))
    assert "note: no single rated item moves a score by 0.01" in capsys.readouterr().out


def test_what_prepare_met_stands_one_a_line_and_what_it_did_not_meet_nowhere(capsys):
    report({"rows": 2, "notes": {"rows_read": 6_000, "duplicate_rows_dropped": 0}}, as_json=False)
    assert capsys.readouterr().out == "rows: 2\nnote: rows read: 6,000\n"


@pytest.mark.parametrize(
    ("epochs", "best", "said"),
    [
        (1, 1, "1 epoch in 2 s, the best was epoch 1\nnote: the best epoch was the last"),
        (10, 10, "10 epochs in 2 s, the best was epoch 10\nnote: the best epoch was the last"),
        (10, 7, "10 epochs in 2 s, the best was epoch 7\n"),
    ],
)
def test_training_that_ended_at_its_best_says_so(epochs, best, said, capsys):
    results = {"epochs": epochs, "best_epoch": best, "training_seconds": 2.0, "test": {}}
    print_results({**results, "valid": {"rmse": 1.0}})
    out = capsys.readouterr().out
    assert out.startswith(said) and (best == epochs or "note" not in out)
    print_results(results)  # without validation rows none is the best
    assert "best" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rating", "predicted", "said"), [(10.0, 10.43, "10.00 (10.43)"), (7.5, 7.5, "7.50")]
)
def test_a_rating_beyond_the_scale_is_shown_as_it_was_too(rating, predicted, said, capsys):
    print_recommendations([Recommendation(1, 5, "five", 3.0, rating, predicted=predicted)])
    out = capsys.readouterr().out
    assert f" {said} │" in out


def test_figures_and_notes_are_shown_alike(capsys):
    report({"out": HOSTILE, "feature": {HOSTILE: 1}}, as_json=False)
    assert_harmless(capsys.readouterr().out)
    print_evaluation({"notes": [HOSTILE]})
    assert_harmless(capsys.readouterr().out)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the entry point with a verb that talks."""

    @cli.cli.command("talk")
    def talk():
        log("a message")
        with progress("working", 2, "steps") as advance:
            advance(1)
        say("a result")
        raise DataError("x.csv: no such file")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dglrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    yield call
    del cli.cli.commands["talk"]


@pytest.mark.parametrize("place", [0, 1])
def test_quiet_leaves_results_and_errors(place, command):
    arguments = ["talk"]
    arguments.insert(place, "--quiet")
    assert command(*arguments) == (3, "a result\n", "error: x.csv: no such file\n")


def test_a_log_file_has_what_is_said_and_more_is_added(tmp_path, command):
    file = tmp_path / "night.log"
    for options in (["--log-file", file], [f"--log-file={file}", "--quiet"]):
        assert command("talk", *options)[0] == 3
    said = [line.split(" ", 1) for line in file.read_text().splitlines()]
    assert [text for _, text in said] == ["a message", "error: x.csv: no such file"] * 2
    for when, _ in said:
        datetime.datetime.strptime(when, "%Y-%m-%dT%H:%M:%S%z")


def test_messages_as_json(tmp_path, command):
    file = tmp_path / "night.jsonl"
    code, out, err = command("talk", "--log-format", "json", "--log-file", file)
    assert (code, out) == (3, "a result\n")
    for lines in (err, file.read_text()):
        said = [json.loads(line) for line in lines.splitlines()]
        assert [(one["level"], one["message"]) for one in said] == [
            ("info", "a message"),
            ("error", "x.csv: no such file"),
        ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--log-file"], "--log-file: give a value"),
        (["--log-file="], "--log-file: give a value"),
        (["--log-file", "/nowhere/at/all"], "--log-file /nowhere/at/all: cannot be written (No su"),
        (["--log-format", "xml"], "--log-format xml: write text or json"),
    ],
)
def test_what_common_options_cannot_be(options, said, command):
    code, out, err = command("talk", *options)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")


def test_errors_are_shown_alike_on_two_lines_at_most():
    assert_harmless(_in_short(DataError(f"{HOSTILE}: no such file")))
    assert_harmless(_in_short(PermissionError(13, "no", HOSTILE)))
    assert _in_short(DataError("a\nb\nc")) == "a\nb c"


@pytest.mark.parametrize("text", [HOSTILE, "\x7f\x85", "\udcff"])
def test_json_escapes_what_a_terminal_acts_on_and_holds_the_same(text, capsys):
    print_json({text: [text, "ü"]})
    out = capsys.readouterr().out
    assert not any(ord(one) < 32 or 126 < ord(one) < 160 for one in out.rstrip("\n"))
    assert "ü" in out and json.loads(out) == {text: [text, "ü"]}
