"""Each figure that README and docs quote is the one in the JSON it stands in."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def figures() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("figures")
    sys.path.remove(str(FOLDER))


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def test_documents_and_results_agree(figures: Any) -> None:
    """Where this fails: `python benchmarks/figures.py --write`, or mend the words it names."""
    assert list(figures.disagreements(figures.QUOTES, read)) == []


def test_no_table_row_quotes_a_figure_of_no_file(figures: Any) -> None:
    for document, headings in figures.HELD.items():
        assert figures.unheld(document, read(document), headings, figures.QUOTES) == []


def test_every_quote_has_as_many_figures_as_places(figures: Any) -> None:
    for quote in figures.QUOTES:
        assert quote.text.count("{}") == len(quote.figures) > 0, quote.text


# The rules themselves, on planted results.


@pytest.fixture
def planted(figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One file of results and a quote of it; changed values are written by the call."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    def write(**changed: Any) -> None:
        figures.report.cache_clear()
        row = {"loop": "a", "rate": 205_784, "share": 0.845, "recall": 0.0617, **changed}
        other = {"loop": "b", "rate": 1, "share": 0.1, "recall": 0.1, "on": True}
        (tmp_path / "x.json").write_text(json.dumps({"rows": [row, other], "top": {"n": [3, 4]}}))

    write()
    yield write
    figures.report.cache_clear()


def quote_of(figures: Any) -> Any:
    at = figures.at
    return figures.Quote(
        "doc.md",
        "| a loop | {} | **{} %** | {} |",
        (
            at(",3", "x.json", "rate", loop="a"),
            at("%", "x.json", "share", loop="a"),
            at(".3", "x.json", "recall", loop="a"),
        ),
    )


TEXT = "words\n\n## Fast\n\n| | rate |\n| --- | --- |\n| a loop | 206,000 | **84 %** | .062 |\n"


def test_a_figure_that_differs_from_its_file_is_found(figures: Any, planted: Any) -> None:
    quote = quote_of(figures)

    def found(text: str) -> list[str]:
        return list(figures.disagreements([quote], lambda document: text))

    assert found(TEXT) == []
    # The text changes without the JSON, and the JSON without the text.
    (wrong,) = found(TEXT.replace("206,000", "207,000"))
    assert "doc.md: 207,000 where the JSON has 206,000, figure 1 of" in wrong
    planted(rate=214_499, recall=0.0704)
    one, two = found(TEXT)
    assert "206,000 where the JSON has 214,000" in one
    assert ".062 where the JSON has .070, figure 3" in two
    # The words are gone, or there twice.
    assert "nowhere" in found(TEXT.replace("a loop", "the loop"))[0]
    assert "2 times" in found(TEXT + TEXT)[0]
    assert figures.rewritten(TEXT, [quote]) == TEXT.replace("206,000", "214,000").replace(
        ".062", ".070"
    )


def test_a_file_row_or_key_that_is_gone_is_named(
    figures: Any, planted: Any, tmp_path: Path
) -> None:
    quote = quote_of(figures)

    def found() -> str:
        (line,) = figures.disagreements([quote], lambda document: TEXT)
        return str(line)

    planted(loop="c")
    assert "0 rows have {'loop': 'a'}" in found()
    planted(rate=None)
    assert "rate in the row {'loop': 'a'} is None, and no number" in found()
    planted(loop="b")
    with pytest.raises(figures.FigureError, match="2 rows have"):
        figures.one("x.json", "rate", {"loop": "b"})
    (tmp_path / "x.json").unlink()
    figures.report.cache_clear()
    assert found() == "x.json: there is no such file of results"


def test_rows_and_places_are_looked_up(figures: Any, planted: Any) -> None:
    assert figures.one("x.json", "top/n/1", {}) == 4
    assert figures.one("x.json", "rate", {"on": None}) == 205_784  # where the key is not there
    assert figures.best("d", ["x.json"], "rate").value() == 205_784
    assert figures.average(".3f", "x.json", "share").text == "0.472"
    whole = figures.at("", "x.json", "rate", loop="a")
    assert figures.ratio(".1f", whole, figures.times("", 2, whole)).text == "0.5"
    for key in ("top/n/2", "top/m", "rows/0/loop"):
        with pytest.raises(figures.FigureError):
            figures.one("x.json", key, {})
    with pytest.raises(figures.FigureError, match="no row has"):
        figures.best("d", ["x.json"], "rate", loop="z").value()


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (",3", 2_824_911, "2,825,000"),
        (",2", 21_871, "21,900"),
        (",1", 1_240, "1,240"),
        (",.0f", 1091.4, "1,091"),
        (".4", 0.06174, ".0617"),
        (".1", 1.25, "1.2"),
        ("%", 0.1296, "13"),
        (".2f", 0.957, "0.96"),
    ],
)
def test_forms(figures: Any, form: str, value: float, text: str) -> None:
    assert figures.Figure(form, lambda: value).text == text


def test_a_row_of_figures_without_a_quote_is_found(figures: Any, planted: Any) -> None:
    quotes = [quote_of(figures)]
    headings = ("## Fast",)
    assert figures.unheld("doc.md", TEXT, headings, quotes) == []
    more = TEXT + "| b loop | 5 s | |\n| in words | see 5 things | |\n\n## Other\n\n| c | 7 |\n"
    assert figures.unheld("doc.md", more, headings, quotes) == [
        "doc.md: no quote for | b loop | 5 s | |"
    ]
    # A quote of another document covers nothing here.
    assert len(figures.unheld("other.md", TEXT, headings, quotes)) == 1
    with pytest.raises(figures.FigureError, match="no section"):
        figures.unheld("doc.md", TEXT, ("## Gone",), quotes)
