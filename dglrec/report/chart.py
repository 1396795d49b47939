"""Pictures as inline SVG, each with the table of its figures behind it.

Pictures are 420 units wide: on a phone that is about the width there is, so that letters stay
readable. Colours come from the page's style sheet by class, `s0` to `s7`, in dark and in light.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dglrec.report.axis import Axis
from dglrec.report.html import (
    Child,
    Html,
    details,
    join,
    json_script,
    number,
    table,
    tag,
    with_interval,
)

COLOURS = 8

_WIDTH, _HEIGHT = 420, 292
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 12, 58
_ROW = 40
_LETTERS = 56  # that fit beside each other
_FEWEST_LETTERS = 26


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: in the legend and the table.
        points: x and y; of a picture with named places x is the place, from 0.
        colour: `s<colour>`.
        dashed: whether it is dashed, as lines of baselines are.
        joined: whether a line goes from point to point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Bar:
    """A figure with its interval, and of a difference its p-value, where there are such."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 0
    p: float | None = None


@dataclass(frozen=True)
class Point:
    """A place on a map, with what is said of it."""

    x: float
    y: float
    label: str
    group: str
    weight: int


def figure(title: str, picture: Html, legend: Child, behind: Html, note: str | None = None) -> Html:
    """A picture with its title, its legend and its table."""
    return tag(
        "figure",
        tag("figcaption", title),
        picture,
        legend,
        None if note is None else tag("p", note, class_="note"),
        details("Table", behind),
    )


def line_figure(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    places: Sequence[str] = (),
    diagonal: bool = False,
    log: bool = False,
    note: str | None = None,
) -> Html:
    """Lines over numbers, or over named places.

    Args:
        title: of the picture.
        series: at least one with a point.
        x: what the axis says.
        y: likewise.
        places: names of the places on the x axis; none where it has numbers.
        diagonal: whether to draw where y is x, and both axes alike.
        log: whether the x axis is logarithmic; its values are then above 0.
        note: what has to be known to read it.
    """
    every = [point for one in series for point in one.points]
    xs, ys = [point[0] for point in every], [point[1] for point in every]
    if diagonal:
        xs = ys = xs + ys
    whole = not diagonal and all(value == round(value) for value in xs)
    ends_of_x = [-0.4, len(places) - 0.6] if places else xs
    across = Axis.over(ends_of_x, _LEFT, _WIDTH - _RIGHT, whole=whole, log=log)
    up = Axis.over(ys, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid_up(up), *_grid_across(across, places)]
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        ends = {"x1": across(low), "y1": up(low), "x2": across(high), "y2": up(high)}
        parts.append(tag("line", class_="diagonal", **ends))
    for one in series:
        spots = [(across(a), up(b)) for a, b in one.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        dash = " dashed" if one.dashed else ""
        if one.joined:
            parts.append(tag("polyline", points=path, class_=f"line s{one.colour}{dash}"))
        parts += [tag("circle", cx=a, cy=b, r=3, class_=f"dot s{one.colour}") for a, b in spots]
    parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x, "middle"))
    parts.append(
        tag("text", y, transform=f"translate(12 {(_HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)",
            text_anchor="middle")
    )  # fmt: skip
    rows = [
        (one.name, places[round(a)] if places else f"{a:g}", number(float(b)))
        for one in series
        for a, b in one.points
    ]
    behind = table(title, ("line", x, y), rows, words=2)
    names = [(one.name, one.colour) for one in series]
    return figure(title, _svg(f"{title}: {y} by {x}", parts, _HEIGHT), _legend(names), behind, note)


def bar_figure(
    title: str,
    bars: Sequence[Bar],
    *,
    zero: bool = False,
    lengths: bool = False,
    show: Callable[[Any], str] = number,
    note: str | None = None,
) -> Html:
    """Figures below each other, each with its interval.

    Args:
        title: what the figures are.
        bars: at least one.
        zero: whether to mark 0, which differences are read against.
        lengths: whether figures are drawn as lengths from 0, as times and sizes are.
        show: writes a figure.
        note: what has to be known to read it.
    """
    zero = zero or lengths
    values = [
        end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None
    ] + [0.0] * zero  # fmt: skip
    height = _TOP + _ROW * len(bars) + 30
    across = Axis.over(values, 16, _WIDTH - 20)
    names = 8
    if lengths and min(values) >= 0:
        across, names = replace(across, low=0.0), 20  # no axis runs through names
    parts: list[Html] = []
    for tick in across.ticks:
        ends = {"x1": across(tick), "y1": _TOP, "x2": across(tick), "y2": height - 28}
        parts.append(tag("line", class_="axis" if zero and tick == 0 else "grid", **ends))
        parts.append(_label(across(tick), height - 12, across.show(tick), "middle"))
    for place, bar in enumerate(bars):
        middle = _TOP + _ROW * place + 30
        estimate = with_interval(bar.value, bar.low, bar.high, show)
        letters = max(_FEWEST_LETTERS, _LETTERS - len(estimate))
        said = tag("tspan", estimate, dx=8)
        parts.append(_label(names, middle - 12, join((_short(bar.name, letters), said))))
        ends = {"y1": middle, "y2": middle}
        if bar.low is not None and bar.high is not None:
            ends |= {"x1": across(bar.low), "x2": across(bar.high)}
            parts.append(tag("line", class_=f"interval s{bar.colour}", **ends))
        if lengths:
            ends |= {"x1": across(0), "x2": across(bar.value)}
            parts.append(tag("line", class_=f"length s{bar.colour}", **ends))
        else:
            spot = {"cx": across(bar.value), "cy": middle, "r": 5}
            parts.append(tag("circle", class_=f"dot s{bar.colour}", **spot))
    tested = any(bar.p is not None for bar in bars)
    rows = [
        [
            bar.name,
            *_cells((bar.value, bar.low, bar.high), show),
            *([number(bar.p)] if tested else []),
        ]
        for bar in bars
    ]
    columns = ["name", "value", "lower end", "upper end", *(["p (Holm)"] if tested else [])]
    if lengths:
        columns, rows = columns[:2], [row[:2] for row in rows]
    behind = table(title, columns, rows)
    return figure(title, _svg(title, parts, height), None, behind, note)


def map_figure(
    title: str, points: Sequence[Point], groups: Sequence[str], *, weight: str, note: str
) -> Html:
    """Points coloured by group; what each is appears where it is pointed at, or by arrow keys.

    Args:
        title: of the picture.
        points: at least one.
        groups: in the order of the colours; a point of another group has the last colour.
        weight: what `Point.weight` counts.
        note: how the places came about.
    """
    height = 400
    across = Axis.over([point.x for point in points], 10, _WIDTH - 10, tight=True)
    up = Axis.over([point.y for point in points], height - 10, 10, tight=True)
    colours = {name: min(place, COLOURS - 1) for place, name in enumerate(groups)}
    dots = [
        tag(
            "circle",
            cx=across(point.x),
            cy=up(point.y),
            r=3.5,
            class_=f"point s{colours.get(point.group, COLOURS - 1)}",
        )
        for point in points
    ]
    said = [f"{one.label}: {one.group}, {one.weight:,} {weight}" for one in points]
    picture = tag(
        "div",
        _svg(f"{title}: {len(points):,} items", [*dots, tag("text", class_="tip")], height),
        tag("p", "Point at an item, or use the arrow keys.", class_="said", aria_live="polite"),
        json_script(said),
        class_="map",
        tabindex=0,
        role="group",
        aria_label=f"{title}; arrow keys go from item to item",
    )
    rows = [
        (one.label, one.group, f"{one.x:.3f}", f"{one.y:.3f}", number(one.weight)) for one in points
    ]
    behind = table(title, ("item", "group", "x", "y", weight), rows, words=2)
    names = [(name, colours[name]) for name in groups]
    return figure(title, picture, _legend(names), behind, note)


def _grid_up(up: Axis) -> list[Html]:
    parts = []
    for tick in up.ticks:
        ends = {"x1": _LEFT, "y1": up(tick), "x2": _WIDTH - _RIGHT, "y2": up(tick)}
        parts.append(tag("line", class_="grid", **ends))
        parts.append(_label(_LEFT - 5, up(tick) + 4, up.show(tick), "end"))
    return parts


def _grid_across(across: Axis, places: Sequence[str]) -> list[Html]:
    if not places:
        return [
            _label(across(tick), _HEIGHT - _BOTTOM + 16, across.show(tick), "middle")
            for tick in across.ticks
        ]
    base = _HEIGHT - _BOTTOM + 12
    crowded = len(places) * max(map(len, places)) > 42
    return [
        _turned(across(at), base, name) if crowded else _label(across(at), base + 4, name, "middle")
        for at, name in enumerate(places)
    ]


def _turned(x: float, y: float, words: str) -> Html:
    """Words that end at a place, a little turned so that neighbours have room."""
    place = f"translate({x:.0f} {y:.0f}) rotate(-24)"
    return tag("text", words, text_anchor="end", transform=place)


def _label(x: float, y: float, words: str, anchor: str | None = None) -> Html:
    return tag("text", words, x=float(x), y=float(y), text_anchor=anchor)


def _svg(label: str, parts: Sequence[Html], height: int) -> Html:
    return tag(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def _legend(names: Sequence[tuple[str, int]]) -> Html | None:
    if not names:
        return None
    keys = (
        tag("li", tag("span", class_=f"key s{colour}", aria_hidden="true"), name)
        for name, colour in names
    )
    return tag("ul", *keys, class_="legend")


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _cells(values: Sequence[float | None], show: Callable[[Any], str]) -> list[str]:
    return ["" if value is None else show(value) for value in values]
