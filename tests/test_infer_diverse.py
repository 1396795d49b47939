"""Lists of items that are unlike each other, held against the rule carried out one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dglrec.errors import UsageError
from dglrec.infer import Diverse, Diversity
from dglrec.infer.diverse import Likeness, series_of, stem_of
from dglrec.kernels import ItemLists

NOTHING = ItemLists(np.zeros(4, dtype=np.int64), np.empty(0, dtype=np.int32))


def ranker_of(scores):
    """The best of a table of scores."""

    def best(users, left_out, k):
        del left_out
        found = scores[users].topk(min(k, scores.shape[1]), dim=1)
        return found.values, found.indices

    return best


def one_by_one(scores, likeness, weight, k):
    """The rule of Carbonell and Goldstein, for one user, as it is written."""
    there = [item for item in np.argsort(-scores, kind="stable") if np.isfinite(scores[item])]
    values = scores[there]
    span = values.max() - values.min()
    worth = {
        item: (score - values.min()) / span if span else 1.0
        for item, score in zip(there, values, strict=True)
    }
    chosen = []
    while there and len(chosen) < k:

        def value(item):
            near = max((likeness[item, other] for other in chosen), default=0.0)
            return (1 - weight) * worth[item] - weight * max(near, 0.0)

        best = max(there, key=value)
        chosen.append(best)
        there.remove(best)
    return chosen


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans())
def test_lists_are_those_of_the_rule_carried_out_one_by_one(seed, weight, grouped):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    scores[0, 3:] = -torch.inf  # hardly anything is left for this one
    vectors = torch.randn(12, 4, generator=generator)
    if grouped:
        vectors = torch.randint(-1, 3, (12, 1), generator=generator)
        likeness = ((vectors == vectors.T) & (vectors >= 0)).double().numpy()
    else:
        unit = torch.nn.functional.normalize(vectors, dim=1)
        likeness = (unit @ unit.T).double().numpy()
    diverse = Diverse(ranker_of(scores), Likeness(vectors), weight)
    found, items = diverse.best(torch.arange(3), NOTHING, 5)
    for user in range(3):
        wanted = one_by_one(scores[user].numpy(), likeness, weight, 5)
        listed = items[user][found[user] > -torch.inf].tolist()
        assert listed == wanted
        assert found[user][: len(wanted)].tolist() == scores[user][wanted].tolist()
    if not weight:
        assert torch.equal(items[1:], scores[1:].topk(5, dim=1).indices)


def test_a_list_has_no_two_of_a_series_while_others_are_left():
    scores = torch.tensor([[9.0, 8.9, 8.8, 1.0, 0.0]])
    groups = torch.tensor([[0], [0], [0], [1], [-1]])
    diverse = Diverse(ranker_of(scores), Likeness(groups), 0.6)
    lists = ItemLists(np.zeros(2, dtype=np.int64), np.empty(0, dtype=np.int32))
    assert diverse.best(torch.tensor([0]), lists, 3)[1].tolist() == [[0, 3, 4]]


@pytest.mark.parametrize(
    ("titles", "stem"),
    [
        (["Code Geass: Hangyaku no Lelouch", "Code Geass: Hangyaku no Lelouch R2"], "code geass"),
        (["Rocky (1976)", "Rocky II (1979)", "Rocky III (1982)"], "rocky"),
        (["Shingeki no Kyojin", "Shingeki no Kyojin Season 2"], "shingeki no kyojin"),
        (["K-On!", "K-On! Movie", "K-On!: Live House!"], "k-on!"),
        (["Gintama", "Gintama 2nd Season", "Gintama OVA"], "gintama"),
    ],
)
def test_titles_of_one_series_begin_alike(titles, stem):
    assert {stem_of(title) for title in titles} == {stem}
    groups = series_of([*titles, "Another"]).flatten().tolist()
    assert groups == [*[0] * len(titles), 1]


def test_what_is_left_of_no_title_is_empty():
    titles = ["2001", "(500) Days of Summer", "Movie 43", "", ":"]
    assert all(stem_of(title) or not title.strip() for title in titles)
    assert len(set(series_of(titles).flatten().tolist())) == len(titles)


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(UsageError, match="--diversity 1.5: must be from 0 to 1"):
        Diversity("genres", 1.5)
