"""A data set in the layout of the Anime Recommendation Database 2020, from a planted model.

`truth.py` holds the model and its expectation, `planted.py` draws and scales its parameters,
`draw.py` says who rates what, `oracle.py` has the best lists that follow, `reference.py` measures
them, `catalogue.py` and `vocabulary.py` make the items.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field, replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as pa_csv

from dglrec.errors import UsageError
from dglrec.files import atomic_folder
from dglrec.kernels import ItemLists
from dglrec.progress import progress
from dglrec.synthetic.catalogue import Catalogue, make_catalogue
from dglrec.synthetic.draw import Drawn, Rates, activity, draw_items, popularity, user_chunks
from dglrec.synthetic.oracle import PlantedLists
from dglrec.synthetic.planted import EXPOSURE_SPREAD, RANK, PlantedModel, draw_tastes, plant
from dglrec.synthetic.reference import USERS, reference_lists
from dglrec.synthetic.truth import (
    TRUTH_FILE,
    Exposure,
    ReferenceLists,
    Truth,
    latent_bias,
    latent_taste,
)
from dglrec.synthetic.vocabulary import GENRES

__all__ = [
    "ITEMS_FILE",
    "RATINGS_FILE",
    "SYNOPSES_FILE",
    "TRUTH_FILE",
    "PlantedLists",
    "Truth",
    "synthesize",
]

RATINGS_FILE = "rating_complete.csv"
SYNOPSES_FILE = "anime_with_synopsis.csv"
ITEMS_FILE = "anime.csv"

_UNKNOWN = "Unknown"  # how the published files write a missing value


class _Stream(IntEnum):
    """What a stream of random numbers is for: one more stream changes none of the others."""

    CATALOGUE = 0
    ACTIVITY = 1
    POPULARITY = 2
    PAIRS = 3
    MODEL = 4
    NOISE = 5
    MEMBERS = 6
    TASTES = 7
    REFERENCE = 8


def synthesize(
    out: Path, *, users: int, items: int, ratings: int, seed: int = 0, overwrite: bool = False
) -> Truth:
    """Write a generated data set: ratings, two item tables and `truth.json`.

    Users' activity is log-normal, items' popularity follows Zipf and Mandelbrot, the histogram of
    ratings is the real sample's. Ratings come from biases, a taste of rank 8 that explains a third
    of the squared error that biases leave, and noise. Who rates what comes from popularity times
    the exponential of the same taste, so that there is a best possible list for each user. Half of
    the variance of an item's place in the taste space follows from its genres and from the themes
    of its synopsis.

    Memory is 4 bytes a rating plus about 0.7 GB. The same arguments give the same bytes, on any
    number of threads.

    Args:
        out: the folder to be made; it appears whole or not at all.
        users: how many users; their ids are 0..users-1.
        items: how many items, at least 2; their ids ascend with gaps.
        ratings: how many rows, all of distinct (user, item) pairs; every user has one at least.
        seed: a whole number from 0.
        overwrite: whether an existing generated data set may be replaced.

    Returns:
        The planted truth, as written.

    Raises:
        UsageError: the counts or the seed are impossible, or `out` exists and may not be replaced.
        DglrecError: the disk is full, or the folder cannot be written.
    """
    _check_counts(users, items, ratings, seed)
    with atomic_folder(Path(out), marker=TRUTH_FILE, overwrite=overwrite) as folder:
        counts = activity(users, items, ratings, _generator(seed, _Stream.ACTIVITY))
        weights = popularity(items, _generator(seed, _Stream.POPULARITY))
        catalogue = make_catalogue(items, _generator(seed, _Stream.CATALOGUE))
        tastes = draw_tastes(catalogue, counts, weights, _generator(seed, _Stream.TASTES))
        strength = EXPOSURE_SPREAD * math.sqrt(RANK)  # a product of directions has sd 1 / sqrt K
        rates = Rates(weights, (strength * tastes.users).astype(np.float32), tastes.items)
        with progress("drawing who rates what", ratings, "ratings") as advance:
            drawn = draw_items(counts, rates, _generators(seed, _Stream.PAIRS, counts), advance)
        model = plant(tastes, counts, drawn.items, _generator(seed, _Stream.MODEL))
        rng = _generator(seed, _Stream.REFERENCE)
        sums = _Sums(items, np.sort(rng.choice(users, min(USERS, users), replace=False)))
        _write_ratings(folder / RATINGS_FILE, catalogue, model, counts, drawn.items, seed, sums)
        scores = [
            repr(round(total / n, 2)) if n else _UNKNOWN
            for total, n in zip(sums.of_item.tolist(), sums.item_counts.tolist(), strict=True)
        ]
        members = _members(weights, users, _generator(seed, _Stream.MEMBERS))
        _write_items(folder, catalogue, scores, members)
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
            exposure=_exposure(model, strength, weights, drawn),
        )
        truth = replace(truth, lists=_reference_lists(truth, counts, drawn, sums, rng))
        truth.write(folder / TRUTH_FILE)
    return truth


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


def _generator(seed: int, stream: _Stream, part: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, stream, part])


def _generators(
    seed: int, stream: _Stream, counts: npt.NDArray[np.int64]
) -> Iterator[np.random.Generator]:
    """One generator for each chunk of users, so that what a chunk draws rests on no other one."""
    return (_generator(seed, stream, part) for part in range(len(user_chunks(counts))))


@dataclass
class _Sums:
    """What is added up, and kept, while ratings are drawn."""

    items: InitVar[int]
    chosen: npt.NDArray[np.int64]  # ascending users whose ratings are kept
    of_item: npt.NDArray[np.float64] = field(init=False)  # [I] sum of ratings
    item_counts: npt.NDArray[np.int64] = field(init=False)  # [I]
    error: float = 0.0  # squared error of the planted expectation
    bias_error: float = 0.0  # the same, of the expectation that knows biases only
    kept: list[npt.NDArray[np.int8]] = field(default_factory=list)  # ratings of chosen users

    def __post_init__(self, items: int) -> None:
        self.of_item = np.zeros(items)
        self.item_counts = np.zeros(items, dtype=np.int64)


def _write_ratings(
    path: Path,
    catalogue: Catalogue,
    model: PlantedModel,
    counts: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.int32],
    seed: int,
    sums: _Sums,
) -> None:
    """Draw the rating of every pair and write the rows, users ascending."""
    is_chosen = np.zeros(len(counts), dtype=np.bool_)
    is_chosen[sums.chosen] = True
    curve, (nodes, values) = model.curve(), model.bias_curve()
    schema = pa.schema([("user_id", pa.int64()), ("anime_id", pa.int64()), ("rating", pa.int8())])
    options = pa_csv.WriteOptions(include_header=False)  # pyarrow would put it in quotes
    position = 0
    with (
        path.open("wb") as file,
        progress("drawing and writing ratings", len(drawn), "ratings") as advance,
    ):
        file.write((",".join(schema.names) + "\n").encode("ascii"))
        with pa_csv.CSVWriter(file, schema, write_options=options) as writer:
            chunks = user_chunks(counts)
            for (start, stop), rng in zip(
                chunks, _generators(seed, _Stream.NOISE, counts), strict=True
            ):
                user = np.repeat(np.arange(start, stop), counts[start:stop])
                item = drawn[position : position + len(user)]
                position += len(user)
                bias = latent_bias(model.user_bias, model.item_bias, user, item)
                latent = bias + latent_taste(model.user_vectors, model.item_vectors, user, item)
                reached = latent + model.noise_sd * rng.standard_normal(len(user))
                rating = np.searchsorted(model.thresholds, reached, side="right") + 1
                sums.error += float(np.sum((rating - curve(latent)) ** 2))
                sums.bias_error += float(np.sum((rating - np.interp(bias, nodes, values)) ** 2))
                sums.of_item += np.bincount(item, rating, minlength=len(catalogue.ids))
                sums.item_counts += np.bincount(item, minlength=len(catalogue.ids))
                sums.kept.append(rating[is_chosen[user]].astype(np.int8))
                columns = (user, catalogue.ids[item], rating.astype(np.int8))
                writer.write_table(pa.table([pa.array(c) for c in columns], schema=schema))
                advance(len(user))


def _exposure(
    model: PlantedModel, strength: float, weights: npt.NDArray[np.float64], drawn: Drawn
) -> Exposure:
    """What decided who rates what, in units of the latent value."""
    return Exposure(
        # Without scale all tastes are 0: a single user, whose taste is the mean one.
        strength=strength / model.taste_scale if model.taste_scale else 0.0,
        item_rate=np.log(weights).astype(np.float32),
        user_reach=np.log(drawn.reach).astype(np.float32),
    )


def _reference_lists(
    truth: Truth,
    counts: npt.NDArray[np.int64],
    drawn: Drawn,
    sums: _Sums,
    rng: np.random.Generator,
) -> ReferenceLists | None:
    """What lists reach for the users whose ratings were kept."""
    planted = truth.planted_lists(sums.chosen, truth.item_ids)
    assert planted is not None
    ends = np.cumsum(counts)[sums.chosen]
    starts = ends - counts[sums.chosen]
    rows = [drawn.items[start:end] for start, end in zip(starts, ends, strict=True)]
    lists = ItemLists(np.cumsum(np.r_[0, counts[sums.chosen]]), np.concatenate(rows))
    mean = float(sums.of_item.sum()) / truth.ratings
    ratings = np.concatenate(sums.kept)
    return reference_lists(planted, lists, ratings, sums.item_counts, math.ceil(mean), rng)


def _members(
    weights: npt.NDArray[np.float64], users: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """[I] how many people list each item: popularity, seen through noise."""
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
        # The published file spells the last column like this.
        writer.writerow(["MAL_ID", "Name", "Score", "Genres", "sypnopsis"])
        writer.writerows(
            (*left, synopsis)
            for left, synopsis in zip(common, catalogue.synopses, strict=True)
            if synopsis is not None
        )
