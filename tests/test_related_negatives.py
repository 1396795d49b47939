"""Hard negatives of PinSage: items that a user is somewhat related to, more from epoch to epoch."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import lines_of, same_run, train_one_epoch, without_times
from test_biases import Ratings
from test_train_objectives import CPU, NONE, Case

from dglrec.blocks import Pool
from dglrec.config import load_settings
from dglrec.dataset import prepare
from dglrec.derived import related_items
from dglrec.errors import UsageError
from dglrec.run import open_run
from dglrec.score import TopKOptions, score_top_k
from dglrec.train import RankingConfig, memory, train
from dglrec.train.objectives.negatives import KnownItems, RelatedSampler
from dglrec.train.objectives.ranking import FixedTargets, RankingLoss, Targets

BPR = {"loss": "bpr", "related_negatives": 3, "related_places": (1, 9)}


@pytest.fixture(scope="module")
def graph():
    return Ratings(num_users=10, num_items=16, edges=50, seed=2).graph


def known_of(graph, user):
    return set(graph.by_user.neighbours[graph.by_user.of(user)].tolist())


def exact_ranks(graph, user, restart):
    """Personalised PageRank of all items, by solving for it: [I]."""
    rated = np.zeros((graph.num_users, graph.num_items))
    owners = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    rated[owners, graph.by_user.neighbours] = 1.0
    to_items = rated / np.maximum(rated.sum(1, keepdims=True), 1)
    to_users = rated.T / np.maximum(rated.sum(0)[:, None], 1)
    start = np.eye(graph.num_users)[user] * restart
    # p = restart e + (1 - restart) p to_items to_users, over users.
    system = np.eye(graph.num_users) - (1 - restart) * to_items @ to_users
    return np.linalg.solve(system.T, start) @ to_items


@pytest.mark.parametrize("restart", [0.5, 0.1])
def test_places_are_those_of_personalised_pagerank(graph, restart):
    found = related_items(graph, first=1, last=99, hops=1 << 17, restart=restart)
    for user in range(graph.num_users):
        items = found.items[user, : found.counts[user]].tolist()
        ranks = exact_ranks(graph, user, restart)
        assert len(set(items)) == len(items)
        assert set(items) == set(np.flatnonzero(ranks > 0)) - known_of(graph, user)
        assert all(ranks[a] > ranks[b] - 0.005 for a, b in itertools.pairwise(items))


def test_places_are_cut_out_of_the_whole_ranking(graph):
    whole = related_items(graph, first=1, last=99, hops=60, seed=3)
    part = related_items(graph, first=3, last=5, hops=60, seed=3)
    assert part.items.shape == (graph.num_users, 3)
    for user, count in enumerate(whole.counts.tolist()):
        expected = whole.items[user, :count][2:5]
        assert part.items[user, : part.counts[user]].tolist() == expected.tolist()
    other = related_items(graph, first=1, last=99, hops=60, seed=4)
    assert (other.items != whole.items).any()


def test_threads_change_nothing(graph):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(related_items(graph, first=1, last=8, hops=1 << 13))
    finally:
        torch.set_num_threads(before)
    assert all((a == b).all() for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "wrong", [{"first": 0}, {"first": 9}, {"hops": 0}, {"restart": 1.5}, {"seed": -1}], ids=str
)
def test_arguments_out_of_range_are_refused(graph, wrong):
    with pytest.raises(ValueError, match="choose places from 1"):
        related_items(graph, **{"first": 2, "last": 8, **wrong})


def test_a_user_without_ratings_has_none():
    lonely = Ratings(num_users=4, num_items=3, edges=2, seed=0).graph
    found = related_items(lonely, first=1, last=3)
    assert not found.counts[lonely.by_user.degrees == 0].any()
    sampler = RelatedSampler(RankingConfig(**BPR), lonely, CPU)
    items, there = sampler.draw(torch.arange(4), 2)
    assert items.shape == (4, 2) and there[:, 0].tolist() == (found.counts > 0).tolist()


def test_draws_are_each_users_and_all_of_them_come(graph):
    sampler = RelatedSampler(RankingConfig(**BPR), graph, CPU)
    found = related_items(graph, first=1, last=9)
    items, there = sampler.draw(torch.arange(graph.num_users), 2_000)
    for user, count in enumerate(found.counts.tolist()):
        assert bool(there[user]) == (count > 0)
        if count:
            assert set(items[user].tolist()) == set(found.items[user, :count].tolist())


def test_the_curriculum_adds_one_an_epoch():
    config = RankingConfig(loss="bpr", related_negatives=3)
    assert [config.related_in(epoch) for epoch in range(6)] == [0, 1, 2, 3, 3, 3]
    late = RankingConfig(loss="bpr", related_negatives=2, related_from_epoch=4)
    assert [late.related_in(epoch) for epoch in range(6)] == [0, 0, 0, 1, 2, 2]
    assert RankingConfig().related_in(9) == 0


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_a_target_pays_for_related_items_too(loss):
    """By formula, of a pool of all items; in fixed shapes the same."""
    case = Case()
    config = RankingConfig(loss=loss, negatives="hard", negatives_a_target=30)
    of_users = torch.arange(case.graph.num_users)
    items = torch.stack((case.targets.roll(1), case.targets.roll(2)), dim=1)
    there = torch.ones(len(items), 1, dtype=torch.bool)
    there[3] = False
    ranked = RankingLoss(config, KnownItems(case.graph, CPU))
    targets = Targets(of_users, case.owners, case.targets, NONE, NONE, (items, there))
    found = ranked(case.users, case.items, targets, case.whole_pool())
    scores, expected = case.scores(), []
    for row, (user, item) in enumerate(zip(case.owners, case.targets, strict=True)):
        others = [i for i in range(case.graph.num_items) if i not in case.known(int(user))]
        others += items[row].tolist() if there[row] else []
        negatives, positive = scores[user, others], scores[user, item]
        expected.append(
            np.mean(np.log1p(np.exp(negatives - positive)))
            if loss == "bpr"
            else np.log1p(np.exp(-positive)) + np.mean(np.log1p(np.exp(negatives)))
        )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    pool = case.whole_pool()
    room = torch.tensor([case.graph.num_items])
    fixed = Pool(
        torch.cat((pool.items, room)),
        torch.cat((pool.rows, room - 1)),
        torch.cat((pool.log_weights, torch.tensor([-torch.inf]))),
        torch.tensor(len(pool.items)),
    )
    marks = torch.zeros(len(items), dtype=torch.bool)
    rated = KnownItems(case.graph, CPU).of(of_users)
    same = FixedTargets(case.owners, case.targets, marks, rated, (items, there))
    torch.testing.assert_close(ranked.of_fixed(case.users, case.items, same, fixed), found)


# ---------------------------------------------------------------- trained


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("related")
    rng = np.random.default_rng(0)
    rows = {(user, int(item)) for user in range(40) for item in rng.choice(30, 8, replace=False)}
    text = "".join(f"{user},{item}\n" for user, item in sorted(rows))
    (folder / "clicks.csv").write_text("user_id,item_id\n" + text)
    return prepare(folder / "clicks.csv", folder / "data")


def settings_of(*assignments):
    small = ["model.embedding_size=4", "train.epochs=4", "ranking.at=3", "loader.batch_size=100"]
    places = ["ranking.related_places=[2, 9]", "train.warmup_steps=2"]
    return load_settings(file=Path("pinsage"), assignments=[*small, *places, *assignments])


def test_the_preset_trains_scores_and_resumes_to_the_bit(dataset, tmp_path, monkeypatch):
    counts = []
    draw = RelatedSampler.draw
    monkeypatch.setattr(
        RelatedSampler, "draw", lambda self, u, count: counts.append(count) or draw(self, u, count)
    )
    train(dataset, tmp_path / "whole", settings_of())
    assert sorted(set(counts)) == [1, 2, 3]  # of epochs 2 to 4
    trained = open_run(tmp_path / "whole")
    assert trained.model.config.relations == ("visited_with",)
    score_top_k(trained, tmp_path / "out", 3, TopKOptions())
    train_one_epoch(monkeypatch, dataset, tmp_path / "run", settings_of())
    counts.clear()
    train(dataset, tmp_path / "run", settings_of(), resume=True)
    assert counts[0] == 1 and counts[-1] == 3
    assert same_run(tmp_path / "whole", tmp_path / "run")


def test_without_them_training_is_what_it_was(dataset, tmp_path):
    """They change nothing before their epoch."""
    for name, setting in (("off", "related_negatives=0"), ("late", "related_from_epoch=9")):
        train(dataset, tmp_path / name, settings_of("train.epochs=2", f"ranking.{setting}"))
    off, late = (without_times(lines_of(tmp_path / name)) for name in ("off", "late"))
    assert off == late


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["ranking.loss=softmax"], "related_negatives go with loss bpr, bce or cosine"),
        (["ranking.related_places=[9, 2]"], r"take \[2, 9\]"),
        (["loader.items=reached"], "related_negatives .*take loader.items all"),
        (["train.compile=true"], "train.compile = true: ranking.related_negatives"),
        (["ranking.related_places=[31, 40]"], "begins at 31, and there are 30 items"),
    ],
    ids=str,
)
def test_what_does_not_go_with_them_is_refused_with_exit_code_2(dataset, assignments, message):
    with pytest.raises(UsageError, match=message) as refused:
        settings_of(*assignments).resolved(dataset.graph, has_ratings=False)
    assert refused.value.exit_code == 2


def test_their_table_counts_as_memory(dataset):
    few, many = (
        settings_of(f"ranking.related_places=[1, {last}]").resolved(
            dataset.graph, has_ratings=False
        )
        for last in (2, 12)
    )
    assert memory._related_bytes(dataset.graph, few) == 4 * 40 * 2
    assert memory._related_bytes(dataset.graph, many) == 4 * 40 * 12
