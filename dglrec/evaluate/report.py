"""All that `dglrec evaluate` reports."""

from typing import Any

from dglrec.evaluate.ranking import check_ranking, ranking_figures
from dglrec.evaluate.rows import baselines, measure, rows_of, sums_of
from dglrec.run import TrainedModel


def evaluate(
    trained: TrainedModel,
    split: str = "test",
    *,
    ranking: int | None = None,
    relevant_from: float | None = None,
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

    Returns:
        `rmse`, `mae`, `weighted_rmse`, `accuracy`, `n`, `split`, `baselines`; where the data came
        with a truth, `irreducible_rmse` and `gap_closed` (DESIGN, Terms); with ranking,
        `recall@K`, `ndcg@K`, `hit_rate@K`, `ranking_users` and `relevant_from`.

    Raises:
        UsageError: there is no such split, or ranking is not possible on it.
    """
    dataset, world = trained.dataset, trained.world
    with world.together():
        if ranking is not None:
            relevant_from = check_ranking(dataset, split, ranking, relevant_from)
    embeddings = trained.embeddings  # before the rows are there: each takes much memory
    with world.together():
        rows = rows_of(dataset, split, world)
    result: dict[str, Any] = {"split": split}
    result |= measure(trained.model, embeddings, dataset, rows, world).finish()
    result["baselines"] = baselines(dataset, rows, world)
    if rows.expected is not None:
        irreducible = sums_of(rows.expected.__getitem__, rows, dataset, world).finish()["rmse"]
        bias = result["baselines"]["bias"]["rmse"]
        result["irreducible_rmse"] = irreducible
        result["gap_closed"] = (bias**2 - result["rmse"] ** 2) / (bias**2 - irreducible**2)
    if ranking is not None and relevant_from is not None:
        result |= ranking_figures(trained, split, ranking, relevant_from)
    return result
