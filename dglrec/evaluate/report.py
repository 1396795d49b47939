"""All that `dglrec evaluate` reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dglrec.dataset import HeldOut
from dglrec.distributed import World
from dglrec.errors import UsageError
from dglrec.evaluate.given import GivenRatings, NewUsers, deal
from dglrec.evaluate.groups import by_kind, details_of, parts_by_kind
from dglrec.evaluate.ranking import check_ranking, ranking_figures
from dglrec.evaluate.rows import (
    Predict,
    baseline_predictors,
    grouped_sums,
    on_rows,
    predict_rows,
    rows_of,
    sums_of,
)
from dglrec.run import Predictor, TrainedModel

_SMALLEST_GAP = 1e-6  # of the baseline's squared error; what is smaller is rounding


@dataclass(frozen=True)
class _Subject:
    """What is measured: whatever predicts, beside others, on this process's share of some rows."""

    rows: HeldOut
    predict: Predict
    baselines: Mapping[str, Predict]
    figures: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate(
    trained: Predictor,
    split: str = "test",
    *,
    ranking: int | None = None,
    relevant_from: float | None = None,
    details: bool = False,
    given: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All that `dglrec evaluate` reports.

    Rows of `train` are in the graph that the model reads, so its figures there are flattered.

    Args:
        trained: a run's model; of a world of several processes each measures a share, and all come
            to the same result.
        split: `test`, `valid` or `train`.
        ranking: K, for full-catalogue ranking metrics at K as well.
        relevant_from: the least rating of a relevant item; None for the mean training rating,
            rounded up to the scale.
        details: whether to report calibration, and figures by activity, popularity and rating.
        given: how many ratings of each user without training ratings the model may look at; the
            others are predicted, and no other user's. None for predicting all rows without.
        seed: of the choice of what is given.

    Returns:
        `rmse`, `mae`, `weighted_rmse`, `accuracy`, `n`, `split`, `baselines`; where there are such
        rows, `new_users`, `new_items`, `head_items` and `tail_items`; where the data came with a
        truth, `irreducible_rmse` and `gap_closed` (DESIGN, Terms); with ranking, `recall@K`,
        `ndcg@K`, `hit_rate@K`, `ranking_users` and `relevant_from`; with details, `details`; with
        given, `given`, `users` and `users_left_out`. `notes` name what was left out.

    Raises:
        UsageError: there is no such split, ranking is not possible on it, or nobody in it is new.
    """
    dataset, world = trained.dataset, trained.world
    new = None
    with world.together():
        if ranking is not None and given is not None:
            raise UsageError("--given measures predicted ratings; leave out --ranking")
        if ranking is not None:
            relevant_from = check_ranking(dataset, split, ranking, relevant_from)
        if given is not None and not isinstance(trained, TrainedModel):
            raise UsageError("--given encodes new users, which needs a graph model, no baseline")
        if given is not None:
            new = deal(dataset, split, given, seed)
    trained.prepare()  # before the rows are there: each takes much memory
    with world.together():
        subject = _everybody(trained, split) if new is None else _newcomers(trained, new)
    result: dict[str, Any] = {"split": split} | ({} if given is None else {"given": given})
    result |= subject.figures
    result |= _measured(trained, subject, details=details)
    if ranking is not None and relevant_from is not None:
        ranked = ranking_figures(trained, split, ranking, relevant_from)
        result |= ranked.figures
        result["baselines"] |= ranked.baselines
    if subject.notes:
        result["notes"] = subject.notes
    return result


def _everybody(trained: Predictor, split: str) -> _Subject:
    """The model on all rows of a split."""
    rows = rows_of(trained.dataset, split, trained.world)
    return _Subject(rows, trained.predict, baseline_predictors(trained.dataset))


def _newcomers(trained: Predictor, new: NewUsers) -> _Subject:
    """The model on rows of new users, knowing what is given of them."""
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
    return HeldOut(rows.users[part], rows.items[part], rows.ratings[part], expected)


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
    """The rating that all rows of all processes have, where they have but one."""
    ends = torch.empty(0)
    if len(rows):
        ends = torch.stack((rows.ratings.min(), rows.ratings.max()))
    ends = torch.cat(world.gather_parts(ends))
    return float(ends[0]) if bool((ends == ends[0]).all()) else None
