"""Lists whose items are unlike each other: maximal marginal relevance.

A list is made place by place. Of the candidates the next item is the one with the largest

    (1 - w) * relevance - w * similarity to the most similar item that is listed already

(Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and
producing summaries", SIGIR 1998; w is their 1 - lambda). Candidates are the items that would come
first without it, `POOL` times as many as are wanted. Their relevance is their score, scaled to 0
for a user's last candidate and 1 for the first, as scores of two models, or of two users, have
sizes of their own.

Shapes: n users, c candidates, k places, I items, D width of what similarity is taken of.
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
"""How many times as many candidates there are as places."""

WEIGHT = 0.3
"""What similarity counts where nobody says; relevance counts the rest to 1."""

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
"""What makes lists: the contract of `Scorer.best`."""


@dataclass(frozen=True)
class Diversity:
    """What makes items of a list alike, and how much that counts.

    Attributes:
        by: `genres`, the cosine of their genres; `embedding`, that of the model's embeddings of
            them; `series`, whether their titles begin alike.
        weight: of similarity, from 0 to 1; relevance counts the rest.

    Raises:
        UsageError: the weight is out of range.
    """

    by: DiverseBy
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UsageError(f"--diversity {self.weight:g}: must be from 0 to 1")


class Likeness:
    """How alike items are: the cosine of vectors, or whether two are of the same group.

    Args:
        vectors: float32 [I, D]; an item with zeros is like no other. Of groups [I, 1], int64: the
            group of each item, -1 for one that is in none.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.is_grouped = not vectors.is_floating_point()
        self._of = vectors if self.is_grouped else functional.normalize(vectors.float(), dim=1)

    @property
    def width(self) -> int:
        """D."""
        return self._of.shape[1]

    def of(self, items: Tensor) -> Tensor:
        """What similarity is taken of, [n, c, D], of items int64 [n, c]."""
        return self._of.index_select(0, items.flatten()).view(*items.shape, -1)

    def between(self, one: Tensor, others: Tensor) -> Tensor:
        """float32 [n, c]: how like one item of each list, [n, 1, D], the others are, [n, c, D]."""
        if self.is_grouped:
            same = (one == others) & (one >= 0)
            return same.squeeze(2).float()
        return (others @ one.transpose(1, 2)).squeeze(2)


class Diverse:
    """Makes lists of another ranker's candidates; see the module.

    Args:
        best: makes lists by relevance.
        likeness: of all items that it ranks.
        weight: of similarity, 0 to 1; with 0 lists are the ranker's.
    """

    def __init__(self, best: Best, likeness: Likeness, weight: float = WEIGHT) -> None:
        self._best, self._likeness, self._weight = best, likeness, weight

    @torch.inference_mode()
    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items of each of n users, in the order of the list, with the ranker's scores.

        Args and result as of `Scorer.best`, but that scores need not fall. A shorter list is the
        beginning of a longer one while both have the least number of candidates.
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
            # Of equal ones the first candidate: the more relevant one.
            chosen = (worth - self._weight * nearest).argmax(1)
            places[:, place] = chosen
            # Where nothing is left the list has ended.
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
    """How alike the items of a data set are, and items behind them that it does not hold.

    Args:
        by: see `Diversity`.
        dataset: the data set.
        vectors: float32 [I + m, H] the model's embeddings of all these items; None without any.
        more: float32 [m, F] features of the others; None for none. Of their titles nothing is
            known, so none is of a series.

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
            f"--diverse genres: {dataset.path} knows no genres of its items; take embedding or "
            "series"
        )
    first = sum(list(widths.values())[: list(widths).index(schema.GENRES)])
    features = dataset.item_features
    features = features if more is None else torch.cat((features, more))
    return Likeness(features[:, first : first + widths[schema.GENRES]])


def _scaled(scores: Tensor, there: Tensor) -> Tensor:
    """Scores as shares of the way from a row's least to its largest; 1 where they are one."""
    least = scores.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    span = scores.amax(1, keepdim=True) - least
    shares = (scores - least) / torch.where(span > 0, span, torch.ones_like(span))
    return torch.where(span > 0, shares, torch.ones_like(shares))


def series_of(titles: Sequence[str]) -> Tensor:
    """Which titles are of one series, int64 [I, 1]: those that begin alike.

    What makes a season of a series is left away: subtitles, years, numbers behind the name, words
    such as `2nd Season`, `OVA` and `Movie`. It is a guess, by the title alone.

    >>> series_of(["Steins;Gate", "Steins;Gate 0", "Mushishi Zoku Shou", "Mushishi"]).tolist()
    [[0], [0], [1], [2]]
    """
    groups: dict[str, int] = {}
    return torch.tensor([groups.setdefault(stem_of(title), len(groups)) for title in titles])[
        :, None
    ]


def stem_of(title: str) -> str:
    """What a series' titles have in common; the whole of a title that begins with a season.

    >>> stem_of("Code Geass: Hangyaku no Lelouch R2"), stem_of("Rocky III (1982)")
    ('code geass', 'rocky')
    """
    plain = " ".join(unicodedata.normalize("NFKC", title).casefold().split())
    cut = _SEASON.split(plain, maxsplit=1)[0].strip(" -,.")
    return cut or plain
