"""Accuracy of the default configuration on real data: the figures in the README.

    python benchmarks/accuracy.py DATA --json benchmarks/results/accuracy.json

DATA holds `anime-2020-sample` and `ml-100k`, each in its published layout; one that is not there
is left out, and said so. Settings are the defaults, so nothing is tuned on the test rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import dglrec_command, write_results


@dataclass(frozen=True)
class Job:
    """One data set with the options of its `prepare`."""

    folder: str
    options: tuple[str, ...]


JOBS = (
    Job("anime-2020-sample", ("--seed", "42")),
    Job("ml-100k", ("--train-file", "u1.base", "--test-file", "u1.test")),
)


def dglrec(*arguments: str) -> dict[str, Any]:
    """Run a verb as a user would and read its JSON."""
    command = dglrec_command(*arguments, "--json")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(job: Job, data: Path, seeds: int) -> list[dict[str, Any]]:
    """Prepare once, train with each seed, and keep the figures of the test rows."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Path(temporary) / "dataset"
        dglrec("prepare", str(data / job.folder), str(dataset), *job.options)
        for seed in range(seeds):
            run = Path(temporary) / f"run-{seed}"
            results = dglrec("train", str(dataset), str(run), "--set", f"train.seed={seed}")
            environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
            test = results["test"]
            rows.append(
                {
                    "data": job.folder,
                    "prepare": " ".join(job.options),
                    "seed": seed,
                    "rmse": test["rmse"],
                    "mae": test["mae"],
                    "accuracy": test["accuracy"],
                    "valid_rmse": results["valid"]["rmse"],
                    "bias_rmse": test["baselines"]["bias"]["rmse"],
                    "best_epoch": results["best_epoch"],
                    "training_seconds": results["training_seconds"],
                    "environment": environment,
                }
            )
            print(
                f"{job.folder} seed {seed}: rmse {test['rmse']:.4f} "
                f"(bias {test['baselines']['bias']['rmse']:.4f}), accuracy {test['accuracy']:.3f}, "
                f"{results['training_seconds']:.0f} s",
                file=sys.stderr,
            )
    return rows


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of data sets")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each data set")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows = []
    for job in JOBS:
        if (arguments.data / job.folder).is_dir():
            rows += measure(job, arguments.data, arguments.seeds)
        else:
            print(f"{job.folder} is not in {arguments.data}: left out", file=sys.stderr)
    write_results(arguments.json, rows)


if __name__ == "__main__":
    main()
