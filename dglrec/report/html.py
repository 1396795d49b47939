"""HTML made of functions: text is escaped unless it is markup that this module made.

`tag("p", title)` escapes `title`, whoever wrote it; only what `tag`, `join` and `json_script`
return is put in as it is. There is no other way to markup, so that no title, genre or id of a data
set can become a part of the page's code.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from dglrec.progress import printable

VOID = frozenset({"meta", "br", "link", "hr", "img", "input"})

_SHORT = 4  # letters, of names of rows that need no room set aside

_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class Html(str):
    """Markup. Everything else that is put into a page is text, and is escaped."""

    __slots__ = ()


Child = Any
"""What an element holds: `Html`, text, a number, or None for nothing."""


def text(value: object) -> Html:
    """A value as escaped text, control characters made visible."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else escape(printable(str(value)), quote=True))


def tag(name: str, *children: Child, **attributes: Any) -> Html:
    """An element.

    Args:
        name: the element's; a word of this program, never of data.
        children: what it holds, one after the other.
        attributes: by name, a final `_` left out, other `_` standing for `-`. What is None or False
            is left out, of True the name alone is written, and floats get one decimal.
    """
    shown = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """One after the other."""
    return Html("".join(text(child) for child in children))


def raw(name: str, code: str) -> Html:
    """A `style` or `script` element with code of this program, which must not end it itself."""
    if "</" in code:
        raise ValueError(f"code of {name} must not hold an end tag")
    return Html(f"<{name}>{code}</{name}>")


def json_script(value: Any) -> Html:
    """Data for the page's script. No character in it can end the element or begin another."""
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Html(f'<script type="application/json">{written.translate(_IN_SCRIPT)}</script>')


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Child]], *, words: int = 1
) -> Html:
    """A table that can be scrolled sideways where it is too wide, by keyboard too.

    Args:
        caption: what it shows.
        columns: their names; the first column's cells name their rows.
        rows: as many cells each as there are columns.
        words: how many columns, from the left, are words; others are numbers, set to the right.
    """
    kinds = ["number" if place >= words else None for place in range(len(columns))]
    named = zip(columns, kinds, strict=True)
    rows = list(rows)
    short = "short" if all(len(str(row[0])) <= _SHORT for row in rows) else None
    head = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in named))
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row", class_=short)
                if place == 0
                else tag("td", cell, class_=kinds[place])
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    made = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", made, class_="scroll", tabindex=0, role="group", aria_label=caption)


def details(summary: str, *children: Child) -> Html:
    """What is shown when it is asked for."""
    return tag("details", tag("summary", summary), *children)


def number(value: Any) -> str:
    """A figure as the page shows it: four decimals, thousands with commas, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 1_000 else f"{value:.4f}"


def with_interval(value: Any, low: Any, high: Any, show: Callable[[Any], str] = number) -> str:
    """A figure and the ends of its interval; the figure alone where it has none."""
    if low is None or high is None:
        return show(value)
    return f"{show(value)} [{show(low)}, {show(high)}]"


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return text(value)
