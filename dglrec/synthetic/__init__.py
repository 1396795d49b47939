"""A data set in the layout of the Anime Recommendation Database 2020, from a planted model.

`truth.py` holds the model and its expectation, `planted.py` draws and scales its parameters,
`draw.py` draws who rates what, `oracle.py` finds the best possible lists, `reference.py` measures
them, `catalogue.py` and `vocabulary.py` make the items. More can be planted: `planting.py` has the
options and their strengths, `circles.py` who trusts whom, `attributes.py` tables of users and
items, `drift.py` how tastes move, `sequence.py` when ratings come and which items follow which;
`worth.py` and `next_items.py` measure what that is worth.
"""

import csv
import math
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as pa_csv

from dglrec.errors import UsageError
from dglrec.files import atomic_folder
from dglrec.kernels import ItemLists
from dglrec.progress import progress
from dglrec.synthetic.attributes import STUDIOS_FILE, USERS_FILE
from dglrec.synthetic.catalogue import Catalogue, make_catalogue
from dglrec.synthetic.circles import TRUST_FILE
from dglrec.synthetic.draw import Drawn, Rates, activity, draw_items, popularity, user_chunks
from dglrec.synthetic.drift import Drift, draw_turns
from dglrec.synthetic.oracle import PlantedLists
from dglrec.synthetic.planted import EXPOSURE_SPREAD, RANK, PlantedModel, draw_tastes, plant
from dglrec.synthetic.planting import Planting
from dglrec.synthetic.reference import USERS, reference_lists
from dglrec.synthetic.relations import Relations
from dglrec.synthetic.sequence import draw_sequence
from dglrec.synthetic.streams import Stream, generator, generators
from dglrec.synthetic.truth import (
    TRUTH_FILE,
    Exposure,
    ReferenceLists,
    Truth,
    latent_bias,
)
from dglrec.synthetic.vocabulary import GENRES
from dglrec.synthetic.worth import Drawn as DrawnRatings

__all__ = [
    "ITEMS_FILE",
    "RATINGS_FILE",
    "STUDIOS_FILE",
    "SYNOPSES_FILE",
    "TRUST_FILE",
    "TRUTH_FILE",
    "USERS_FILE",
    "PlantedLists",
    "Planting",
    "Truth",
    "synthesize",
]

RATINGS_FILE = "rating_complete.csv"
SYNOPSES_FILE = "anime_with_synopsis.csv"
ITEMS_FILE = "anime.csv"

_UNKNOWN = "Unknown"  # a missing value, as the published files write it


def synthesize(
    out: Path,
    *,
    users: int,
    items: int,
    ratings: int,
    seed: int = 0,
    planting: Planting | None = None,
    overwrite: bool = False,
) -> Truth:
    """Write a generated data set: ratings, two item tables and `truth.json`.

    Users' activity is log-normal, items' popularity follows Zipf and Mandelbrot, and the histogram
    of ratings is that of the real sample. Ratings come from biases, a taste of rank 8 that explains
    a third of the squared error that biases leave, and noise. Who rates what comes from popularity
    times the exponential of the same taste, so that each user has a best possible list. Half of the
    variance of an item's taste vector follows from its genres and the themes of its synopsis.

    Memory is 4 bytes a rating plus about 0.7 GB; with timestamps 8 bytes a rating more, with edges
    of trust about 100 bytes an edge. The same arguments give the same bytes, on any number of
    threads.

    Args:
        out: the folder to be made; it is written whole or not at all.
        users: how many users; their ids are 0..users-1.
        items: how many items, at least 2; their ids ascend with gaps.
        ratings: how many rows, all of distinct (user, item) pairs; every user has at least one.
        seed: a whole number from 0.
        planting: what else is planted; None for nothing.
        overwrite: whether an existing generated data set may be replaced.

    Returns:
        The planted truth, as written.

    Raises:
        UsageError: the counts, the seed or `planting` are impossible, or `out` exists and may not
            be replaced.
        DglrecError: the disk is full, or the folder cannot be written.
    """
    _check_counts(users, items, ratings, seed)
    planting = planting or Planting()
    planting.check(users, items)
    with atomic_folder(Path(out), marker=TRUTH_FILE, overwrite=overwrite) as folder:
        counts = activity(users, items, ratings, generator(seed, Stream.ACTIVITY))
        weights = popularity(items, generator(seed, Stream.POPULARITY))
        catalogue = make_catalogue(items, generator(seed, Stream.CATALOGUE))
        relations = Relations.draw(planting, users, items, weights, seed)
        tastes = draw_tastes(
            catalogue,
            counts,
            weights,
            generator(seed, Stream.TASTES),
            relations.user_parts,
            relations.item_parts,
        )
        strength = EXPOSURE_SPREAD * math.sqrt(RANK)  # a product of directions has sd 1 / sqrt K
        rates = Rates(weights, (strength * tastes.users).astype(np.float32), tastes.items)
        with progress("drawing who rates what", ratings, "ratings") as advance:
            drawn = draw_items(counts, rates, generators(seed, Stream.PAIRS, counts), advance)
        drift = None
        if planting.turns:
            drift = Drift(planting.turns, draw_turns(tastes.users, generator(seed, Stream.TURNS)))
        times = _draw_times(counts, drawn, rates, drift, relations, strength, seed)
        model = plant(
            tastes,
            counts,
            drawn.items,
            generator(seed, Stream.MODEL),
            relations.user_parts,
            relations.item_parts,
            drift,
            times,
        )
        rng = generator(seed, Stream.REFERENCE)
        sums = _Sums(items, np.sort(rng.choice(users, min(USERS, users), replace=False)))
        drawn_ratings = DrawnRatings(
            np.concatenate([[0], np.cumsum(counts)]),
            drawn.items,
            np.empty(ratings, dtype=np.int8),
            times,
        )
        _write_ratings(folder / RATINGS_FILE, catalogue, model, counts, drawn_ratings, seed, sums)
        scores = [
            repr(round(total / n, 2)) if n else _UNKNOWN
            for total, n in zip(sums.of_item.tolist(), sums.item_counts.tolist(), strict=True)
        ]
        members = _members(weights, users, generator(seed, Stream.MEMBERS))
        _write_items(folder, catalogue, scores, members)
        relations.write(folder, catalogue.ids)
        exposure = _exposure(model, strength, weights, drawn)
        truth = Truth(
            seed=seed,
            users=users,
            items=items,
            ratings=ratings,
            irreducible_rmse=float(np.sqrt(sums.error / ratings)),
            bias_rmse=float(np.sqrt(sums.bias_error / ratings)),
            taste_share=1.0 - sums.error / sums.bias_error,
            noise_sd=model.noise_sd,
            thresholds=model.thresholds,
            user_bias=model.user_bias,
            user_vectors=model.user_vectors,
            item_ids=catalogue.ids,
            item_bias=model.item_bias,
            item_vectors=model.item_vectors,
            exposure=None if relations.change_exposure else exposure,
            planted=relations.figures(
                model,
                drawn_ratings,
                content=tastes.content,
                popularity=weights,
                exposure_strength=exposure.strength,
                seed=seed,
            ),
            drift=model.drift,
            transitions=relations.transitions,
        )
        truth = replace(truth, lists=_reference_lists(truth, drawn_ratings, sums, rng))
        truth.write(folder / TRUTH_FILE)
    return truth


def _draw_times(
    counts: npt.NDArray[np.int64],
    drawn: Drawn,
    rates: Rates,
    drift: Drift | None,
    relations: Relations,
    strength: float,
    seed: int,
) -> npt.NDArray[np.int64] | None:
    """Timestamps of all ratings; None if none are asked for. Sessions exchange items."""
    if not relations.planting.timed:
        return None
    if drift is not None:
        drift = replace(drift, turns=(strength * drift.turns).astype(np.float32))
    with progress("drawing when", len(drawn.items), "ratings") as advance:
        return draw_sequence(
            counts,
            drawn.items,
            rates,
            generators(seed, Stream.TIMES, counts),
            advance,
            drift=drift,
            transitions=relations.transitions,
        )


def _check_counts(users: int, items: int, ratings: int, seed: int) -> None:
    for name, value, least in (
        ("users", users, 1),
        ("items", items, 2),
        ("ratings", ratings, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UsageError(f"--{name} {value}: must be {least} or more")
    if ratings < users:
        raise UsageError(
            f"--ratings {ratings}: fewer than --users {users}; every user needs a rating"
        )
    if ratings > users * items:
        raise UsageError(
            f"--ratings {ratings}: more than the {users * items} pairs of "
            f"--users {users} and --items {items}"
        )
    if max(users, items) > np.iinfo(np.int32).max:
        raise UsageError("--users and --items: at most 2,147,483,647")


@dataclass
class _Sums:
    """Sums over the ratings that are drawn, and the ratings that are kept."""

    items: InitVar[int]
    chosen: npt.NDArray[np.int64]  # ascending users whose ratings are kept
    of_item: npt.NDArray[np.float64] = field(init=False)  # [I] sum of ratings
    item_counts: npt.NDArray[np.int64] = field(init=False)  # [I]
    error: float = 0.0  # squared error of the planted expectation
    bias_error: float = 0.0  # the same, of the expectation from biases only
    kept: list[npt.NDArray[np.int8]] = field(default_factory=list)  # ratings of chosen users

    def __post_init__(self, items: int) -> None:
        self.of_item = np.zeros(items)
        self.item_counts = np.zeros(items, dtype=np.int64)


def _write_ratings(
    path: Path,
    catalogue: Catalogue,
    model: PlantedModel,
    counts: npt.NDArray[np.int64],
    drawn: DrawnRatings,
    seed: int,
    sums: _Sums,
) -> None:
    """Draw the rating of every pair into `drawn`, and write the rows, users ascending."""
    is_chosen = np.zeros(len(counts), dtype=np.bool_)
    is_chosen[sums.chosen] = True
    curve, (nodes, values) = model.curve(), model.bias_curve()
    columns = [("user_id", pa.int64()), ("anime_id", pa.int64()), ("rating", pa.int8())]
    if drawn.times is not None:
        columns.append(("timestamp", pa.int64()))
    schema = pa.schema(columns)
    options = pa_csv.WriteOptions(include_header=False)  # pyarrow would quote the header
    position = 0
    with (
        path.open("wb") as file,
        progress("drawing and writing ratings", len(drawn.items), "ratings") as advance,
    ):
        file.write((",".join(schema.names) + "\n").encode("ascii"))
        with pa_csv.CSVWriter(file, schema, write_options=options) as writer:
            chunks = user_chunks(counts)
            for (start, stop), rng in zip(
                chunks, generators(seed, Stream.NOISE, counts), strict=True
            ):
                user = np.repeat(np.arange(start, stop), counts[start:stop])
                part = slice(position, position + len(user))
                position = part.stop
                item = drawn.items[part]
                times = None if drawn.times is None else drawn.times[part]
                bias = latent_bias(model.user_bias, model.item_bias, user, item)
                latent = bias + model.taste(user, item, times)
                reached = latent + model.noise_sd * rng.standard_normal(len(user))
                rating = np.searchsorted(model.thresholds, reached, side="right") + 1
                sums.error += float(np.sum((rating - curve(latent)) ** 2))
                sums.bias_error += float(np.sum((rating - np.interp(bias, nodes, values)) ** 2))
                sums.of_item += np.bincount(item, rating, minlength=len(catalogue.ids))
                sums.item_counts += np.bincount(item, minlength=len(catalogue.ids))
                drawn.ratings[part] = rating
                sums.kept.append(drawn.ratings[part][is_chosen[user]])
                cells = [user, catalogue.ids[item], drawn.ratings[part]]
                cells += [] if times is None else [times]
                writer.write_table(pa.table([pa.array(c) for c in cells], schema=schema))
                advance(len(user))


def _exposure(
    model: PlantedModel, strength: float, weights: npt.NDArray[np.float64], drawn: Drawn
) -> Exposure:
    """The parameters of who rates what, in units of the latent value."""
    return Exposure(
        # A scale of 0 means that all tastes are 0: a single user, whose taste is the mean taste.
        strength=strength / model.taste_scale if model.taste_scale else 0.0,
        item_rate=np.log(weights).astype(np.float32),
        user_reach=np.log(drawn.reach).astype(np.float32),
    )


def _reference_lists(
    truth: Truth, drawn: DrawnRatings, sums: _Sums, rng: np.random.Generator
) -> ReferenceLists | None:
    """The figures of the best lists, for the users whose ratings were kept."""
    planted = truth.planted_lists(sums.chosen, truth.item_ids)
    if planted is None:
        return None
    starts, ends = drawn.offsets[sums.chosen], drawn.offsets[sums.chosen + 1]
    rows = [drawn.items[start:end] for start, end in zip(starts, ends, strict=True)]
    lists = ItemLists(np.cumsum(np.r_[0, ends - starts]), np.concatenate(rows))
    mean = float(sums.of_item.sum()) / truth.ratings
    ratings = np.concatenate(sums.kept)
    return reference_lists(planted, lists, ratings, sums.item_counts, math.ceil(mean), rng)


def _members(
    weights: npt.NDArray[np.float64], users: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """How many people list each item, int64 [I]: popularity with noise."""
    scale = 3.0 * users * weights / weights.max()
    members = np.ceil(scale * np.exp(0.3 * rng.standard_normal(len(weights))))
    return np.asarray(members, dtype=np.int64)


def _write_items(
    folder: Path, catalogue: Catalogue, scores: list[str], members: npt.NDArray[np.int64]
) -> None:
    names = np.array(list(GENRES))
    genres = [
        ", ".join(names[row]) if known else _UNKNOWN
        for row, known in zip(catalogue.genres, catalogue.genres_known, strict=True)
    ]
    ids = catalogue.ids.tolist()
    episodes = [str(count) if count else _UNKNOWN for count in catalogue.episodes.tolist()]
    common = list(zip(ids, catalogue.titles, scores, genres, strict=True))
    rest = zip(catalogue.types, episodes, members.tolist(), strict=True)
    with (folder / ITEMS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["MAL_ID", "Name", "Score", "Genres", "Type", "Episodes", "Members"])
        writer.writerows((*left, *right) for left, right in zip(common, rest, strict=True))
    with (folder / SYNOPSES_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        # The published file spells the last column this way.
        writer.writerow(["MAL_ID", "Name", "Score", "Genres", "sypnopsis"])
        writer.writerows(
            (*left, synopsis)
            for left, synopsis in zip(common, catalogue.synopses, strict=True)
            if synopsis is not None
        )
