"""Sessions, and V-SKNN against its definition, session by session."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.baselines import SessionNeighbours, Sessions, cut_sessions, sessions_of

ITEMS = 9

events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, ITEMS - 1), st.integers(0, 200)), max_size=60
)


def columns(rows):
    return np.array(rows, dtype=np.int64).reshape(-1, 3).T


def brute_sessions(rows, gap):
    """Lists of positions, user by user and in the order of time."""
    found = []
    for user in sorted({user for user, _, _ in rows}):
        mine = [n for n, row in enumerate(rows) if row[0] == user]
        mine.sort(key=lambda n: rows[n][2])  # stable
        for n in mine:
            before = found[-1][-1] if found and rows[found[-1][-1]][0] == user else None
            if before is None or rows[n][2] - rows[before][2] > gap:
                found.append([])
            found[-1].append(n)
    return found


@given(events, st.sampled_from([0.5, 5, 30, np.inf]))
@settings(max_examples=100, deadline=None)
def test_sessions_are_cut_at_gaps(rows, gap):
    users, items, times = columns(rows)
    expected = brute_sessions(rows, gap)
    numbers = sessions_of(users, times, gap)
    assert [np.flatnonzero(numbers == n).tolist() for n in range(len(expected))] == [
        sorted(one) for one in expected
    ]
    found = cut_sessions(users, items, times, gap)
    expected.sort(key=lambda one: rows[one[-1]][2])
    assert found.num_sessions == len(expected)
    assert found.items.tolist() == [rows[n][1] for one in expected for n in one]
    assert np.diff(found.offsets).tolist() == [len(one) for one in expected]
    assert found.users.tolist() == [rows[one[0]][0] for one in expected]
    assert found.ends.tolist() == [rows[one[-1]][2] for one in expected]


def test_a_gap_is_what_is_longer():
    users, times = np.zeros(3, dtype=np.int64), np.array([0, 30, 61])
    assert sessions_of(users, times, 30).tolist() == [0, 0, 1]
    assert sessions_of(users, times.astype(np.float32), 30).tolist() == [0, 0, 1]
    # Unsigned times of different users do not wrap around into a gap, nor out of one.
    unsigned = np.array([100, 5, 6], dtype=np.uint32)
    assert sessions_of(np.array([1, 2, 2]), unsigned, 30).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("users", "times", "gap", "message"),
    [
        ([1, 2], [0.0], 1, "2 users and 1 times"),
        ([1], [np.nan], 1, "not finite"),
        ([1], [np.inf], 1, "not finite"),
        ([1], [0.0], 0, "gap 0"),
        ([1], [0.0], np.nan, "gap nan"),
    ],
)
def test_sessions_refuse_what_is_wrong(users, times, gap, message):
    with pytest.raises(ValueError, match=message):
        sessions_of(np.array(users), np.array(times), gap)
    with pytest.raises(ValueError, match=message):
        cut_sessions(np.array(users), np.array(users), np.array(times), gap)


def test_items_must_be_as_many_as_users():
    with pytest.raises(ValueError, match="1 users and 2 items"):
        cut_sessions(np.array([1]), np.array([1, 2]), np.array([0]), 1)
    for wrong in (-1, 2**31):
        with pytest.raises(ValueError, match="numbered from 0"):
            cut_sessions(np.array([1]), np.array([wrong]), np.array([0]), 1)


def sessions_from(lists):
    """Sessions that end one after the other."""
    sizes = [len(one) for one in lists]
    items = np.array([item for one in lists for item in one], dtype=np.int32)
    count = np.arange(len(lists))
    return Sessions(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), items, count, count)


def brute_scores(past, session, neighbours, candidates):
    """As the paper says it: (scores, neighbours)."""
    length = len(session)
    weights = {item: (place + 1) / length for place, item in enumerate(session)}
    sharing = [n for n, one in enumerate(past) if set(one) & set(session)][-candidates:]
    similarity = {n: sum(weights.get(item, 0) for item in set(past[n])) for n in sharing}
    nearest = sorted(sharing, key=lambda n: (-round(similarity[n], 9), -n))[:neighbours]
    scores = np.zeros(ITEMS)
    for n in nearest:
        scores[list(set(past[n]))] += similarity[n]
    return scores, nearest


lists_of_items = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=8), max_size=25)


@given(
    lists_of_items,
    st.lists(st.integers(0, ITEMS - 1), max_size=8),
    st.integers(1, 8),
    st.integers(1, 12),
)
@settings(max_examples=200, deadline=None)
def test_scores_are_those_of_the_definition(past, session, neighbours, candidates):
    model = SessionNeighbours(
        sessions_from(past), ITEMS, neighbours=neighbours, candidates=candidates
    )
    expected, nearest = brute_scores(past, session, neighbours, candidates)
    assert model.similar_sessions(session)[0].tolist() == nearest
    np.testing.assert_allclose(model.scores(session), expected, rtol=1e-6)
    items, scores = model.best(session, 4, left_out=session)
    expected[session] = 0
    assert (scores > 0).all() and (np.diff(scores) <= 0).all()
    assert len(items) == min(4, (expected > 0).sum())
    np.testing.assert_allclose(scores, np.sort(expected)[::-1][: len(items)], rtol=1e-6)
    np.testing.assert_allclose(expected[items], scores, rtol=1e-6)


def test_the_latest_item_says_most():
    """0 then 1: past sessions with 1 are nearer (weight 1) than those with 0 (one half)."""
    model = SessionNeighbours(sessions_from([[0, 2], [1, 3], [0, 1, 4], [5, 6]]), ITEMS)
    found, similarities = model.similar_sessions([0, 1])
    assert found.tolist() == [2, 1, 0] and similarities.tolist() == [1.5, 1, 0.5]
    items, scores = model.best([0, 1], 5, left_out=[0, 1])
    assert items.tolist() == [4, 3, 2] and scores.tolist() == [1.5, 1, 0.5]
    assert model.best([0, 1], 2)[0].tolist() == [1, 0]  # 2.5 and 2: known items may come again


def test_only_the_most_recent_sessions_are_compared():
    past = [[0, 1, 2], [0, 3], [0, 4]]
    model = SessionNeighbours(sessions_from(past), ITEMS, candidates=2)
    assert model.similar_sessions([1, 0])[0].tolist() == [2, 1]


def test_planted_transitions_are_found():
    """Items follow each other in a ring, with a jump now and then."""
    generator = np.random.default_rng(0)
    steps = np.where(generator.random((400, 4)) < 0.8, 1, generator.integers(0, 30, (400, 4)))
    walks = np.cumsum(np.column_stack((generator.integers(0, 30, 400), steps)), axis=1) % 30
    model = SessionNeighbours(sessions_from(walks[:300].tolist()), 30)
    hits = sum(
        int(walk[-1]) in model.best(walk[:-1], 3, left_out=walk[:-1])[0] for walk in walks[300:]
    )
    assert hits > 60  # by chance 3 in 26


def test_nothing_known_scores_nothing():
    model = SessionNeighbours(sessions_from([[0, 1]]), ITEMS)
    assert not model.scores([]).any() and not model.scores([5]).any()
    assert len(model.best([5], 3)[0]) == 0
    empty = SessionNeighbours(sessions_from([]), ITEMS)
    assert not empty.scores([1]).any()


@pytest.mark.parametrize("items", [[ITEMS], [-1], [0, ITEMS + 3]])
def test_items_that_are_not_there_are_refused(items):
    model = SessionNeighbours(sessions_from([[0, 1]]), ITEMS)
    with pytest.raises(IndexError, match="there are 9"):
        model.scores(items)
    with pytest.raises(IndexError, match="there are 9"):
        model.best([0], 2, left_out=items)
    past = Sessions(np.array([0, 1]), np.int32([ITEMS]), np.array([0]), np.array([0]))
    with pytest.raises(ValueError):
        SessionNeighbours(past, ITEMS)


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"candidates": 0}])
def test_at_least_one_neighbour_is_needed(wrong):
    with pytest.raises(ValueError, match="at least 1 is needed"):
        SessionNeighbours(sessions_from([[0]]), ITEMS, **wrong)
