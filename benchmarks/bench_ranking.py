"""Recall@20 and NDCG@20 on test rows against seconds of training: ours beside peers.

    python benchmarks/bench_ranking.py --data DATASET --minutes 20 --reach 0.064 \
        --json benchmarks/results/ranking.json

Each model is trained with each of its settings in a process of its own, for some minutes of
training. All lists are made and measured by `dglrec.evaluate.rank_lists`, off the clock. What a
model has after S seconds is its figure on test rows where its figure on validation rows was best
until then, and its setting is the one with the best validation figure at the end. Ours is also
stopped by its own schedule, which ends after the epochs of its preset.
"""

import argparse
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import ChildError, Row, child_main, print_table, run_child, say, write_results

K = 20
SPLITS = ("valid", "test")
METRIC = f"recall@{K}"
MOMENTS = (60, 300, 900, 1200)
"""Seconds of training at which the summary looks."""

OURS = ("lightgcn_softmax", "lightgcn")
# The best after a few minutes comes first, so that `--settings 1` is what a long comparison needs.
SETTINGS: dict[str, tuple[Row, ...]] = {
    **{preset: ({},) for preset in OURS},
    "pyg": (
        {"batch": 32768, "learning_rate": 2e-2},
        {"batch": 32768, "learning_rate": 5e-3},
        {"batch": 8192, "learning_rate": 5e-3},
    ),
    "cornac": (
        {"batch": 32768, "learning_rate": 2e-2},
        {"batch": 32768, "learning_rate": 5e-3},
        {"batch": 8192, "learning_rate": 5e-3},
    ),
    "implicit_bpr": (
        {"regularization": 0.01, "learning_rate": 0.05},
        {"regularization": 1e-3, "learning_rate": 0.05},
        {"regularization": 1e-4, "learning_rate": 0.05},
    ),
    "implicit_als": (
        {"regularization": 1.0, "alpha": 40.0},
        {"regularization": 1.0, "alpha": 10.0},
        {"regularization": 10.0, "alpha": 40.0},
    ),
}
PACKAGES = {
    "pyg": "torch_geometric",
    "cornac": "cornac",
    "implicit_bpr": "implicit",
    "implicit_als": "implicit",
}
IMPORTS = {
    "pyg": "torch_geometric.nn.models",
    "cornac": "cornac.models",
    "implicit_bpr": "implicit.cpu.bpr",
    "implicit_als": "implicit.cpu.als",
}
"""What is imported before the clock starts."""
# Peers at their best: OpenMP threads that spin between regions; no BLAS threads below implicit's.
ENVIRONMENT = {
    "pyg": {"OMP_WAIT_POLICY": "active"},
    "cornac": {"OMP_WAIT_POLICY": "active"},
    "implicit_bpr": {"OPENBLAS_NUM_THREADS": "1"},
    "implicit_als": {"OPENBLAS_NUM_THREADS": "1"},
}
COLUMNS = (
    "model",
    "setting",
    "epochs",
    "seconds",
    "pairs_per_second",
    *(f"after_{moment}" for moment in MOMENTS),
    METRIC,
    f"ndcg@{K}",
    "seconds_to_reach",
    "share_of_limit",
    "training_memory_gb",
    "best",
)


class Judge:
    """Measures lists on validation and test rows, as `dglrec evaluate` does."""

    def __init__(self, dataset: Any, relevant_from: float | None) -> None:
        from dglrec.evaluate import RankingTargets
        from dglrec.evaluate.ranking import check_ranking

        self.targets = {}
        for split in SPLITS:
            level = check_ranking(dataset, split, [K], relevant_from)
            self.targets[split] = RankingTargets.of(dataset, split, level)

    def figures(self, best: Any) -> Row:
        """Recall and NDCG of a `best` function, by `SPLIT_METRIC`."""
        from dglrec.evaluate import rank_lists

        found: Row = {}
        for split, targets in self.targets.items():
            measured = rank_lists(best, targets, [K]).finish()
            names = (METRIC, f"ndcg@{K}")
            found |= {f"{split}_{name}": round(measured[name], 5) for name in names}
        return found


def best_of_vectors(users: Any, items: Any) -> Any:
    """The `best` function of a model whose scores are dot products of [U, F] and [I, F]."""
    import torch

    from dglrec.infer import ListScorer
    from dglrec.nn.lists import ListTerms

    def terms(vectors: Any) -> ListTerms:
        factors = torch.tensor(vectors, dtype=torch.float32)  # a copy: training goes on with these
        return ListTerms(factors, torch.zeros(len(factors)))

    return ListScorer(terms(users), terms(items)).best


class Stopwatch:
    """Counts a peer's seconds of training, and stops them to measure.

    Args:
        measure: vectors of users and items -> figures.
        limit: seconds of training.
        every: seconds of training between measurements, at least.
        now: the clock.
    """

    def __init__(
        self,
        measure: Callable[[Any, Any], Row],
        limit: float,
        every: float,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._measure, self._limit, self._every, self._now = measure, limit, every, now
        self.curve: list[Row] = []
        self.seconds, self.pairs, self._measured = 0.0, 0, 0.0
        self.memory_gb = 0.0
        self._started = now()

    def start(self) -> None:
        """Training begins now; what came before was preparation."""
        self._started = self._now()

    def report(self, pairs: int, vectors: Callable[[], Any]) -> bool:
        """Note a stretch of training, measure if it is time; whether training is over."""
        self.seconds += self._now() - self._started
        self.pairs += pairs
        over = self.seconds >= self._limit
        if over or self.seconds - self._measured >= self._every:
            self.memory_gb = self.memory_gb or peak_memory_gb()
            figures = self._measure(*vectors())
            self.curve.append({"seconds": round(self.seconds, 2), "pairs": self.pairs, **figures})
            self._measured = self.seconds
        self._started = self._now()
        return over


def peak_memory_gb() -> float:
    """This process's largest resident set so far, in 1e9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def train_peer(
    dataset: str,
    model: str,
    setting: Row,
    seconds: float,
    every: float,
    relevant_from: float | None,
    seed: int,
) -> Row:
    """In a child: train a peer with one setting.

    The clock begins after the imports. Preparing its graph counts as training: it is what a
    user of the library waits for as well.
    """
    import numpy as np
    import peers.lists as trainers

    from dglrec.dataset import RatingDataset

    opened = RatingDataset.open(Path(dataset))
    graph = opened.graph
    users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    items = np.asarray(graph.by_user.neighbours, dtype=np.int64)
    pairs = trainers.Pairs(users, items, graph.num_users, graph.num_items)
    judge = Judge(opened, relevant_from)
    watch = Stopwatch(lambda *v: judge.figures(best_of_vectors(*v)), seconds, every)
    trainer = getattr(trainers, f"train_{model}")
    importlib.import_module(IMPORTS[model])
    watch.start()
    trainer(pairs, watch.report, **setting, seed=seed)
    steps = -(-len(users) // setting["batch"]) if "batch" in setting else None
    return {
        **summary(watch.curve, watch.seconds, watch.pairs, len(users)),
        "training_memory_gb": watch.memory_gb,
        **propagation(steps, len(users), layers=trainers.LAYERS, width=trainers.WIDTH),
    }


def train_ours(
    dataset: str,
    model: str,
    setting: Row,
    seconds: float,
    every: float,
    relevant_from: float | None,
    seed: int,
    assignments: list[str],
) -> Row:
    """In a child: `dglrec.train.train` with a preset, each epoch's weights kept and measured later.

    `seconds` of `metrics.jsonl` are those of training, without validation. When they pass the
    limit, training is interrupted as a user would. What comes before the first epoch (weights,
    spectral start) is added: until the configuration is written, which follows it.
    """
    del every  # an epoch is the unit
    from dglrec.checkpoint import load_checkpoint, older_checkpoints
    from dglrec.config import load_settings
    from dglrec.dataset import RatingDataset
    from dglrec.infer import ListScorer, embed_all
    from dglrec.run import CONFIG_FILE, LAST, METRICS_FILE, build_model
    from dglrec.train import make_loader, train

    opened = RatingDataset.open(Path(dataset))
    given = [*assignments, f"train.seed={seed}"]
    epochs = load_settings(file=Path(model), assignments=given).train.epochs
    # One more than the epochs: where training is interrupted, there is one within an epoch too.
    given += [f"train.keep_checkpoints={epochs + 1}", "train.checkpoint_seconds=0"]
    settings = load_settings(file=Path(model), assignments=given)
    settings = settings.resolved(opened.graph)
    del setting
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        done = threading.Event()
        watcher = threading.Thread(
            target=interrupt_after, args=(run / METRICS_FILE, seconds, done), daemon=True
        )
        watcher.start()
        started = time.time()
        try:
            train(opened, run, settings)
        except KeyboardInterrupt:
            say(f"{model}: interrupted after {seconds:.0f} s of training")
        finally:
            done.set()
            watcher.join()
        memory = peak_memory_gb()
        preparation = (run / CONFIG_FILE).stat().st_mtime - started
        lines = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
        judge, curve = Judge(opened, relevant_from), []
        seconds_of = {line["epoch"]: round(preparation + line["seconds"], 2) for line in lines}
        for folder in sorted([run / LAST, *older_checkpoints(run / LAST)]):
            checkpoint = load_checkpoint(folder)
            epoch = checkpoint.meta["epoch"]
            if checkpoint.meta.get("valid") is None:
                continue  # within an epoch
            weights = build_model(checkpoint.meta, opened, run).eval()
            weights.load_state_dict(checkpoint.weights)
            lists = embed_all(weights, opened.graph, opened.biases).lists
            figures = judge.figures(ListScorer(*lists).best)
            pairs = epoch * opened.graph.num_edges
            curve.append({"seconds": seconds_of[epoch], "pairs": pairs, **figures})
    curve.sort(key=lambda point: point["seconds"])
    loader = make_loader(
        opened.graph,
        opened.biases,
        settings.loader,
        seed,
        next(weights.parameters()).device,
        layers=settings.model.layers,
    )
    return {
        **summary(curve, curve[-1]["seconds"], curve[-1]["pairs"], opened.graph.num_edges),
        "training_memory_gb": memory,
        "preparation_seconds": round(preparation, 2),
        "settings": settings.to_dict(),
        **propagation(
            len(loader),
            opened.graph.num_edges,
            layers=settings.model.layers,
            width=settings.model.embedding_size,
        ),
    }


def interrupt_after(metrics: Path, seconds: float, done: threading.Event) -> None:
    """Send this process SIGINT once an epoch of `metrics.jsonl` ends after so many seconds."""
    while not done.wait(0.2):
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        if lines and json.loads(lines[-1])["seconds"] >= seconds:
            if not done.is_set():
                os.kill(os.getpid(), signal.SIGINT)
            return


def summary(curve: list[Row], seconds: float, pairs: int, num_pairs: int) -> Row:
    """What was trained, and the curve."""
    return {
        "seconds": round(seconds, 2),
        "epochs": round(pairs / num_pairs, 2),
        "pairs_per_second": round(pairs / seconds),
        "pairs": num_pairs,
        "curve": curve,
    }


def propagation(steps: int | None, pairs: int, *, layers: int, width: int) -> Row:
    """Operations and bytes of an epoch's sparse products, the least that such a model does.

    Each step and layer multiplies the [U + I, U + I] adjacency, of two entries a pair, with a
    table of [U + I, width], and with its gradient: a multiply-add and a float's fetch each.
    """
    if steps is None:
        return {}
    products = 2 * layers * steps * 2 * pairs * width
    return {"steps": steps, "flop_per_epoch": 2 * products, "bytes_per_epoch": 4 * products}


def best_until(curve: list[Row], seconds: float) -> Row | None:
    """Of the measurements in the first seconds, the one best on validation rows."""
    seen = [point for point in curve if point["seconds"] <= seconds]
    return max(seen, key=lambda point: point[f"valid_{METRIC}"], default=None)


def judge_row(row: Row, reach: float | None, rates: Row) -> Row:
    """Add what a row's curve says at each moment and at its end, and its share of the limit."""
    curve, found = row["curve"], dict(row)
    for moment in MOMENTS:
        point = best_until(curve, moment) if moment <= row["seconds"] + 1 else None
        found[f"after_{moment}"] = point[f"test_{METRIC}"] if point else None
    last = best_until(curve, float("inf"))
    assert last is not None
    for name in (METRIC, f"ndcg@{K}"):
        found[name] = last[f"test_{name}"]
    found["valid"], found["seconds_of_best"] = last[f"valid_{METRIC}"], last["seconds"]
    reached = None
    if reach is not None:
        times = (point["seconds"] for point in curve)
        reached = next((s for s in times if best_until(curve, s)[f"test_{METRIC}"] >= reach), None)
    found["seconds_to_reach"] = reached
    if "flop_per_epoch" in row:
        arithmetic = row["flop_per_epoch"] / rates["gflop_per_second"] / 1e9
        memory = row["bytes_per_epoch"] / rates["fetched_gb_per_second"] / 1e9
        found["limit_seconds_per_epoch"] = round(max(arithmetic, memory), 3)
        epoch = row["pairs"] / row["pairs_per_second"]
        found["share_of_limit"] = round(max(arithmetic, memory) / epoch, 3)
    return found


def mark_best(rows: list[Row]) -> None:
    """Mark each model's setting with the best figure on validation rows."""
    for row in rows:
        others = [other["valid"] for other in rows if other["model"] == row["model"]]
        row["best"] = row["valid"] == max(others)


def unusable(model: str) -> str | None:
    """Why a model cannot be measured here, or None."""
    package = PACKAGES.get(model)
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return None


def chosen_models(names: str) -> Iterator[str]:
    """The models of a list with commas; `ours` stands for both presets.

    Raises:
        SystemExit: there is no such model.
    """
    for name in names.split(","):
        for model in OURS if name == "ours" else (name,):
            if model not in SETTINGS:
                raise SystemExit(f"--models {name}: choose of ours, {', '.join(SETTINGS)}")
            if reason := unusable(model):
                say(f"{model} is left out: {reason}")
            else:
                yield model


def measured(arguments: argparse.Namespace, rates: Row) -> Iterator[Row]:
    """The rows, as they are measured; a failed process is said and fails the whole at the end."""
    for model in chosen_models(arguments.models):
        for setting in SETTINGS[model][: arguments.settings]:
            name = ", ".join(f"{key} {value:g}" for key, value in setting.items()) or "preset"
            job: Row = {
                "do": "ours" if model in OURS else "peer",
                "dataset": str(arguments.data),
                "model": model,
                "setting": setting,
                "seconds": 60 * arguments.minutes,
                "every": arguments.every,
                "relevant_from": arguments.relevant_from,
                "seed": arguments.seed,
            }
            if model in OURS:
                job["assignments"] = arguments.set
            say(f"{model} ({name})")
            figures = run_child(__file__, job, environment=ENVIRONMENT.get(model))
            row = judge_row(figures, arguments.reach, rates)
            yield {"model": model, "setting": name, **row}


def main() -> None:
    """Measure, mark, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared data set")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each row")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between measurements")
    parser.add_argument(
        "--models", default="ours,pyg,cornac,implicit_bpr,implicit_als", help="with commas"
    )
    parser.add_argument("--settings", type=int, help="the first so many of each model; all")
    parser.add_argument("--reach", type=float, help=f"{METRIC} whose time is looked for")
    parser.add_argument("--relevant-from", type=float, help="the least rating of a relevant item")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    floor = Path(__file__).with_name("floor.py")
    rates = run_child(floor, {"do": "rates", "repeats": 21, "device": "cpu"})
    del rates["peak_memory_gb"]
    rows: list[Row] = []
    failed = None
    try:
        for row in measured(arguments, rates):
            rows.append(row)
    except ChildError as error:
        failed = error
    finally:
        # An interrupted comparison keeps what it has.
        mark_best(rows)
        print_table(f"{METRIC} on test rows", COLUMNS, rows)
        write_results(arguments.json, rows, rates=rates)
    if failed is not None:
        raise SystemExit(f"the last model {failed}")


if __name__ == "__main__" and not child_main({"ours": train_ours, "peer": train_peer}):
    main()
