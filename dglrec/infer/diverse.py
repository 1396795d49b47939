"""Lists whose items are unlike each other: maximal marginal relevance.

A list is filled from the first place to the last. Each place takes the candidate with the largest

    (1 - w) * relevance - w * similarity to the most similar item that is listed already

(Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and
producing summaries", SIGIR 1998; w is their 1 - lambda). The candidates are the best items by
relevance alone, `POOL` times as many as the list has places. Relevance is the score, scaled for
each user to 0 at the last candidate and 1 at the first, because the range of scores differs from
model to model and from user to user.

Shapes: n users, c candidates, k places, I items, D width of the vectors that are compared.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dglrec import schema
from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.kernels import ItemLists

POOL = 10
"""The number of candidates for each place of a list."""

WEIGHT = 0.3
"""The default weight of similarity; relevance has the weight 1 - `WEIGHT`."""

DiverseBy = Literal["genres", "embedding", "series"]

_LEAST_POOL = 50
_NUMBERS_AT_ONCE = 1 << 24  # n * c * D
_SEASON = re.compile(
    r"""[:(\[/~]            # what follows is a subtitle, a year, another title
    | \s-\s
    | \b(?:the\s)?(?:final|first|second|third|fourth|fifth|\d+(?:st|nd|rd|th))\s
        (?:season|series|stage|chapter|cour)\b
    | \b(?:season|part|cour|chapter|episode|vol|volume)\b\.?\s*[\divx]*
    | \b(?:ova|ona|special|specials|movie|film|recap|tv)\b
    | \s(?:[ivx]{2,}|v|x|\d{1,2})(?=\s|$)  # a numeral behind the name
    """,
    re.VERBOSE,
)


Best = Callable[[Tensor, ItemLists, int], tuple[Tensor, Tensor]]
"""A ranker: a function with the arguments and the result of `Scorer.best`."""


@dataclass(frozen=True)
class Diversity:
    """How the similarity of a list's items is measured, and how much it counts.

    Attributes:
        by: `genres`, the cosine of the items' genres; `embedding`, the cosine of the model's
            embeddings of the items; `series`, whether the titles begin alike.
        weight: the weight w of similarity, from 0 to 1; relevance has the weight 1 - w.

    Raises:
        UsageError: the weight is out of range.
    """

    by: DiverseBy
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UsageError(f"--diversity {self.weight:g}: must be from 0 to 1")


class Likeness:
    """The similarity of items: the cosine of their vectors, or 1 within a group and 0 otherwise.

    Args:
        vectors: float32 [I, D] vectors; the similarity to an item whose vector is 0 is 0. Or
            int64 [I, 1] the group of each item, -1 for an item without a group.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.is_grouped = not vectors.is_floating_point()
        self._of = vectors if self.is_grouped else functional.normalize(vectors.float(), dim=1)

    @property
    def width(self) -> int:
        """D."""
        return self._of.shape[1]

    def of(self, items: Tensor) -> Tensor:
        """The vectors or groups, [n, c, D], of items int64 [n, c]."""
        return self._of.index_select(0, items.flatten()).view(*items.shape, -1)

    def between(self, item: Tensor, others: Tensor) -> Tensor:
        """float32 [n, c]: how similar an item of each list, [n, 1, D], is to others, [n, c, D]."""
        if self.is_grouped:
            same = (item == others) & (item >= 0)
            return same.squeeze(2).float()
        return (others @ item.transpose(1, 2)).squeeze(2)


class Diverse:
    """Makes diverse lists of another ranker's candidates; the module's docstring says how.

    Args:
        best: the ranker, which makes lists by relevance.
        likeness: the similarity of all items that it ranks.
        weight: the weight of similarity, 0 to 1; with 0 the lists are those of the ranker.
    """

    def __init__(self, best: Best, likeness: Likeness, weight: float = WEIGHT) -> None:
        self._best, self._likeness, self._weight = best, likeness, weight

    @torch.inference_mode()
    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The lists of n users, with the ranker's scores of their items.

        Arguments and result are those of `Scorer.best`, except that the scores need not descend.
        A shorter list is the beginning of a longer one as long as both draw on the least number of
        candidates, `_LEAST_POOL`.
        """
        pool = max(POOL * k, _LEAST_POOL)
        step = max(1, _NUMBERS_AT_ONCE // (pool * self._likeness.width))
        parts = [self._chosen(*self._best(some, left_out, pool), k) for some in users.split(step)]
        if not parts:
            return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
        return torch.cat([scores for scores, _ in parts]), torch.cat([items for _, items in parts])

    def _chosen(self, scores: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
        count = min(k, scores.shape[1])
        there = scores > -torch.inf
        worth = (1 - self._weight) * _scaled(scores, there)
        worth = worth.masked_fill(~there, -torch.inf)
        vectors = self._likeness.of(items)
        nearest = torch.zeros_like(worth)
        rows = torch.arange(len(scores))
        places = torch.empty(len(scores), count, dtype=torch.int64)
        found = torch.empty(len(scores), count, dtype=scores.dtype)
        for place in range(count):
            # argmax takes the first of equal candidates, which is the most relevant.
            chosen = (worth - self._weight * nearest).argmax(1)
            places[:, place] = chosen
            # The list of a user ends where no candidate remains.
            is_left = worth[rows, chosen] > -torch.inf
            found[:, place] = scores[rows, chosen].masked_fill(~is_left, -torch.inf)
            likeness = self._likeness.between(vectors[rows, chosen].unsqueeze(1), vectors)
            nearest = torch.maximum(nearest, likeness)
            worth[rows, chosen] = -torch.inf
        return found, items.gather(1, places)


def likeness_of(
    by: DiverseBy,
    dataset: RatingDataset,
    vectors: Tensor | None,
    more: Tensor | None = None,
) -> Likeness:
    """The similarity of a data set's I items, followed by m new items that it does not hold.

    Args:
        by: see `Diversity`.
        dataset: the data set.
        vectors: float32 [I + m, H] the model's embeddings of all these items; None for a model
            without embeddings.
        more: float32 [m, F] features of the new items; None where there are none. Their titles
            are not known, so none of them belongs to a series.

    Raises:
        UsageError: the data set knows no genres, or the model has no embeddings.
    """
    if by == "embedding":
        if vectors is None:
            raise UsageError(
                "--diverse embedding needs a graph model, and this is a run of a baseline; take "
                "genres or series"
            )
        return Likeness(vectors.cpu())
    if by == "series":
        groups = series_of(dataset.titles.to_pylist())
        others = groups.new_full((0 if more is None else len(more), 1), -1)
        return Likeness(torch.cat((groups, others)))
    widths = dataset.meta["features"]
    if schema.GENRES not in widths:
        raise UsageError(
            f"--diverse genres: {dataset.path} has no genres of its items; take embedding or series"
        )
    first = sum(list(widths.values())[: list(widths).index(schema.GENRES)])
    features = dataset.item_features
    features = features if more is None else torch.cat((features, more))
    return Likeness(features[:, first : first + widths[schema.GENRES]])


def _scaled(scores: Tensor, there: Tensor) -> Tensor:
    """Scores scaled to 0 at a row's smallest and 1 at its largest; 1 where the two are equal."""
    least = scores.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    span = scores.amax(1, keepdim=True) - least
    shares = (scores - least) / torch.where(span > 0, span, torch.ones_like(span))
    return torch.where(span > 0, shares, torch.ones_like(shares))


def series_of(titles: Sequence[str]) -> Tensor:
    """The series of each title, int64 [I, 1]: titles that begin alike share a number.

    Whatever distinguishes the seasons of a series is removed: subtitles, years, numbers after the
    name, words such as `2nd Season`, `OVA` and `Movie`. It is a guess from the title alone.

    >>> series_of(["Steins;Gate", "Steins;Gate 0", "Mushishi Zoku Shou", "Mushishi"]).tolist()
    [[0], [0], [1], [2]]
    """
    groups: dict[str, int] = {}
    return torch.tensor([groups.setdefault(stem_of(title), len(groups)) for title in titles])[
        :, None
    ]


def stem_of(title: str) -> str:
    """The part of a title that a series shares; the whole title where it begins with a season.

    >>> stem_of("Code Geass: Hangyaku no Lelouch R2"), stem_of("Rocky III (1982)")
    ('code geass', 'rocky')
    """
    plain = " ".join(unicodedata.normalize("NFKC", title).casefold().split())
    cut = _SEASON.split(plain, maxsplit=1)[0].strip(" -,.")
    return cut or plain
