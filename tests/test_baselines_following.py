"""What follows a user's last items: edges of training rows alone, scores against plain numpy."""

import shutil
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs import as_of_an_earlier_version
from scipy import sparse

from dglrec.baselines import BaselineConfig, FollowingItems, SessionRanker, fit_model, load_model
from dglrec.baselines.recent import recent_rows
from dglrec.config import build_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.derived import DERIVED, DerivedConfig, next_items
from dglrec.errors import DataError, UsageError
from dglrec.graph import build_graph
from dglrec.run import open_predictor
from dglrec.schema import RatingScale
from dglrec.train import train

ITEMS, GAP = 7, 2000
CONFIG = {
    "positives": "all",
    "session_gap": 2000.0,
    "session_last": 3,
    "session_hops": 2,
    "session_exponent": 0.7,
    "session_both_ways": False,
    "neighbours": 5,
}

events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, ITEMS - 1), st.integers(0, 120)),
    max_size=25,
    unique_by=lambda row: row[:2],
)


def graph_of(rows):
    users, items, times = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    graph = build_graph(
        users,
        items,
        np.zeros(len(rows), dtype=np.uint8),
        num_users=4,
        num_items=ITEMS,
        scale=RatingScale(0, 1),
        times=times,
    )
    return graph


def brute_counts(rows, gap, both_ways=False):
    """How often an item (column) comes right after another (row)."""
    counts = np.zeros((ITEMS, ITEMS))
    for user in {row[0] for row in rows}:
        mine = sorted((time, item) for one, item, time in rows if one == user)
        for (before, first), (after, second) in pairwise(mine):
            if after - before <= gap:
                counts[first, second] += 1
                counts[second, first] += both_ways
    return counts


@given(events, st.sampled_from([0.5, 10, 40, np.inf]))
@settings(max_examples=60, deadline=None)
def test_edges_lead_to_what_comes_right_after(rows, gap):
    graph = graph_of(rows)
    found = next_items(graph, graph.times, gap).matrix().toarray()
    assert np.array_equal(found.T, brute_counts(rows, gap))


def test_only_those_that_are_kept_are_in_the_sequence():
    rows = [(0, 1, 5), (0, 2, 6), (0, 3, 7)]
    graph = graph_of(rows)
    kept = np.array([True, False, True])
    found = next_items(graph, graph.times, kept=kept).matrix()
    assert found[3, 1] == 1 and found.nnz == 1


def test_times_that_do_not_fit_are_refused():
    graph = graph_of([(0, 1, 5), (0, 2, 6)])
    with pytest.raises(ValueError, match="1 times of 2 edges"):
        next_items(graph, graph.times[:1])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Users who walk round a ring of items, some of whom start anew after a pause."""
    folder = tmp_path_factory.mktemp("following")
    generator = np.random.default_rng(0)
    rows = []
    for user in range(60):
        start = int(generator.integers(24))
        for step in range(10):
            # All of a step before all of the next one, so that what is held out comes next.
            start += 1 if step != 5 else 7
            rows.append((user, start % 24, 1000 * step + user + 20_000 * (step >= 5)))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    frame = frame.drop_duplicates(["user_id", "item_id"])
    frame.to_csv(folder / "rows.csv", index=False)
    frame.drop(columns="timestamp").to_csv(folder / "plain.csv", index=False)
    options = {"text": False, "valid": 0.1, "test": 0.1}
    timed = prepare(folder / "rows.csv", folder / "timed", PrepareOptions(split="time", **options))
    plain = prepare(folder / "plain.csv", folder / "plain", PrepareOptions(**options))
    return SimpleNamespace(timed=timed, plain=plain, frame=frame)


def rows_of(dataset):
    graph = dataset.graph
    users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    return list(
        zip(users.tolist(), graph.by_user.neighbours.tolist(), graph.times.tolist(), strict=True)
    )


def test_edges_are_of_training_rows_alone(world):
    """Were held-out rows among them, there would be more edges: as many as those rows add."""
    dataset = world.timed
    graph, rows = dataset.graph, rows_of(dataset)
    held = [dataset.held_out(part) for part in ("valid", "test")]
    assert all(int(one.times.min()) >= max(time for _, _, time in rows) for one in held)

    def counted(rows):
        return sum(
            after[0] == before[0] and after[2] - before[2] <= GAP
            for before, after in pairwise(sorted(rows, key=lambda row: (row[0], row[2])))
        )

    leaked = list(rows)
    for one in held:
        columns = one.users.tolist(), one.items.tolist(), one.times.tolist()
        leaked += zip(*columns, strict=True)
    users, items, times = np.array(leaked).T
    with_leak = build_graph(
        users,
        items,
        np.zeros(len(users), dtype=np.uint8),
        num_users=graph.num_users,
        num_items=graph.num_items,
        scale=RatingScale(0, 1),
        times=times,
    )
    found = [int(next_items(one, one.times, GAP).weights.sum()) for one in (graph, with_leak)]
    assert found == [counted(rows), counted(leaked)] and found[0] < found[1]


@pytest.mark.parametrize("change", [{}, {"session_both_ways": True}, {"session_hops": 1}])
def test_scores_are_those_of_plain_numpy(world, change):
    dataset = world.timed
    config = BaselineConfig(**{**CONFIG, **change})
    model = FollowingItems.fit(dataset, config)
    size = dataset.graph.num_items
    counts = np.zeros((size, size))
    rows = rows_of(dataset)
    for user in range(dataset.graph.num_users):
        mine = sorted((time, item) for one, item, time in rows if one == user)
        for (before, first), (after, second) in pairwise(mine):
            if after - before <= GAP:
                counts[first, second] += 1
                counts[second, first] += config.session_both_ways
    r, c = (np.maximum(counts.sum(axis), 1) for axis in (1, 0))
    p = counts / (r[:, None] ** 0.7 * c[None, :] ** 0.3)
    whole = p + 0.5 * p @ p if config.session_hops == 2 else p
    users = np.arange(dataset.graph.num_users)
    found = model.score_rows(model.positives[users])
    for user in users:
        mine = [item for _, item in sorted((t, i) for one, i, t in rows if one == user)][-3:]
        weights = [(4 - n) / 3 for n in range(len(mine), 0, -1)]
        expected = sum((w * whole[i] for w, i in zip(weights, mine, strict=True)), np.zeros(size))
        np.testing.assert_allclose(found[user], expected, rtol=1e-4, atol=1e-6)


def test_a_last_session_is_what_comes_after_the_last_pause(world):
    config = BaselineConfig(**{**CONFIG, "session_last": 100})
    whole = recent_rows(world.timed, config, "vsknn", whole_history=True)
    last = recent_rows(world.timed, config, "vsknn", whole_history=False)
    rows = rows_of(world.timed)
    shorter = 0
    for user in range(world.timed.graph.num_users):
        mine = sorted((time, item) for one, item, time in rows if one == user)
        session = []
        for n, (time, item) in enumerate(mine):
            session = [*session, item] if n and time - mine[n - 1][0] <= GAP else [item]
        part = slice(last.indptr[user], last.indptr[user + 1])
        order = np.argsort(last.data[part])
        assert last.indices[part][order].tolist() == session
        assert whole.indptr[user + 1] - whole.indptr[user] == len(mine)
        shorter += len(session) < len(mine)
    assert shorter > 10


def test_vsknn_scores_each_users_last_session(world):
    config = BaselineConfig(**CONFIG)
    model = SessionRanker.fit(world.timed, config)
    users = np.arange(world.timed.graph.num_users)
    found = model.score_rows(model.positives[users])
    assert (found.max(1) > 0).sum() > 40
    for user in users[:10]:
        row = model.positives[[user]]
        session = row.indices[np.argsort(row.data)]
        assert np.array_equal(found[user], model.neighbours.scores(session))


@pytest.mark.parametrize("kind", ["session", "vsknn"])
def test_what_is_chosen_and_kept_ranks_the_same_when_it_is_opened(world, kind):
    """On a ring the next item is what comes next; popularity knows nothing of it."""
    dataset = world.timed
    held = dataset.held_out("valid")

    def hits(model):
        seen = dataset.rated_items(())
        _, items = model.best(held.users, seen, 3)
        return float((items == held.items.unsqueeze(1)).any(1).float().mean())

    model, chosen = fit_model(kind, dataset, BaselineConfig(session_last=1), score=hits)
    used = ["positives", "session_gap", "session_last"]
    used += ["neighbours"] if kind == "vsknn" else ["session_hops", "session_exponent"]
    assert "auto" not in {getattr(chosen, key) for key in used}
    popular, _ = fit_model("popularity", dataset, BaselineConfig())
    assert hits(model) > 2 * hits(popular)
    again = load_model(kind, model.state(), dataset, chosen)
    users = torch.arange(dataset.graph.num_users)
    for one, other in zip(
        model.best(users, dataset.rated_items(()), 5),
        again.best(users, dataset.rated_items(()), 5),
        strict=True,
    ):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="other training rows"):
        load_model(kind, {"degrees": model.state()["degrees"] + 1}, dataset, chosen)


@pytest.mark.parametrize("kind", ["session", "vsknn"])
def test_users_whose_times_are_not_known_have_lists_too(world, kind):
    model, _ = fit_model(kind, world.timed, BaselineConfig(**CONFIG))
    rows = np.zeros((2, world.timed.graph.num_items), dtype=np.float32)
    rows[0, [2, 3]] = 1
    scores = model.score_rows(sparse.csr_array(rows))
    assert scores[0].max() > 0 and not scores[1].any()


@pytest.mark.parametrize("kind", ["session", "vsknn"])
def test_data_without_timestamps_are_refused(world, kind):
    with pytest.raises(UsageError, match=f"kind = {kind} reads sessions, and .* no timestamps"):
        fit_model(kind, world.plain, BaselineConfig())


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"kind": "session"}},
        {"model": {"kind": "vsknn"}},
        {"model": {"time_decay": True}, "train": {"epochs": 1}},
    ],
    ids=["session", "vsknn", "decay"],
)
def test_a_run_says_when_its_data_set_lost_its_timestamps(world, tmp_path, values):
    train(world.timed, tmp_path / "run", build_settings(values))
    assert open_predictor(tmp_path / "run") is not None
    earlier = tmp_path / "earlier"  # as a version that kept no times would have prepared it
    shutil.copytree(world.timed.path, earlier)
    as_of_an_earlier_version(earlier, "times")
    with pytest.raises(DataError, match="no timestamps, which .*run was trained with"):
        open_predictor(tmp_path / "run", dataset=earlier)


@pytest.mark.parametrize("gap", [0, GAP])
def test_a_model_may_read_the_same_edges_both_ways(world, gap):
    kind, graph = DERIVED["next"], world.timed.graph
    edges = kind.build(graph, DerivedConfig(session_gap=gap))
    expected = next_items(graph, graph.times, gap or np.inf)
    assert (edges.matrix() != expected.matrix()).nnz == 0
    relation = kind.relation("next", edges)
    assert not relation.one_way and relation.num_edges == len(expected.weights)
    with pytest.raises(UsageError, match="relations = next: the data set has no timestamps"):
        kind.build(world.plain.graph, DerivedConfig())
