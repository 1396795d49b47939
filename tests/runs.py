"""Small trainings, and how two runs are compared."""

import json
from pathlib import Path

import pytest
import torch

from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import PrepareOptions, prepare
from dglrec.nn import ModelConfig
from dglrec.run import BEST, LAST, METRICS_FILE, RESULTS_FILE
from dglrec.sampling import LoaderConfig
from dglrec.synthetic import synthesize
from dglrec.train import Settings, TrainConfig, train
from dglrec.train import loop as loop_module

BATCHES = 4  # in an epoch of the small data set


def planted(folder, users, items, ratings):
    synthesize(folder / "source", users=users, items=items, ratings=ratings, seed=1)
    return prepare(folder / "source", folder / "data", PrepareOptions(text=False))


def make_settings(model=None, loader=None, **fitting):
    return Settings(
        ModelConfig(**{"heads": "rating", "embedding_size": 4, "decoder_size": 4, **(model or {})}),
        LoaderConfig(
            **{
                "batch_size": 400,
                "folds": 4,
                "user_fanouts": (5, 5),
                "item_fanouts": (5, 5),
                **(loader or {}),
            }
        ),
        TrainConfig(
            **{"epochs": 4, "patience": 99, "learning_rate": 0.01, "warmup_steps": 2, **fitting}
        ),
    )


def train_one_epoch(monkeypatch, dataset, run, settings):
    """Train until the first epoch has ended, and be interrupted there."""
    whole_epoch = loop_module._end_epoch

    def stop(*arguments):
        whole_epoch(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "_end_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, run, settings)


def weights_of(run, which=LAST):
    return load_checkpoint(run / which).weights


def same_weights(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def lines_of(run):
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


def without_times(value):
    """Figures of a run, those of wall-clock times and of memory left out."""
    if isinstance(value, dict):
        return {
            key: without_times(v)
            for key, v in value.items()
            if "second" not in key and "memory" not in key
        }
    return [without_times(v) for v in value] if isinstance(value, list) else value


def same_run(run, other):
    """Weights to the last bit, and every figure."""
    for which in (LAST, BEST):
        assert same_weights(weights_of(run, which), weights_of(other, which))
    assert without_times(lines_of(run)) == without_times(lines_of(other))
    results = [json.loads((folder / RESULTS_FILE).read_text()) for folder in (run, other)]
    assert without_times(results[0]) == without_times(results[1])
    return True


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def pretended_training(seen):
    """A training whose figures follow from its settings, in no time; `seen` gets what it tried."""

    def fake(dataset, run, settings, *, device, after_epoch, report):
        del dataset, device
        assert tuple(report) == ("valid",)
        run.mkdir(parents=True)
        rate, size = settings.train.learning_rate, settings.model.embedding_size
        seen.append((int(run.name), size, rate, settings.model.layers))
        figures = {}
        for epoch in range(1, settings.train.epochs + 1):
            figures = {"rmse": abs(rate - 0.02) + 1 / size + 1 / epoch}
            if after_epoch(epoch, figures):
                break
        return {
            "epochs": epoch,
            "best_epoch": epoch,
            "training_seconds": 0.5,
            "valid": figures,
        }

    return fake
