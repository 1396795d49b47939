r"""Which JSON each figure in README and docs stands in, and whether both still agree.

    python benchmarks/figures.py            # what disagrees; exit code 1 where something does
    python benchmarks/figures.py --write    # puts the JSON's figures into the text

`QUOTES` lists them: a document, a piece of its text with {} where figures are, and of each figure
its file, the row that it is in, its key, and its form. After a benchmark was taken anew, replace
its JSON and call this with --write; where words around a figure change, change them here too.

Forms are Python's format specifications, and: `,3` for rounded to thousands with commas (`,2` to
hundreds), `.4` for decimals without the leading zero, `%` for whole percent.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
README, BENCHMARKS, FINDINGS = "README.md", "docs/benchmarks.md", "docs/findings.md"
SPEED, LIMITS = "docs/speed.md", "docs/limits.md"


class FigureError(Exception):
    """A figure's file, row or key is not there, or its text is not."""


@dataclass(frozen=True)
class Figure:
    """A figure as it is quoted.

    Attributes:
        form: how it is written; see above.
        value: looks it up.
    """

    form: str
    value: Callable[[], float]

    @property
    def text(self) -> str:
        """The figure in its form."""
        value = self.value()
        if re.fullmatch(r",\d", self.form):
            return f"{_half_up(value, -int(self.form[1:])):,.0f}"
        if self.form == "%":
            return f"{100 * value:.0f}"
        if re.fullmatch(r"\.\d", self.form):
            return f"{value:{self.form}f}".removeprefix("0")
        return f"{value:{self.form}}"


def _half_up(value: float, digits: int) -> float:
    step = 10.0**-digits
    return math.floor(value / step + 0.5) * step


@dataclass(frozen=True)
class Quote:
    """A piece of a document's text, and the figures in it.

    Attributes:
        document: its path.
        text: the piece, {} in place of each figure; a space stands for any white space.
        figures: one for each {}.
    """

    document: str
    text: str
    figures: tuple[Figure, ...]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds the piece, each figure a group."""
        words = [
            r"([-+]?[\d.,]*\d)".join(re.escape(part) for part in word.split("{}"))
            for word in self.text.split()
        ]
        return re.compile(r"\s+".join(words))

    def found_in(self, document: str) -> "re.Match[str]":
        """Where a document's text has the piece.

        Raises:
            FigureError: nowhere, or in several places.
        """
        matches = list(self.pattern.finditer(document))
        if len(matches) != 1:
            count = f"{len(matches)} times" if matches else "nowhere"
            raise FigureError(f"{self.document}: this stands {count} in it: {self.text}")
        return matches[0]


@cache
def report(file: str) -> Any:
    """A file of results.

    Raises:
        FigureError: it is not there.
    """
    path = RESULTS / file
    if not path.is_file():
        raise FigureError(f"{file}: there is no such file of results")
    return json.loads(path.read_text(encoding="utf-8"))


def rows(file: str, where: dict[str, Any]) -> list[Any]:
    """The rows of a file in which some keys have some values; a key that is not there is None."""
    found = report(file)
    table = found.get("rows", found.get("variants"))
    return [row for row in table if all(row.get(key) == value for key, value in where.items())]


def one(file: str, key: str, where: dict[str, Any]) -> float:
    """A figure of the one row with these values, or, without any, of the report itself.

    Args:
        file: of results.
        key: names and places, with dots between them.
        where: what the row is known by.

    Raises:
        FigureError: there is no such row, or there are several, or it has no such figure.
    """
    place: Any = report(file)
    if where:
        found = rows(file, where)
        if len(found) != 1:
            raise FigureError(f"{file}: {len(found)} rows have {where}, and not one")
        (place,) = found
    for part in key.split("/"):
        try:
            place = place[int(part)] if isinstance(place, list) else place[part]
        except (IndexError, KeyError, ValueError):
            raise FigureError(f"{file}: no {key} in the row {where}") from None
    if isinstance(place, bool) or not isinstance(place, (int, float)):
        raise FigureError(f"{file}: {key} in the row {where} is {place!r}, and no number")
    return float(place)


def at(form: str, file: str, key: str, **where: Any) -> Figure:
    """A figure of one row."""
    return Figure(form, lambda: one(file, key, where))


def best(form: str, files: Sequence[str], key: str, **where: Any) -> Figure:
    """The largest of the rows of some files."""
    return Figure(form, lambda: max(row[key] for row in _several(files, where)))


def average(form: str, file: str, key: str, **where: Any) -> Figure:
    """The mean of the rows of a file."""
    return Figure(form, lambda: mean(row[key] for row in _several([file], where)))


def _several(files: Sequence[str], where: dict[str, Any]) -> list[Any]:
    found = [row for file in files for row in rows(file, where) if "error" not in row]
    if not found:
        raise FigureError(f"{', '.join(files)}: no row has {where}")
    return found


def ratio(form: str, above: Figure, below: Figure) -> Figure:
    """One figure over another, of the JSON's and not of rounded ones."""
    return Figure(form, lambda: above.value() / below.value())


def times(form: str, factor: float, figure: Figure) -> Figure:
    """A figure in another unit."""
    return Figure(form, lambda: factor * figure.value())


def disagreements(quotes: Sequence[Quote], read: Callable[[str], str]) -> Iterator[str]:
    """What of some quotes is not so: one line each.

    Args:
        quotes: what to look at.
        read: a document's text, by its path.
    """
    for quote in quotes:
        try:
            match = quote.found_in(read(quote.document))
            for number, figure in enumerate(quote.figures, 1):
                if match[number] != figure.text:
                    yield (
                        f"{quote.document}: {match[number]} where the JSON has {figure.text}, "
                        f"figure {number} of: {quote.text}"
                    )
        except FigureError as error:
            yield str(error)


def rewritten(document: str, quotes: Sequence[Quote]) -> str:
    """A document's text with the JSON's figures.

    Raises:
        FigureError: a piece of text or a figure is not there.
    """
    for quote in quotes:
        match = quote.found_in(document)
        for number, figure in reversed(list(enumerate(quote.figures, 1))):
            start, end = match.span(number)
            document = document[:start] + figure.text + document[end:]
    return document


def table(document: str, lines: dict[str, Sequence[Figure]]) -> list[Quote]:
    """Quotes of the rows of a table, by their text."""
    return [Quote(document, text, tuple(figures)) for text, figures in lines.items()]


# --- what is quoted, file by file -----------------------------------------------------------------

TRAIN, DEFAULT = "train.json", "train_default.json"
RATE = "edges_per_second"
BATCHES = (262_144, 524_288, 2_097_152)
SCALES = (0.01, 0.1, 1.0)
FULL, TENTH = "time_to_rmse_full.json", "time_to_rmse_tenth.json"
STOCK = "time_to_rmse_tenth_stock_1024.json"
SHAPES = "shapes.json"
SCORE, COMMANDS = "score.json", "score_commands.json"
RANKING, SURPRISE, ACCURACY, FLOOR = "ranking.json", "surprise.json", "accuracy.json", "floor.json"
SCALING, SCALING_MEMORY = "scaling.json", "scaling_memory.json"
GSP = "gsp_movielens.json"


def _peer(loop: str) -> list[Figure]:
    return [best(",3", [TRAIN, DEFAULT], RATE, loop=loop, model="plain", scale=s) for s in SCALES]


def _trained(model: str, batch: int, key: str = RATE, form: str = ",3") -> Figure:
    return at(form, DEFAULT, key, loop="dglrec", model=model, batch=batch)


def _plain(scale: float, form: str, key: str = "ns_per_edge") -> Figure:
    file = DEFAULT if scale == 1.0 else TRAIN
    return at(form, file, key, loop="dglrec", model="plain", scale=scale, best=True)


THROUGHPUT = [
    *table(
        SPEED,
        {
            "| dglrec | {} | {} | **{}** |": _peer("dglrec"),
            "| stock DGL | {} | {} | {} |": _peer("dgl"),
            "| PyG | {} | {} | {} |": _peer("pyg"),
            "| plain | {} | {} | {} |": [_trained("plain", batch) for batch in BATCHES],
            "| default, ratings alone | {} | {} | {} |": [
                _trained("ratings", batch) for batch in BATCHES
            ],
            "| default, ratings and lists | {} | {} | {} |": [
                _trained("default", batch) for batch in BATCHES
            ],
            "| stock DGL, plain | {} | {} | {} |": [
                at(",3", DEFAULT, RATE, loop="dgl", batch=batch) for batch in BATCHES
            ],
            "| PyG, plain | {} | {} | {} |": [
                at(",3", DEFAULT, RATE, loop="pyg", batch=batch) for batch in BATCHES
            ],
        },
    ),
    Quote(
        BENCHMARKS,
        "At a tenth of the users the stock loop does {} target edges a second at 1,024 and {} at "
        "2,097,152, where it takes {} GB; at full size {} and {} GB",
        (
            at(",2", TRAIN, RATE, loop="dgl", scale=0.1, batch=1_024),
            at(",3", TRAIN, RATE, loop="dgl", scale=0.1, batch=2_097_152),
            at(".1f", TRAIN, "peak_memory_gb", loop="dgl", scale=0.1, batch=2_097_152),
            at(",3", DEFAULT, RATE, loop="dgl", batch=2_097_152),
            at(".1f", DEFAULT, "peak_memory_gb", loop="dgl", batch=2_097_152),
        ),
    ),
    Quote(
        BENCHMARKS,
        "{} ns at 1 % of the users, {} at 10 %, {} at 100 %",
        tuple(_plain(scale, ".0f") for scale in SCALES),
    ),
    Quote(
        BENCHMARKS,
        "(`train_default.json`): {} % of the plain one's target edges a second, {} % at 524,288, "
        "{} % at 2,097,152",
        tuple(ratio("%", _trained("ratings", b), _trained("plain", b)) for b in BATCHES),
    ),
]


def _shape(users: int, items: int, key: str, form: str) -> Figure:
    return at(form, SHAPES, key, users=users, items=items)


def _cost(users: int, items: int) -> Figure:
    return times(".1f", 1e-3, _shape(users, items, "ns_per_edge", ""))


ANIME, MILLION = (310_059, 16_872), (1_000_000, 1_000_000)

COSTS_BY_SHAPE = [
    Quote(
        SPEED,
        "takes {} µs, where one of the anime graph takes {} µs; {} GB at most. Exact embeddings of "
        "all its nodes take {} s, and lists are made for {} users a second, in {} GB.",
        (
            _cost(*MILLION),
            _cost(*ANIME),
            _shape(*MILLION, "peak_memory_gb", ".1f"),
            _shape(*MILLION, "embed_seconds", ".0f"),
            _shape(*MILLION, "lists_per_second", ",.0f"),
            _shape(*MILLION, "infer_memory_gb", ".1f"),
        ),
    ),
]


def _epoch(number: int, key: str, form: str) -> Figure:
    return at(form, FULL, f"by_epoch/{number - 1}/{key}", loader="users")


def _best(loop: str) -> Figure:
    """The most target edges a second of a plain loop at full size, all in one run."""
    return at("", DEFAULT, RATE, loop=loop, model="plain", best=True)


def _tenth(loader: str, key: str, form: str) -> Figure:
    return at(form, TENTH, key, loader=loader)


LAST_EPOCH = 10

TIME_TO_ACCURACY = [
    *table(
        SPEED,
        {
            "| an epoch of training, ratings and lists (the default) | {} s | {} GB |": [
                ratio(
                    ".0f", at("", FULL, "edges", loader="users"), _trained("default", BATCHES[0])
                ),
                _trained("default", BATCHES[0], "peak_memory_gb", ".1f"),
            ],
            "| an epoch of `dglrec train`, ratings alone | {} s | {} GB |": [
                times(".0f", 1 / LAST_EPOCH, at("", FULL, "training_seconds", loader="users")),
                at(".1f", FULL, "peak_memory_gb", loader="users"),
            ],
            "| so 80 % of the planted gap closed on validation rows | {} s: one epoch, {} % | |": [
                at(".0f", FULL, "seconds_to_gap", loader="users"),
                times(".1f", 100, _epoch(1, "gap_closed", "")),
            ],
            "| so ten epochs: {} % of the gap on validation rows | {} min | {} GB |": [
                times(".1f", 100, at("", FULL, "gap_closed", loader="users")),
                times(".1f", 1 / 60, at("", FULL, "training_seconds", loader="users")),
                at(".1f", FULL, "peak_memory_gb", loader="users"),
            ],
        },
    ),
    Quote(
        BENCHMARKS,
        "{} % of the gap after {} s of training, {} % after {} s, {} % after {} s, on validation "
        "rows",
        tuple(
            figure
            for number in (1, 4, LAST_EPOCH)
            for figure in (
                times(".1f", 100, _epoch(number, "gap_closed", "")),
                _epoch(number, "seconds", ".0f"),
            )
        ),
    ),
    Quote(
        BENCHMARKS,
        "75 % of the gap after {} s of training against {} s, {} times sooner, and the same test "
        "RMSE within {} % ({} and {})",
        (
            _tenth("users", "seconds_to_gap", ".0f"),
            _tenth("neighbor", "seconds_to_gap", ".0f"),
            at(".1f", TENTH, "comparison/times_sooner"),
            at(".2f", TENTH, "comparison/test_rmse_difference_percent"),
            _tenth("users", "test_rmse", ".4f"),
            _tenth("neighbor", "test_rmse", ".4f"),
        ),
    ),
    Quote(
        BENCHMARKS,
        "it comes to {} % after {} s (`time_to_rmse_tenth_stock_1024.json`, of an earlier model)",
        (
            times(".2f", 100, at("", STOCK, "gap_closed", loader="neighbor")),
            at(".0f", STOCK, "training_seconds", loader="neighbor"),
        ),
    ),
    Quote(
        BENCHMARKS,
        "plain step at full size is {} times stock DGL's best and {} times PyG's",
        (
            ratio(".1f", _best("dglrec"), _best("dgl")),
            ratio(".1f", _best("dglrec"), _best("pyg")),
        ),
    ),
    Quote(
        FINDINGS,
        "The default model with the rating head alone closes {} % after ten epochs (validation "
        "rows;",
        (times(".1f", 100, at("", FULL, "gap_closed", loader="users")),),
    ),
]

CEILING = Quote(
    FINDINGS,
    "closes {} % on validation rows (`benchmarks/ceiling.py`, {} users)",
    (
        times(".1f", 100, at("", "ceiling.json", "gap_closed", by="known items")),
        at(",.0f", "ceiling.json", "users", by="known items"),
    ),
)

JOBS = table(
    SPEED,
    {
        "| `dglrec prepare` from CSV, synopses in the cache | {} s | {} GB |": [
            at(".0f", "prepare.json", "seconds", step="prepare"),
            at(".1f", "prepare.json", "peak_memory_gb", step="prepare"),
        ],
        "| opening the prepared set | {} ms | |": [
            times(".0f", 1e3, at("", "prepare.json", "seconds", step="open"))
        ],
        "| exact embeddings of all {} nodes | {} s | {} GB |": [
            at(",.0f", "infer.json", "nodes", scale=1.0),
            at(".1f", "infer.json", "seconds", scale=1.0),
            at(".1f", "infer.json", "peak_memory_gb", scale=1.0),
        ],
        "| `dglrec score --top-k 10`, everybody, from start to Parquet | {} s | {} GB |": [
            at(".0f", COMMANDS, "seconds", command="top 10"),
            at(".1f", COMMANDS, "peak_memory_gb", command="top 10"),
        ],
        "| `dglrec score --pairs`, 50 million | {} s | {} GB |": [
            at(".0f", COMMANDS, "seconds", command="pairs", count=50_000_000),
            at(".1f", COMMANDS, "peak_memory_gb", command="pairs", count=50_000_000),
        ],
    },
)


def _side(side: str, form: str, scale: float = 1.0, catalogue: int = 16_872, **more: str) -> Figure:
    key = more.get("key", "users_per_second")
    return at(form, SCORE, key, part="stage", side=side, scale=scale, catalogue=catalogue)


def _memory(side: str) -> Figure:
    return _side(side, ".2f", key="peak_memory_gb")


def _pairs(millions: int, key: str, form: str) -> Figure:
    return at(form, COMMANDS, key, command="pairs", count=millions * 1_000_000)


SCORING = [
    *table(
        SPEED,
        {
            "| dglrec | **{}** |": [_side("dglrec", ",2")],
            "| torch, first layer split by node and broadcast | {} |": [
                _side("torch_split", ",.0f")
            ],
            "| torch, the MLP over pairs | {} |": [_side("torch_pairs", ",.0f")],
            "| implicit's ALS, a dot product in place of the MLP | {} |": [
                _side("implicit_als", ",2")
            ],
        },
    ),
    *table(
        BENCHMARKS,
        {
            "| dglrec | **{}** ({} at a tenth of the users) | {} GB |": [
                _side("dglrec", ",2"),
                _side("dglrec", ",2", 0.1),
                _memory("dglrec"),
            ],
            "| `torch_pairs` | {} | {} GB |": [
                _side("torch_pairs", ",.0f"),
                _memory("torch_pairs"),
            ],
            "| `torch_split` | {} ({} at a tenth) | {} GB |": [
                _side("torch_split", ",.0f"),
                _side("torch_split", ",1", 0.1),
                _memory("torch_split"),
            ],
            "| `implicit_als`, dot products alone | {} ({} at a tenth) | {} GB |": [
                _side("implicit_als", ",2"),
                _side("implicit_als", ",2", 0.1),
                _memory("implicit_als"),
            ],
            "**{} times the plain torch loop**, {} times the same algebra": [
                ratio(".0f", _side("dglrec", ""), _side("torch_pairs", "")),
                ratio(".0f", _side("dglrec", ""), _side("torch_split", "")),
            ],
            "**{} to {} % of what the arithmetic alone allows** ({} users a second,": [
                _side("dglrec", "%", key="share_of_limit"),
                _side("dglrec", "%", 0.1, key="share_of_limit"),
                _side("dglrec", ",2", key="limit_users_per_second"),
            ],
            "{} users a second of 4,000 items, {} of 1,000,": [
                _side("dglrec", ",2", catalogue=4_000),
                _side("dglrec", ",3", catalogue=1_000),
            ],
            "**The whole command takes {} s**, {} GB": [
                at(".0f", COMMANDS, "seconds", command="top 10"),
                at(".1f", COMMANDS, "peak_memory_gb", command="top 10"),
            ],
            "50 million in {} s from start to files, {} million a second once it runs; {}, {} and "
            "{} GB for 1, 10 and 50 million": [
                _pairs(50, "seconds", ".1f"),
                times(".1f", 1e-6, _pairs(50, "stage_per_second", "")),
                *(_pairs(millions, "peak_memory_gb", ".2f") for millions in (1, 10, 50)),
            ],
        },
    ),
]


def _ranked(model: str, *keys: str, form: str = ".4") -> list[Figure]:
    return [at(form, RANKING, key, model=model, best=True) for key in keys]


def _cost(model: str) -> list[Figure]:
    """Epochs, pairs a second, memory."""
    pairs = ",2" if model.startswith("lightgcn") or model in ("pyg", "cornac") else ",3"
    return [
        *_ranked(model, "epochs", form=",.0f"),
        *_ranked(model, "pairs_per_second", form=pairs),
        *_ranked(model, "training_memory_gb", form=".1f"),
    ]


def _preset(model: str) -> list[Figure]:
    return [
        *_ranked(model, "after_60", "after_300"),
        *_ranked(model, "recall@20"),
        *_ranked(model, "seconds_to_reach", form=".0f"),
        *_cost(model),
        *_ranked(model, "share_of_limit", form="%"),
    ]


AFTER = ("after_60", "after_300", "after_900", "after_1200", "recall@20")
BY_MINUTES = ("after_60", "after_300", "after_1200")


def _peer_lists(model: str, *more: Figure) -> list[Figure]:
    return [*_ranked(model, *AFTER), *_cost(model), *more]


LISTS = [
    *table(
        SPEED,
        {
            "| `--config lightgcn_softmax`, done in {} min | {} | **{}** | **{}** |": [
                times(".0f", 1 / 60, *_ranked("lightgcn_softmax", "seconds")),
                *_ranked("lightgcn_softmax", "after_60", "after_300", "recall@20", form=".3"),
            ],
            "| `--config lightgcn` (BPR), done in {} min | **{}** | {} | {} |": [
                times(".0f", 1 / 60, *_ranked("lightgcn", "seconds")),
                *_ranked("lightgcn", "after_60", "after_300", "recall@20", form=".3"),
            ],
            "| PyG's LightGCN | {} | {} | {} |": _ranked("pyg", *BY_MINUTES, form=".3"),
            "| Cornac's LightGCN, on DGL | {} | {} | {} |": _ranked(
                "cornac", *BY_MINUTES, form=".3"
            ),
            "| implicit's BPR | {} | {} | {} |": _ranked("implicit_bpr", *BY_MINUTES, form=".3"),
            "| implicit's ALS, as good as done after 30 seconds | {} | {} | {} |": _ranked(
                "implicit_als", *BY_MINUTES, form=".3"
            ),
        },
    ),
    *table(
        BENCHMARKS,
        {
            "| `lightgcn_softmax` | **{}** | **{}** | ends at 7 min | | **{}** | {} s | {} | {} | "
            "{} GB | {} % |": _preset("lightgcn_softmax"),
            "| `lightgcn` | {} | {} | ends at 8 min | | {} | {} s | {} | {} | {} GB | {} % |": (
                _preset("lightgcn")
            ),
            "| `implicit_als` | {} | {} | {} | {} | {} | no | {} | {} | {} GB | |": _peer_lists(
                "implicit_als"
            ),
            "| `pyg` | {} | {} | {} | {} | {} | no | {} | {} | {} GB | {} % |": _peer_lists(
                "pyg", *_ranked("pyg", "share_of_limit", form="%")
            ),
            "| `cornac` | {} | {} | {} | {} | {} | no | {} | {} | {} GB | {} % |": _peer_lists(
                "cornac", *_ranked("cornac", "share_of_limit", form="%")
            ),
            "| `implicit_bpr` | {} | {} | {} | {} | {} | no | {} | {} | {} GB | |": _peer_lists(
                "implicit_bpr"
            ),
            "{} after {} s, and begun at the spectrum {} after {} s, one epoch": [
                *_ranked("lightgcn_softmax", "curve/2/test_recall@20"),
                *_ranked("lightgcn_softmax", "curve/2/seconds", form=".0f"),
                *_ranked("lightgcn", "curve/0/test_recall@20"),
                *_ranked("lightgcn", "curve/0/seconds", form=".0f"),
            ],
            "ALS has {} after half a minute, where after one `lightgcn_softmax` has {} and "
            "`lightgcn` {};": [
                *_ranked("implicit_als", "after_60"),
                *_ranked("lightgcn_softmax", "after_60"),
                *_ranked("lightgcn", "after_60"),
            ],
        },
    ),
]


def _each(key: str, form: str) -> list[Figure]:
    return [at(form, FLOOR, key, model=model) for model in ("plain", "ratings", "default")]


FLOORS = [
    *table(
        BENCHMARKS,
        {
            "| operations a target edge | {} kFLOP | {} kFLOP | {} kFLOP |": [
                times(".1f", 1e-3, figure) for figure in _each("flop_per_edge", "")
            ],
            "| bytes a target edge | {} kB | {} kB | {} kB |": [
                times(".1f", 1e-3, figure) for figure in _each("bytes_per_edge", "")
            ],
            "| least time for the arithmetic | {} ns | {} ns | {} ns |": _each(
                "arithmetic_ns", ".0f"
            ),
            "| least time for the bytes | {} ns | {} ns | {} ns |": _each("memory_ns", ".0f"),
            "| measured, in that run | {} ns | {} ns | {} ns |": _each("ns_per_edge", ",.0f"),
            "| share of the floor (the larger of the two) | {} % | {} % | {} % |": _each(
                "share_of_floor", "%"
            ),
            "| share of the time spent on making the batch | {} % | {} % | {} % |": _each(
                "sampling_share", "%"
            ),
        },
    ),
    Quote(
        BENCHMARKS,
        "{} GFLOP/s in products of [16,872 x 64] and [64 x 64] matrices, {} GB/s in summing rows",
        (
            at(".0f", FLOOR, "rates/gflop_per_second"),
            at(".0f", FLOOR, "rates/fetched_gb_per_second"),
        ),
    ),
    Quote(
        BENCHMARKS,
        "(from memory it copies {} GB/s)",
        (at(".1f", FLOOR, "rates/copied_gb_per_second"),),
    ),
]


def _processes(batch: int, form: str = ",3", **where: Any) -> Figure:
    known = {"identity": "none", "apart": None, "threads_each": 1, **where}
    return at(form, SCALING, known.pop("key", RATE), batch=batch, **known)


def _at_batch(batch: int) -> tuple[Figure, ...]:
    return (
        _processes(batch, processes=1),
        _processes(batch, processes=2),
        _processes(batch, "%", processes=2, key="efficiency"),
        _processes(batch, processes=1, threads_each=2),
        _processes(batch, processes=2, apart=True),
    )


SCALES_OF_PROCESSES = [
    Quote(
        BENCHMARKS,
        "at a batch of 262,144 one process does {} target edges a second, two together {}, which "
        "is {} % of twice as much; one process with two threads {}. Two jobs that share nothing do "
        "{} at the same time.",
        _at_batch(262_144),
    ),
    Quote(
        BENCHMARKS,
        "At 1,048,576: {}, {} ({} %), {}, {}.",
        _at_batch(1_048_576),
    ),
    Quote(
        BENCHMARKS,
        "exchanging rows, two processes do {}; exchanging the whole table {}.",
        tuple(_processes(262_144, processes=2, identity=name) for name in ("rows", "whole")),
    ),
    Quote(
        BENCHMARKS,
        "each of two processes has at most {} GB to itself, and they share {} GB.",
        tuple(
            at(".2f", SCALING_MEMORY, key, train=True, processes=2)
            for key in ("private_gb", "shared_gb")
        ),
    ),
]

KNN = "KNNBaseline(k=40, item, pearson_baseline)"
TUNED = "SVD(n_factors=50, n_epochs=40, reg_all=0.08)"
DATA = {"ml": "ml-100k", "mal": "anime-2020-sample"}


def _surprise(model: str, form: str = ".3f") -> list[Figure]:
    return [at(form, SURPRISE, "rmse", model=model, data=data) for data in DATA]


def _bias(data: str) -> Figure:
    return average(".3f", ACCURACY, "bias_rmse", data=DATA[data])


def _default(data: str) -> tuple[Figure, ...]:
    """Mean, least and largest RMSE of the default model's seeds, and its mean accuracy."""
    where = {"data": DATA[data]}

    def rmses() -> list[float]:
        return [row["rmse"] for row in rows(ACCURACY, where)]

    return (
        average(".3f", ACCURACY, "rmse", **where),
        Figure(".3f", lambda: min(rmses())),
        Figure(".3f", lambda: max(rmses())),
        average(".3f", ACCURACY, "accuracy", **where),
    )


def _study(name: str, key: str, variant: str) -> Figure:
    return at(".3f", f"studies/{name}.json", key, name=variant)


RATINGS = [
    *table(
        BENCHMARKS,
        {
            "| dglrec `bias` | {} | {} |": [_bias("ml"), _bias("mal")],
            "| dglrec `item_knn` | {} | {} |": [
                _study(name, "rmse/value", "item_knn")
                for name in ("baselines-ml", "baselines-anime")
            ],
            "| `KNNBaseline`, items, k = 40, `pearson_baseline` | {} | {} |": _surprise(KNN),
            "| `SVD`, defaults | {} | {} |": _surprise("SVD()"),
            "| `SVD`, 50 factors, 40 epochs, regularisation 0.08 | {} | {} |": _surprise(TUNED),
            "| `SVDpp`, defaults | {} | {} |": _surprise("SVDpp()"),
            "comes to the same four digits: {} and {}.": _surprise(KNN, ".4f"),
        },
    ),
    Quote(
        README,
        "Recommendation Database 2020 | random 80/10/10, `--seed 42` | 1.729 | {} | {} | {} | "
        "**{}** ({}-{}) | {} |",
        (_bias("mal"), _surprise(KNN)[1], _surprise(TUNED)[1], *_default("mal")),
    ),
    Quote(
        README,
        "| MovieLens 100K | u1.base / u1.test | 1.154 | {} | {} | {} | **{}** ({}-{}) | {} |",
        (_bias("ml"), _surprise(KNN)[0], _surprise(TUNED)[0], *_default("ml")),
    ),
    Quote(
        LIMITS,
        "genres and text alone: RMSE {} against {} of user biases on `anime-2020-sample` with "
        "`--split item --seed 1`, {} against {} on MovieLens 100K",
        tuple(
            _study(f"hybrid-new-items-{name}", key, "hybrid")
            for name in ("anime", "ml")
            for key in ("rmse/value", "bias_rmse")
        ),
    ),
]


def _film(method: str) -> list[Figure]:
    """RMSE and standard error of a method on both films."""
    return [
        at(".3f", GSP, key, method=method, target=target)
        for target in (50, 258)
        for key in ("rmse", "standard_error")
    ]


ONE_FILM = table(
    FINDINGS,
    {
        f"| {line} | {{}} ± {{}} | {{}} ± {{}} |": _film(method)
        for line, method in {
            "the film's mean": "item mean",
            "a straight line by the user's mean": "line by the user's mean",
            "ridge regression on the other ratings, less each film's mean": (
                "ridge on the other ratings"
            ),
            "ridge regression, 0 where not rated": "ridge, 0 where not rated",
            "graph filters, 0 where not rated": "graph filters",
            "graph filters, ratings less each film's mean": (
                "graph filters, ratings less the film's mean"
            ),
        }.items()
    },
)


def _millions(peer: str) -> Figure:
    return times(".1f", 1e-6, best("", [DEFAULT], RATE, loop=peer, model="plain", scale=1.0))


_SHOWN = ("`dglrec prepare` from", "an epoch of training", "an epoch of `dglrec train`", "--top-k")

IN_SHORT = [
    *(
        replace(quote, document=README)
        for quote in (*JOBS, *TIME_TO_ACCURACY)
        if quote.document == SPEED and any(one in quote.text for one in _SHOWN)
    ),
    Quote(
        README,
        "trains on {} million target edges a second, on {} million in stock DGL's loop and {} "
        "million in PyG's",
        tuple(map(_millions, ("dglrec", "dgl", "pyg"))),
    ),
]

QUOTES: list[Quote] = [
    *THROUGHPUT,
    *COSTS_BY_SHAPE,
    *TIME_TO_ACCURACY,
    CEILING,
    *JOBS,
    *SCORING,
    *LISTS,
    *FLOORS,
    *SCALES_OF_PROCESSES,
    *RATINGS,
    *ONE_FILM,
    *IN_SHORT,
]

# Sections of which each table row that is made of figures has to be quoted above.
HELD: dict[str, tuple[str, ...]] = {
    FINDINGS: ("## One film's ratings, from the graph of films",),
    README: ("## How fast it is",),
    SPEED: (
        "## The main jobs",
        "## Training beside others",
        "## Lists for everybody",
        "## Lists against seconds of training",
    ),
    BENCHMARKS: (
        "## The floor",
        "## Beside scikit-surprise",
        "## Batch scoring",
        "## Lists against seconds of training",
    ),
}


_CELL = re.compile(r"\**[-+]?[\d.,]*\d\**( [a-zA-Z%/]+)?( \(.*\))?")


def unheld(document: str, text: str, headings: Sequence[str], quotes: Sequence[Quote]) -> list[str]:
    """Table rows with figures, in some sections of a document, that no quote covers.

    Raises:
        FigureError: there is no such section.
    """
    mine = [quote for quote in quotes if quote.document == document]
    covered = [match.span() for quote in mine for match in quote.pattern.finditer(text)]
    found = []
    for heading in headings:
        start = text.find(f"\n{heading}\n")
        if start < 0:
            raise FigureError(f"{document}: no section {heading!r}")
        end = text.find("\n## ", start + len(heading))
        section = text[start : end if end >= 0 else len(text)]
        # Not the row of names, which the row of dashes follows.
        for line in re.finditer(r"^\|.*\|$(?!\n\| ---)", section, re.M):
            cells = [cell.strip() for cell in line[0].strip("|").split("|")]
            first, last = start + line.start(), start + line.end()
            held = any(first <= low and high <= last for low, high in covered)
            if not held and any(_CELL.fullmatch(cell) for cell in cells[1:]):
                found.append(f"{document}: no quote for {line[0]}")
    return found


def main() -> None:
    """Check, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the JSON's figures into the text")
    write = parser.parse_args().write

    def read(document: str) -> str:
        return (ROOT / document).read_text(encoding="utf-8")

    if write:
        for document in sorted({quote.document for quote in QUOTES}):
            mine = [quote for quote in QUOTES if quote.document == document]
            (ROOT / document).write_text(rewritten(read(document), mine), encoding="utf-8")
    found = list(disagreements(QUOTES, read))
    for document, headings in HELD.items():
        found += unheld(document, read(document), headings, QUOTES)
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    try:
        main()
    except FigureError as error:
        sys.exit(str(error))
