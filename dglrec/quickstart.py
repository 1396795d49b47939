"""The main job from end to end on a generated data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dglrec.config import build_settings
from dglrec.dataset import DATASET_FILE, PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.files import check_possible, check_target_folder
from dglrec.progress import log, rephrased
from dglrec.run import CONFIG_FILE, open_run
from dglrec.score import Recommendation, recommend
from dglrec.synthetic import TRUTH_FILE, synthesize
from dglrec.train import train

USERS, ITEMS, RATINGS = 2_500, 600, 400_000
EPOCHS = 6
_SHOWN_USER = 42
_INTERACTIONS_FROM = 8.0


@dataclass(frozen=True)
class QuickstartReport:
    """The results that the quickstart shows at its end.

    Attributes:
        results: as `train` returns them.
        user_id: the user of the recommendations.
        recommendations: ten items.
    """

    results: dict[str, Any]
    user_id: str
    recommendations: list[Recommendation]


def quickstart(
    out: Path,
    *,
    text: bool = True,
    interactions: bool = False,
    overwrite: bool = False,
    device: torch.device | None = None,
) -> QuickstartReport:
    """Generate data, prepare it, train, evaluate and recommend.

    Args:
        out: a folder for the source files (`source`), the data set (`dataset`) and the run (`run`).
        text: whether synopses are embedded.
        interactions: whether ratings of 8 and more are read as interactions.
        overwrite: whether what an earlier quickstart left there may be replaced.
        device: where to compute; None for the CPU.

    Raises:
        UsageError: the folder holds something that may not be replaced.
        UnusableEnvironmentError: the text model cannot be had.
    """
    check_possible(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    source, dataset_path, run = out / "source", out / "dataset", out / "run"
    # All three are checked before any work.
    for folder, marker in ((source, TRUTH_FILE), (dataset_path, DATASET_FILE), (run, CONFIG_FILE)):
        check_target_folder(folder, marker=marker, overwrite=overwrite)
    log(f"1/4 generating {RATINGS:,} ratings of {ITEMS:,} items by {USERS:,} users")
    synthesize(source, users=USERS, items=ITEMS, ratings=RATINGS, seed=0, overwrite=overwrite)
    log("2/4 preparing: ids, split, graph, biases, genres" + (", synopses" if text else ""))
    level = _INTERACTIONS_FROM if interactions else None
    options = PrepareOptions(text=text, interactions_from=level, overwrite=overwrite)
    dataset = prepare(source, dataset_path, options)
    log(f"3/4 training {EPOCHS} epochs")
    settings = build_settings({"train": {"epochs": EPOCHS}})
    going_on = f"go on with dglrec train {dataset_path} {run} --resume"
    with rephrased(lambda message: message.replace("go on with --resume", going_on)):
        results = train(dataset, run, settings, device=device, overwrite=overwrite)
    log(f"4/4 recommending for user {_SHOWN_USER}")
    trained = open_run(run, device=device)
    return QuickstartReport(results, str(_SHOWN_USER), recommend(trained, str(_SHOWN_USER), 10))
