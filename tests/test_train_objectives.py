"""Losses of lists against numpy, negatives that are none, and what an epoch is judged by."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_biases import Ratings

from dglrec.blocks import Pool
from dglrec.nn import ListTerms
from dglrec.train import RankingConfig, TrainConfig
from dglrec.train.objectives import Metric, kinds, standard_error_of
from dglrec.train.objectives.kinds import BothObjective
from dglrec.train.objectives.negatives import KnownItems, PoolSampler, known_in
from dglrec.train.objectives.ranking import RankingLoss, Targets
from dglrec.train.state import Progress

CPU = torch.device("cpu")
NONE = torch.empty(0, dtype=torch.int64)


class Case:
    """Users, items and their terms; each user's first known item is its target."""

    def __init__(self, seed=0, users=12, items=30, edges=90):
        self.graph = Ratings(num_users=users, num_items=items, edges=edges, seed=seed).graph
        generator = torch.Generator().manual_seed(seed)
        count_users, count_items = self.graph.num_users, self.graph.num_items
        self.users = ListTerms(
            torch.randn(count_users, 5, generator=generator), torch.zeros(count_users)
        )
        self.items = ListTerms(
            torch.randn(count_items, 5, generator=generator),
            torch.randn(count_items, generator=generator),
        )
        by_user = self.graph.by_user
        active = np.flatnonzero(by_user.degrees)
        self.owners = torch.from_numpy(active)
        self.targets = torch.from_numpy(
            by_user.neighbours[by_user.offsets[active]].astype(np.int64)
        )

    def known(self, user):
        return set(self.graph.by_user.neighbours[self.graph.by_user.of(user)].tolist())

    def loss(self, given=None, **config):
        """Of the targets, with a pool that is given, or else drawn as the configuration says."""
        graph = self.graph
        config = RankingConfig(**config).resolved(
            graph.num_users, graph.num_items, graph.num_edges, every_item=True
        )
        pool = given
        if pool is None and config.negatives != "catalogue":
            draw = PoolSampler(config, graph, CPU, least=0.0)
            ones = torch.ones(len(self.targets))
            pool = draw(self.targets, ones, torch.Generator().manual_seed(0))
        every = torch.arange(graph.num_users)
        targets = Targets(every, self.owners, self.targets, NONE, NONE)
        return RankingLoss(config, KnownItems(graph, CPU))(self.users, self.items, targets, pool)

    def whole_pool(self):
        """Every item once, so that a target's negatives are all items it does not know."""
        every = torch.arange(self.graph.num_items)
        return Pool(every, every, torch.zeros(len(every)))

    def scores(self):
        factors, base = self.items
        return (self.users.factors @ factors.T + base).double().numpy()


def test_the_catalogues_softmax_is_numpys():
    case = Case()
    scores, expected = case.scores(), []
    for user, item in zip(case.owners.tolist(), case.targets.tolist(), strict=True):
        others = [i for i in range(case.graph.num_items) if i not in case.known(user)]
        total = np.logaddexp.reduce([*scores[user, others], scores[user, item]])
        expected.append(total - scores[user, item])
    np.testing.assert_allclose(case.loss(negatives="catalogue").numpy(), expected, atol=1e-5)


def test_a_disliked_target_is_a_negative():
    case = Case()
    user = int(case.owners[0])
    liked, disliked = sorted(case.known(user))[:2]
    config = RankingConfig(negatives="catalogue")
    loss = RankingLoss(config, KnownItems(case.graph, CPU))
    one = torch.tensor([user])
    every = torch.arange(case.graph.num_users)
    targets = Targets(every, one, torch.tensor([liked]), one, torch.tensor([disliked]))
    scores = case.scores()[user]
    others = [i for i in range(case.graph.num_items) if i not in case.known(user)]
    total = np.logaddexp.reduce(scores[[*others, liked, disliked]])
    assert float(loss(case.users, case.items, targets, None)) == pytest.approx(
        total - scores[liked], 1e-5
    )


def by_formula(case, loss, margin, hardest=None):
    """Each target's loss with numpy, of all items that its user does not know, or the hardest."""
    scores = case.scores()
    if loss == "cosine":
        users, items = (terms.factors.double().numpy() for terms in (case.users, case.items))
        lengths = np.linalg.norm(users, axis=1)[:, None] * np.linalg.norm(items, axis=1)
        scores = users @ items.T / lengths
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    found = []
    for user, item in zip(case.owners.tolist(), case.targets.tolist(), strict=True):
        others = [i for i in range(case.graph.num_items) if i not in case.known(user)]
        negatives = np.sort(scores[user, others])[::-1][:hardest]
        positive = scores[user, item]
        found.append(
            {
                # Rendle et al. 2009, the negative of ln sigmoid(x_ui - x_uj), averaged over j.
                "bpr": np.mean(-np.log(sigmoid(positive - negatives))),
                "bce": -np.log(sigmoid(positive)) + np.mean(-np.log(1 - sigmoid(negatives))),
                # Mao et al., "SimpleX", CIKM 2021, equation 1.
                "cosine": 1 - positive + np.mean(np.maximum(0, negatives - margin)),
            }[loss]
        )
    return np.array(found)


@pytest.mark.parametrize("loss", ["bpr", "bce", "cosine"])
def test_losses_of_few_negatives_are_numpys(loss):
    """With the hardest k of all items, which leave nothing to chance."""
    case, count = Case(seed=1), 4
    config = {"loss": loss, "normalised": loss == "cosine", "margin": 0.3}
    found = case.loss(
        case.whole_pool(), negatives="hard", negatives_a_target=count, **config
    ).numpy()
    expected = by_formula(case, loss, 0.3, hardest=count)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "bce", "cosine"])
def test_random_negatives_give_the_formula_on_average(loss):
    """Each draw is as likely as any other item that the user does not know: within 5 errors."""
    case, repeats = Case(seed=2), 400
    config = {"loss": loss, "normalised": loss == "cosine", "margin": 0.1}
    torch.manual_seed(0)
    found = np.array(
        [
            case.loss(
                case.whole_pool(), negatives="uniform", negatives_a_target=30, **config
            ).numpy()
            for _ in range(repeats)
        ]
    )
    errors = found.std(axis=0) / math.sqrt(repeats)
    away = np.abs(found.mean(axis=0) - by_formula(case, loss, 0.1))
    assert (away <= 5 * errors + 1e-6).all()
    assert (errors > 0).any()  # negatives are drawn, so that losses differ from time to time


@pytest.mark.parametrize(("negatives", "alpha"), [("uniform", 0.0), ("popularity", 0.75)])
def test_the_corrected_pool_estimates_the_catalogues_sum(negatives, alpha):
    """Mean over many pools of the sum of exp(score) / expected draws, within 4 standard errors."""
    case = Case(seed=2, edges=150)
    config = RankingConfig(negatives=negatives, alpha=alpha, pool=64)
    draw = PoolSampler(config, case.graph, CPU, least=0.0)
    scores, generator = case.scores()[0], torch.Generator().manual_seed(1)
    drawn = case.graph.by_item.degrees > 0 if alpha else np.ones(len(scores), dtype=bool)
    sums = []
    for _ in range(2000):
        pool = draw(NONE, torch.ones(0), generator)
        weights = pool.log_weights.double().numpy()
        sums.append(np.exp(scores[pool.items.numpy()] + weights).sum())
    error = np.std(sums) / math.sqrt(len(sums))
    assert abs(np.mean(sums) - np.exp(scores[drawn]).sum()) < 4 * error


@given(st.integers(0, 10_000), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_a_negative_is_never_known(seed, size):
    case = Case(seed=seed)
    pool = torch.randperm(case.graph.num_items)[:size].sort().values
    offsets, known = KnownItems(case.graph, CPU).of(case.owners)
    hidden = known_in(pool, offsets, known)
    for row, user in enumerate(case.owners.tolist()):
        expected = [item in case.known(user) for item in pool.tolist()]
        assert hidden[row].tolist() == expected


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "in_batch", "hard"])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_who_knows_every_item_learns_nothing_from_a_pool(negatives, loss):
    case = Case(users=3, items=4, edges=12)
    if negatives == "hard":
        loss = "bce"
    losses = case.loss(loss=loss, negatives=negatives, pool=16)
    if loss == "bce":  # of the positive alone
        scores = case.scores()[case.owners, case.targets]
        np.testing.assert_allclose(losses.numpy(), np.log1p(np.exp(-scores)), atol=1e-5)
    else:
        assert (losses == 0).all()


@pytest.mark.parametrize(
    ("users", "items", "edges", "negatives"),
    [
        (310_059, 16_872, 46_000_000, "catalogue"),  # the anime: 114 scores a rating
        (31_668, 38_048, 1_237_259, "catalogue"),  # Yelp2018: few in all
        (1_000_000, 16_872, 20_000_000, "uniform"),  # 844 a rating
        (1_000_000, 30_000, 10**9, "uniform"),  # too many in all
    ],
)
def test_the_catalogue_is_taken_where_it_can_be_paid_for(users, items, edges, negatives):
    given = RankingConfig()
    assert given.resolved(users, items, edges, every_item=True).negatives == negatives
    assert given.resolved(users, items, edges, every_item=False).negatives == "uniform"
    asked = RankingConfig(negatives="popularity")
    assert asked.resolved(users, items, edges, every_item=True) is asked


def test_catalogues_smaller_than_the_pool_are_fine():
    losses = Case().loss(negatives="uniform", pool=5000)
    assert losses.isfinite().all() and (losses > 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "bpr", "negatives": "catalogue"}, "take a pool"),
        ({"loss": "cosine"}, "normalised"),
        ({"loss": "softmax", "negatives": "hard"}, "bpr, bce or cosine"),
        ({"pool": 0}, "pool"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RankingConfig(**values)


def test_metrics_know_their_direction():
    lowest, highest = Metric("rmse", maximise=False), Metric("ndcg@10", maximise=True)
    assert lowest.is_better(0.5, None) and lowest.is_better(0.4, 0.5)
    assert not lowest.is_better(0.5, 0.5) and not lowest.is_better(math.nan, 0.5)
    assert highest.is_better(0.6, 0.5) and not highest.is_better(0.5, 0.5)
    assert not highest.is_better(math.inf, None)


# ---------------------------------------------------------------- ratings and lists at once


class Lists:
    """Stands for the lists' objective: what of it judges."""

    list_length = 10
    list_metric = "ndcg@10"
    metrics = (Metric("ndcg@10", maximise=True),)


BOTH = BothObjective(kinds.RatingObjective(torch.square), Lists(), 1.0)


def figures_of(rmse, ndcg, error=0.0):
    return {"rmse": rmse, "ndcg@10": ndcg, standard_error_of("ndcg@10"): error}


@pytest.mark.parametrize(
    ("rmse", "ndcg", "better"),
    [
        (0.9, 0.3, False),  # alike
        (0.9, 0.301, True),
        (0.899, 0.3, True),
        (0.9 * 1.01, 0.3 * 1.06, True),  # a percent of RMSE is worth five of the lists
        (0.9 * 1.01, 0.3 * 1.04, False),
        (0.9 * 0.99, 0.3 * 0.96, True),
        (0.9 * 0.99, 0.3 * 0.94, False),
    ],
)
def test_of_certain_lists_five_percent_are_worth_one_of_rmse(rmse, ndcg, better):
    assert BOTH.is_better(figures_of(rmse, ndcg), figures_of(0.9, 0.3)) is better


def test_the_share_of_a_gain_that_counts_follows_from_its_error(monkeypatch):
    """Gains with a spread of 3 %, measured with an error of 4 %: 9 / (9 + 16) of one is true."""
    monkeypatch.setattr(kinds, "_SPREAD_OF_EPOCHS", 0.03)
    error = 0.04 / math.sqrt(2)  # of each epoch's figure, whose mean is 1
    best = figures_of(0.9, 0.95, error)
    true = 0.1 * 9 / 25  # of the 10 % that are measured
    for loss, better in ((0.99, True), (1.01, False)):
        lost = loss * true / 5  # RMSE's share of its mean
        rmse = 0.9 * (1 + lost / 2) / (1 - lost / 2)
        assert BOTH.is_better(figures_of(rmse, 1.05, error), best) is better


def test_uncertain_lists_leave_the_choice_to_rmse():
    """As on Ciao: lists of one in fifty, known to 7 %, beside an RMSE that falls by 0.3 %."""
    best = figures_of(0.9474, 0.0191, 0.0013)
    assert BOTH.is_better(figures_of(0.9445, 0.0184, 0.0013), best)
    assert not BOTH.is_better(figures_of(0.9445, 0.0184), figures_of(0.9474, 0.0191))  # if certain


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0.1, 2), st.floats(0.1, 2))
def test_no_two_epochs_are_each_better_than_the_other(ndcg, other_ndcg, error, rmse, other_rmse):
    one, other = figures_of(rmse, ndcg, error), figures_of(other_rmse, other_ndcg, error)
    assert not (BOTH.is_better(one, other) and BOTH.is_better(other, one))
    assert not BOTH.is_better(one, one)
    if ndcg >= other_ndcg and rmse < other_rmse * (1 - 1e-9):
        assert BOTH.is_better(one, other)


def test_without_lists_to_judge_rmse_decides():
    assert BOTH.is_better({"rmse": 1.0}, None)
    assert BOTH.is_better({"rmse": 0.9}, {"rmse": 1.0})
    assert not BOTH.is_better({"rmse": 1.0}, {"rmse": 1.0})
    assert not BOTH.is_better({"rmse": math.nan}, None)


def test_patience_counts_from_the_last_record_of_any_figure():
    config = TrainConfig(epochs=99, patience=2)
    epochs = [
        # RMSE, NDCG, whether the epoch is the best, the last epoch with progress
        (1.00, 0.200, True, 1),
        (0.99, 0.180, False, 2),  # the lowest RMSE
        (1.10, 0.201, False, 3),  # the highest NDCG
        (0.995, 0.200, True, 4),  # no record, but the better of both together
        (1.00, 0.190, False, 4),
        (0.992, 0.195, False, 4),
    ]
    done = Progress()
    for number, (rmse, ndcg, best, progress) in enumerate(epochs, 1):
        assert done.goes_on(config)
        done.epoch = number
        assert done.judge_epoch(figures_of(rmse, ndcg), BOTH) is best
        assert done.progress_epoch == progress
    assert not done.goes_on(config)
    assert done.best_epoch == 4 and done.best == figures_of(0.995, 0.200)
    assert done.records == {"rmse": 0.99, "ndcg@10": 0.201}
