"""The items of a generated data set: ids, titles, genres, themes, and synopses about the themes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dglrec.synthetic.vocabulary import (
    CLOSINGS,
    GENRE_COUNT_SHARES,
    GENRES,
    SENTENCES,
    THEMES,
    TITLE_FORMS,
    TYPES,
    Theme,
    made_up_names,
)

_MEAN_ID_STEP = 2.8  # 17,562 anime have ids up to 48,492
_NO_SYNOPSIS_SHARE = 0.03
_NO_GENRES_SHARE = 0.005


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The attributes of I items, before ratings are drawn."""

    ids: npt.NDArray[np.int64]  # [I], ascending with gaps
    titles: list[str]  # distinct
    genres: npt.NDArray[np.bool_]  # [I, G], columns in the order of `GENRES`; 1 to 5 for each item
    genres_known: npt.NDArray[np.bool_]  # [I]; false: published as "Unknown"
    themes: npt.NDArray[np.bool_]  # [I, T], columns in the order of `THEMES`; 2 or 3 for each item
    synopses: list[str | None]  # None: the item is absent from the table of synopses
    types: list[str]
    episodes: npt.NDArray[np.int64]  # [I], 0: not known


def make_catalogue(items: int, rng: np.random.Generator) -> Catalogue:
    """Draw `items` items. Genres and themes are independent of each other."""
    ids = np.cumsum(rng.geometric(1.0 / _MEAN_ID_STEP, items))
    genre_counts = 1 + rng.choice(len(GENRE_COUNT_SHARES), items, p=GENRE_COUNT_SHARES)
    genres = _draw_sets(np.array(list(GENRES.values())), genre_counts, rng)
    themes = _draw_sets(np.ones(len(THEMES)), rng.integers(2, 4, items), rng)
    shares = np.array(list(TYPES.values()))
    kinds = rng.choice(len(TYPES), items, p=shares / shares.sum())
    types = [list(TYPES)[kind] for kind in kinds]
    series = np.array([kind in ("TV", "OVA", "ONA") for kind in types])
    episodes = np.where(series, rng.choice([0, 2, 6, 12, 13, 24, 26, 51], items), 1)
    known = rng.random(items) >= _NO_SYNOPSIS_SHARE
    choices = list(THEMES.values())
    synopses = [
        _synopsis([choices[theme] for theme in np.flatnonzero(row)], rng) if has else None
        for row, has in zip(themes, known, strict=True)
    ]
    return Catalogue(
        ids=ids.astype(np.int64),
        titles=_titles(items, rng),
        genres=genres,
        genres_known=rng.random(items) >= _NO_GENRES_SHARE,
        themes=themes,
        synopses=synopses,
        types=types,
        episodes=episodes,
    )


def _draw_sets(
    weights: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """[I, len(weights)] with counts[i] members in row i, drawn by weight without replacement.

    The members are those with the smallest exponential keys (Efraimidis and Spirakis, 2006).
    """
    keys = rng.exponential(size=(len(counts), len(weights))) / weights
    ranks = keys.argsort(axis=1).argsort(axis=1)
    return np.asarray(ranks < counts[:, None])


def _synopsis(themes: list[Theme], rng: np.random.Generator) -> str:
    """Three sentences: about each theme, and with only two themes a closing sentence."""
    themes = [themes[i] for i in rng.permutation(len(themes))]
    forms = rng.permutation(len(SENTENCES))
    words = [_draw_words(theme, rng) for theme in themes]
    sentences = [
        SENTENCES[form].format_map(theme_words)
        for form, theme_words in zip(forms, words, strict=False)
    ]
    if len(themes) == 2:
        first, second = (_draw_words(theme, rng) for theme in themes)
        seconds = {f"second_{name}": word for name, word in second.items()}
        sentences.append(CLOSINGS[rng.integers(len(CLOSINGS))].format_map(first | seconds))
    return " ".join(sentences)


def _draw_words(theme: Theme, rng: np.random.Generator) -> dict[str, str]:
    thing, other = rng.choice(len(theme.things), 2, replace=False)
    return {
        "role": theme.roles[rng.integers(len(theme.roles))],
        "place": theme.places[rng.integers(len(theme.places))],
        "thing": theme.things[thing],
        "other": theme.things[other],
    }


def _titles(items: int, rng: np.random.Generator) -> list[str]:
    """Distinct titles, each around a different made-up name.

    No form turns one name into another, since names have no space or colon.
    """
    names = made_up_names(items, rng)
    forms = rng.integers(len(TITLE_FORMS), size=items)
    return [TITLE_FORMS[form].format(name=name) for name, form in zip(names, forms, strict=True)]
