"""The documentation: links lead somewhere, pages are listed, the reference names all there is."""

import doctest
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import dglrec
from dglrec import api
from dglrec.cli import cli
from dglrec.config import known_keys, shipped_names

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("*.ipynb")])

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """What makes the generated pages."""
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module("reference")
    sys.path.remove(str(DOCS / "_ext"))


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = (re.sub(r"[^\w\- ]", "", one.lower()) for one in _HEADING.findall(text))
    return {one.strip().replace(" ", "-") for one in headings}


def broken_links(page: Path, text: str, pages: dict[Path, str]) -> list[str]:
    """The links of a page that lead nowhere, to files and to headings; others are not followed."""
    found = []
    for link in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        known = pages.get(target)
        if not target.exists() or (anchor and known and anchor not in anchors_of(known)):
            found.append(link)
    return found


def test_every_link_leads_to_a_file_and_a_heading(reference: Any) -> None:
    pages = {
        page.resolve(): _FENCE.sub("", reference.filled(page.read_text(encoding="utf-8")))
        for page in PAGES
    }
    broken = {page.name: broken_links(page, text, pages) for page, text in pages.items()}
    assert {name: links for name, links in broken.items() if links} == {}


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    text = "# A page\n[a](other.md) [b](other.md#what-is-it) [c](#a-page) [d](https://x.org/y)\n"
    page.write_text(text)
    other.write_text("## What is it?\n")
    pages = {one: one.read_text() for one in (page, other)}
    assert broken_links(page, text, pages) == []
    wrong = "[a](gone.md) [b](other.md#what) [c](#other)\n```\n[d](gone.md)\n```\n"
    assert broken_links(page, wrong, pages) == ["gone.md", "other.md#what", "#other"]


def test_every_page_is_in_one_list_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", index, re.MULTILINE | re.DOTALL)
    listed = [line for tree in trees for line in tree.split("\n\n", 1)[1].split()]
    assert sorted(listed) == sorted({page.stem for page in PAGES} - {"README", "index"})


def test_every_verb_and_option_has_an_entry(reference: Any) -> None:
    verbs = reference.filled((DOCS / "verbs.md").read_text(encoding="utf-8"))
    sections = dict(re.findall(r"^## dglrec (\w+)\n(.*?)(?=^## |\Z)", verbs, re.M | re.S))
    assert sections.keys() == cli.commands.keys()
    for name, command in [*cli.commands.items(), (None, cli)]:
        text = sections[name] if name else verbs.partition("\n## dglrec")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert f"{{option}} {parameter.opts[0]}" in text, (name, parameter.opts)


def test_every_setting_has_an_entry_with_type_default_and_meaning(reference: Any) -> None:
    settings = reference.filled((DOCS / "settings.md").read_text(encoding="utf-8"))
    entry = r"^````\{confval\} (\S+)\n:type: (.+)\n:default: (.+)\n\n(.+)\n````$"
    entries = {key: rest for key, *rest in re.findall(entry, settings, re.MULTILINE)}
    assert list(entries) == known_keys()
    assert entries["train.epochs"][:2] == ["whole number, at least 1", "`10`"]
    assert entries["model.dropout"][0] == "number, at least 0.0, below 1.0, or `auto`"
    assert all(f"| `{name}` |" in settings for name in shipped_names())


def test_every_error_has_its_exit_code(reference: Any) -> None:
    codes = reference.exit_codes()
    for name in dglrec.__all__:
        kind = getattr(dglrec, name)
        if isinstance(kind, type) and issubclass(kind, dglrec.DglrecError):
            assert f"| `{name}` | {kind.exit_code} |" in codes


def test_every_public_name_has_an_entry() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\.\. auto(?:class|function|exception):: dglrec\.(\w+)", text, re.M)
    assert sorted(entries) == sorted({*dglrec.__all__, *api.__all__} - {"__version__"})
    assert "`dglrec.__version__`" in text


def test_what_is_not_known_cannot_be_generated(reference: Any) -> None:
    with pytest.raises(KeyError, match="verb"):
        reference.filled("<!-- generated: verb -->")
    assert reference.filled("words\n") == "words\n"


@pytest.mark.parametrize("name", ["reference", "docstrings", "notebooks"])
def test_examples_of_what_builds_the_site_hold(name: str, reference: Any) -> None:
    if name == "notebooks":
        pytest.importorskip("myst_parser", reason="the extra `docs` is not installed")
    assert doctest.testmod(importlib.import_module(name)).failed == 0
