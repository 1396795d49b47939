"""Pages of `report`, read as a browser would: their elements, and what Chromium says of them."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dglrec import cli
from dglrec.files import write_json
from dglrec.report import write_report
from dglrec.report.html import VOID

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"

EVIL = "</script><script>alert(1)</script>"

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=5000",
)  # fmt: skip
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; apt-get install -y chromium"
)


def open_in_chromium(page, profile):
    """The page as Chromium has it in the end; fails where it says a word in its console."""
    done = subprocess.run(
        [CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def refuse(monkeypatch, capfd, folder, code, *arguments):
    """What `report` says, which must fail with this code in one or two lines, and leave nothing."""
    before = sorted(folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["dglrec", "--quiet", "report", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capfd.readouterr()
    assert exit_.value.code == code, err
    assert out == "" and len(err.splitlines()) <= 2 and "unexpected" not in err
    assert sorted(folder.iterdir()) == before
    return err


@dataclass(eq=False)
class Element:
    name: str
    attributes: dict
    parents: tuple = ()
    text: list = field(default_factory=list)


class Parsed(HTMLParser):
    """A page's elements; refuses what is not closed in order."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), "an attribute is there twice"
        element = Element(tag, dict(attrs), tuple(self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().name == tag

    def handle_data(self, data):
        for element in self.open:
            element.text.append(data)

    def named(self, name):
        return [one for one in self.elements if one.name == name]

    def tables(self):
        """The rows of each table by its caption."""
        found = {}
        for element in self.named("table"):
            inner = [one for one in self.elements if element in one.parents]
            (caption,) = (one for one in inner if one.name == "caption")
            rows = []
            for row in (one for one in inner if one.name == "tr"):
                cells = [one for one in inner if one.name in ("td", "th") and row in one.parents]
                rows.append(["".join(cell.text) for cell in cells])
            found.setdefault("".join(caption.text), rows)
        return found


def evil_benchmark():
    """The JSON of a benchmark whose entries hold markup."""
    value = json.loads((RESULTS / "train.json").read_text(encoding="utf-8"))
    value["rows"] = value["rows"][:8]
    value["rows"][0] |= {"loop": f"loop{EVIL}", f"key{EVIL}_ms": 3.5}
    value["machine"]["cpu"] = f"cpu{EVIL}"
    return {"schema_version": 1, **value, "note": EVIL}


def written(folder, name, value):
    write_json(folder / name, value)
    return folder / name


def page_of(sources, tmp_path):
    write_report(sources, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and "<img" not in text and "\x1b" not in text
    parsed = Parsed(text)
    check_pictures(parsed)
    return parsed


def check_pictures(parsed):
    """Each picture has a name and a table behind it, and no coordinate is missing."""
    for picture in parsed.named("svg"):
        assert picture.attributes["aria-label"] and picture.attributes["role"] == "img"
        (figure,) = (one for one in picture.parents if one.name == "figure")
        inner = [one.name for one in parsed.elements if figure in one.parents]
        assert inner.count("figcaption") == inner.count("details") == inner.count("table") == 1
    assert all("nan" not in value for one in parsed.elements for value in one.attributes.values()
               if value and one.name in ("circle", "line", "polyline"))  # fmt: skip
