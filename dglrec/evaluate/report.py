"""All that `dglrec evaluate` reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dglrec.dataset import TRAIN, HeldOut
from dglrec.distributed import World
from dglrec.errors import UsageError
from dglrec.evaluate.candidates import check_candidates, sampled_figures
from dglrec.evaluate.given import GivenRatings, NewUsers, deal
from dglrec.evaluate.groups import by_kind, details_of, parts_by_kind
from dglrec.evaluate.ranking import (
    DEFAULT_K,
    Best,
    RankingTargets,
    check_ranking,
    lengths_of,
    ranking_figures,
)
from dglrec.evaluate.rows import (
    Predict,
    baseline_predictors,
    check_split,
    grouped_sums,
    on_rows,
    predict_rows,
    rows_of,
    sums_of,
)
from dglrec.infer import Diverse, Diversity, cosines_by_layer, likeness_of
from dglrec.run import Predictor, TrainedModel

_SMALLEST_GAP = 1e-6  # of the baseline's squared error; smaller gaps are rounding errors


@dataclass(frozen=True)
class _Subject:
    """What is measured: a predictor and the baselines, on this process's share of some rows."""

    rows: HeldOut
    predict: Predict
    baselines: Mapping[str, Predict]
    figures: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate(
    trained: Predictor,
    split: str = "test",
    *,
    ranking: int | Sequence[int] | None = None,
    relevant_from: float | None = None,
    details: bool = False,
    given: int | None = None,
    candidates: int | None = None,
    seed: int = 0,
    diversity: Diversity | None = None,
) -> dict[str, Any]:
    """All that `dglrec evaluate` reports.

    The graph that the model reads contains the rows of `train`, so its figures on `train` are too
    good. A model that predicts no rating, and any model of interactions, has ranking metrics only.

    Args:
        trained: a run's model; in a world of several processes each measures a share, and all
            return the same result.
        split: `test`, `valid` or `train`.
        ranking: K, or several, for full-catalogue ranking metrics at each K. None for no ranking
            metrics, or for K = 10 where there are no predicted ratings to measure.
        relevant_from: the lowest rating of a relevant item; None for the mean training rating,
            rounded up to the scale. Every interaction is relevant.
        details: whether to report calibration and figures by activity, popularity and rating, and
            for a graph model how alike nodes are in each layer.
        given: the number of ratings of each user without training ratings that the model may read;
            only the other ratings of these users are predicted. None to predict all rows of the
            split without given ratings.
        candidates: the number of items to sample for each relevant item, which is then also ranked
            among these; None for no sampled metrics.
        seed: the seed of the given ratings and of the sampled items.
        diversity: how to make the ranked lists diverse; None for lists by score alone.

    Returns:
        `split`; for a model that predicts ratings, `rmse`, `mae`, `weighted_rmse`, `accuracy`, `n`
        and `baselines`; where there are such rows, `new_users`, `new_items`, `head_items` and
        `tail_items`; for planted data, `irreducible_rmse` and `gap_closed` (DESIGN, Terms); with
        ranking, the result of `ranking_figures` and, for ratings, `relevant_from`; with candidates,
        `sampled`; with details, `details`; with given, `given`, `users` and `users_left_out`; for a
        model that learned from more than training rows, `learned_from`, and for a model that reads
        more than it learned from, `history`. `notes` say what was left out.

    Raises:
        UsageError: there is no such split, it has no rows, the model has learned from these rows or
            reads them, they cannot be ranked, the split has no new user, or an option needs
            predicted ratings.
    """
    dataset, world = trained.dataset, trained.world
    is_rated = dataset.has_ratings
    predicts_ratings = is_rated and bool(getattr(trained, "rates", True))
    new, threshold, ks = None, 0.0, None if ranking is None else lengths_of(ranking)
    with world.together():
        check_split(split)
        if split != TRAIN:
            trained.check_unseen(split)
        # A graph model has details of its layers even if it predicts no ratings.
        layered = isinstance(trained, TrainedModel)
        if not predicts_ratings:
            _refuse_ratings(
                is_rated, details=details and not layered, given=given, relevant_from=relevant_from
            )
            ks = (DEFAULT_K,) if ks is None else ks
        if ks is None and candidates is not None:
            raise UsageError("--candidates goes with --ranking")
        if ks is None and diversity is not None:
            raise UsageError("--diverse goes with --ranking")
        if ks is None and relevant_from is not None:
            raise UsageError("--relevant-from goes with --ranking")
        if ks is not None and given is not None:
            raise UsageError("--given measures predicted ratings; leave out --ranking")
        if ks is not None:
            threshold = check_ranking(dataset, split, ks, relevant_from)
        if ks is not None and candidates is not None:
            check_candidates(dataset, candidates, ks, seed)
        if given is not None and not isinstance(trained, TrainedModel):
            raise UsageError("--given encodes new users, which needs a graph model, not a baseline")
        if given is not None:
            new = deal(dataset, split, given, seed)
    trained.prepare()  # before the rows are read: both take much memory
    result: dict[str, Any] = {"split": split} | ({} if given is None else {"given": given})
    if trained.learned_from != (TRAIN,):
        result["learned_from"] = list(trained.learned_from)
    if dataset.parts != trained.learned_from:
        result["history"] = list(dataset.parts)
    if predicts_ratings:
        with world.together():
            subject = _everybody(trained, split) if new is None else _newcomers(trained, new)
        result |= subject.figures
        result |= _measured(trained, subject, details=details)
        if subject.notes:
            result["notes"] = subject.notes
        del subject  # frees its rows before the ranking reads its rows
    else:
        result["n"] = dataset.meta["counts"][split]
    if details and isinstance(trained, TrainedModel):
        combined = trained.model.config.combination != "last"
        layers = cosines_by_layer(trained.embeddings.cosines, combined=combined)
        result.setdefault("details", {})["by_layer"] = layers
    if ks is not None:
        with world.together():
            targets = RankingTargets.of(dataset, split, threshold)
            best = None if diversity is None else diverse_best(trained, diversity)
        _merge(result, ranking_figures(trained, targets, ks, threshold, best))
        if diversity is not None:
            result["lists"] |= {"diverse": diversity.by, "diversity_weight": diversity.weight}
        if is_rated:
            result["relevant_from"] = threshold
        if candidates is not None:
            result["sampled"] = sampled_figures(trained, targets, ks, candidates, seed)
    return result


def diverse_best(trained: Predictor, diversity: Diversity) -> Best:
    """A ranker that makes diverse lists of a run's model; the contract of `Scorer.best`.

    Raises:
        UsageError: the data set or the model lacks the features that items are compared by.
    """
    vectors = trained.embeddings.nodes.items if isinstance(trained, TrainedModel) else None
    likeness = likeness_of(diversity.by, trained.dataset, vectors)
    return Diverse(trained.best, likeness, diversity.weight).best


def _refuse_ratings(
    is_rated: bool, *, details: bool, given: int | None, relevant_from: float | None
) -> None:
    """Refuse options that need predicted ratings.

    Raises:
        UsageError: such an option was given.
    """
    why = "the model predicts none" if is_rated else "a data set of interactions has none"
    asked = {
        "--details": details,
        "--given": given is not None,
        "--relevant-from": relevant_from is not None and not is_rated,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise UsageError(f"{option} needs ratings, and {why}; leave it out")


def _merge(result: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add figures to a result; nested figures of the same key are merged, lists are joined."""
    for key, value in more.items():
        if isinstance(value, Mapping) and key in result:
            _merge(result[key], value)
        elif isinstance(value, list) and key in result:
            result[key] = [*result[key], *value]
        else:
            result[key] = value


def _everybody(trained: Predictor, split: str) -> _Subject:
    """The model on all rows of a split."""
    rows = rows_of(trained.dataset, split, trained.world)
    return _Subject(rows, trained.predict, baseline_predictors(trained.dataset))


def _newcomers(trained: Predictor, new: NewUsers) -> _Subject:
    """The model on the rows of new users, with their given ratings."""
    assert isinstance(trained, TrainedModel)
    ratings = GivenRatings(trained, new)
    subject = _Subject(
        _share(new.rows, trained.world),
        ratings.predict,
        ratings.baselines,
        {"users": len(new.users), "users_left_out": new.left_out},
    )
    if new.known:
        subject.notes.append(f"users with training ratings, who are not measured: {new.known:,}")
    return subject


def _share(rows: HeldOut, world: World) -> HeldOut:
    part = slice(*world.share_of(len(rows)))
    expected = None if rows.expected is None else rows.expected[part]
    times = None if rows.times is None else rows.times[part]
    return HeldOut(rows.users[part], rows.items[part], rows.ratings[part], expected, times)


def _measured(trained: Predictor, subject: _Subject, *, details: bool) -> dict[str, Any]:
    """Figures of predicted ratings, beside the baselines' and by groups of rows."""
    dataset, world, rows = trained.dataset, trained.world, subject.rows
    predictions = predict_rows(subject.predict, rows, world)
    bias = on_rows(subject.baselines["bias"], rows)
    kinds = by_kind(dataset.graph, rows)
    total, (of_model,) = grouped_sums(predictions.__getitem__, rows, dataset, [kinds], world)
    bias_total, (of_bias,) = grouped_sums(bias, rows, dataset, [kinds], world)
    result: dict[str, Any] = total.finish()
    result["baselines"] = {
        name: (
            bias_total if name == "bias" else sums_of(on_rows(predict, rows), rows, dataset, world)
        ).finish()
        for name, predict in subject.baselines.items()
    }
    result |= parts_by_kind(of_model, of_bias)
    if rows.expected is not None:
        irreducible = sums_of(rows.expected.__getitem__, rows, dataset, world).finish()["rmse"]
        result["irreducible_rmse"] = irreducible
        squared = result["baselines"]["bias"]["rmse"] ** 2
        if squared - irreducible**2 > _SMALLEST_GAP * squared:
            result["gap_closed"] = (squared - result["rmse"] ** 2) / (squared - irreducible**2)
        else:
            subject.notes.append(
                "gap_closed: left out, as the bias baseline's rmse is not above the irreducible one"
            )
    only = _only_rating(rows, world)
    if only is not None:
        subject.notes.append(
            f"every rating is {only:g}: these rows cannot show whether good and bad are told apart"
        )
    if details:
        result["details"] = details_of(predictions, bias, rows, dataset, world, subject.notes)
    return result


def _only_rating(rows: HeldOut, world: World) -> float | None:
    """The rating that all rows of all processes have; None where ratings differ."""
    ends = torch.empty(0)
    if len(rows):
        ends = torch.stack((rows.ratings.min(), rows.ratings.max()))
    ends = torch.cat(world.gather_parts(ends))
    return float(ends[0]) if bool((ends == ends[0]).all()) else None
