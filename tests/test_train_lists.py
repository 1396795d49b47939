"""Training of lists: planted leaks, going on after a stop, and what a run says of its lists."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import make_settings, planted, same_run

from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.nn import score_lists
from dglrec.run import ITEM_ITEMS, new_model, open_run
from dglrec.sampling import UserBatchLoader
from dglrec.train import RankingConfig, TrainingStep, train
from dglrec.train.objectives.kinds import RankingObjective

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"), users=300, items=60, ratings=9_000)


def settings_of(heads, loader=None, **fitting):
    return make_settings({"heads": heads, "embedding_size": 8}, loader, **fitting)


@pytest.mark.parametrize("stopped_after", [1, 4, 7])
def test_a_stopped_training_of_both_goes_on_to_the_bit(
    dataset, tmp_path, monkeypatch, stopped_after
):
    settings = settings_of("both", {"batch_size": 2_000}, epochs=2, checkpoint_steps=1)
    train(dataset, tmp_path / "whole", settings)
    original, taken = TrainingStep._update, []

    def update(step, targets):
        if len(taken) == stopped_after:
            raise KeyboardInterrupt
        taken.append(targets)
        original(step, targets)

    monkeypatch.setattr(TrainingStep, "_update", update)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", settings)
    monkeypatch.undo()
    train(dataset, tmp_path / "run", settings, resume=True)
    assert same_run(tmp_path / "run", tmp_path / "whole")
    pair = [open_run(tmp_path / name) for name in ("run", "whole")]
    figures = [evaluate(one, "test", ranking=5) for one in pair]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("exclude", [True, False])
def test_a_target_has_no_part_in_its_own_score(dataset, exclude):
    """A user's vector sums vectors of the items it rated; that of the target is not among them."""
    graph = dataset.graph
    loader = {"exclude_targets": exclude, "unseen_items": 0.0, "user_fanouts": (-1, -1)}
    settings = settings_of("lists", loader).resolved(graph)
    model = new_model(settings.model, dataset).eval()
    head = model.list_head
    batches = UserBatchLoader(graph, dataset.biases, settings.loader, seed=0)
    leaks = []
    for batch in itertools.islice(batches, 2):
        encoded = model.encode(batch)
        scores = score_lists(encoded.users, encoded.items, batch.users, batch.items)
        for item in batch.items.unique().tolist()[:20]:
            of_item = scores[batch.items == item].sum()
            for table in (head.rated, head.weighed):
                (gradient,) = torch.autograd.grad(of_item, table.weight, retain_graph=True)
                leaks.append(bool(gradient[item].any()))
    assert len(leaks) >= 40
    assert not any(leaks) if exclude else all(leaks)


def test_item_weights_belong_to_the_model_they_were_made_for(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, settings_of("both", epochs=1))
    had_weights = (run / ITEM_ITEMS).is_dir()
    train(dataset, run, settings_of("rating", epochs=1), overwrite=True)
    assert had_weights and not (run / ITEM_ITEMS).exists()
    assert open_run(run).item_weights is None
    with pytest.raises(UsageError, match="rating head"):
        train(dataset, run, settings_of("lists", epochs=1), overwrite=True)
        open_run(run).ordered_by("rating")


def test_lists_need_all_items_and_a_positive(dataset, tmp_path):
    with pytest.raises(UsageError, match="kind users or full"):
        train(dataset, tmp_path / "run", settings_of("both", {"kind": "neighbor"}))
    settings = settings_of("lists")
    settings = replace(settings, ranking=RankingConfig(positives_from=11.0))
    with pytest.raises(UsageError, match="no training rating is as high"):
        train(dataset, tmp_path / "run", settings)


def test_positives_may_count_by_their_rating(dataset):
    """The sum of each level's losses times its weight, 1 on average over the training ratings."""
    torch.manual_seed(0)
    model = new_model(settings_of("lists").model, dataset).eval()
    settings = settings_of("lists").resolved(dataset.graph)
    batch = next(iter(UserBatchLoader(dataset.graph, dataset.biases, settings.loader, seed=0)))
    common = {"negatives": "catalogue", "positives_from": "all", "l2": 0.0}
    equal, by_rating = (
        RankingObjective(RankingConfig(positive_weights=how, **common), dataset, CPU)
        for how in ("equal", "rating")
    )
    encoded = model.encode(batch)
    expected, counted = 0.0, 0.0
    scale = dataset.scale
    codes = np.asarray(dataset.graph.by_user.codes)
    mean = (codes + 1).mean()
    for code in range(scale.levels):
        chosen = batch.ratings == scale.minimum + code * scale.step
        part = replace(
            batch,
            **{
                name: getattr(batch, name)[chosen]
                for name in ("users", "items", "ratings", "baselines", "edges")
            },
        )
        expected += float(equal.costs(model, encoded, part).total.detach()) * (code + 1) / mean
        counted += float(chosen.sum())
    found = by_rating.costs(model, encoded, batch)
    assert counted == len(batch.ratings)
    assert float(found.total) == pytest.approx(expected, rel=1e-5)
    assert float(found.total) != pytest.approx(float(equal.costs(model, encoded, batch).total))


def test_interactions_have_no_rating_to_be_weighed_by(tmp_path):
    planted(tmp_path / "rated", users=30, items=20, ratings=300)
    options = PrepareOptions(text=False, interactions_from=6)
    clicks = prepare(tmp_path / "rated" / "source", tmp_path / "clicks", options)
    settings = replace(settings_of("lists"), ranking=RankingConfig(positive_weights="rating"))
    with pytest.raises(UsageError, match="positive_weights = rating: the data set holds inter"):
        train(clicks, tmp_path / "run", settings)
