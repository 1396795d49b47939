"""Relations and clusters derived from training rows, made once for a run by its first process."""

from pathlib import Path

import safetensors.torch

from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import DerivedDataset, RatingDataset, derive
from dglrec.distributed import World
from dglrec.run import DERIVED, save_derived, with_derived
from dglrec.schema import CLUSTERS
from dglrec.train.config import Settings


def derive_for(
    dataset: RatingDataset, run: Path, settings: Settings, world: World, *, resume: bool
) -> RatingDataset:
    """The data set with the relations and clusters that model and loader read and that it derives.

    The first process derives them, or reads those stored in the run, and sends them to the others.
    Nothing is written yet: see `keep_derived`. Without such relations and clusters the data set is
    returned unchanged.

    Args:
        dataset: the data set to train on.
        run: the run's folder.
        settings: the settings of the training.
        world: the processes that train together, all of which must call this.
        resume: whether to read what the run has stored, if anything.

    Raises:
        UsageError: a relation has no edge, or clusters cannot be made.
        DataError: what the run has stored is damaged.
        UnusableEnvironmentError: there is too little memory.
    """
    names = settings.model.derived_names(dataset.relations)
    clusters = settings.loader.clusters if settings.loader.kind == "cluster" else 0
    names += [CLUSTERS] if clusters else []
    if not names:
        return dataset

    def make() -> bytes:
        if resume and (run / DERIVED).is_dir():
            return safetensors.torch.save(load_checkpoint(run / DERIVED).weights)
        return safetensors.torch.save(derive(dataset, names, settings.derived, int(clusters)))

    made = safetensors.torch.load(world.from_first(make))
    with world.together():
        return with_derived(dataset, names, made, run)


def keep_derived(run: Path, dataset: RatingDataset) -> None:
    """Write what `derive_for` made into the run's folder, unless it is stored there already."""
    if isinstance(dataset, DerivedDataset) and not (run / DERIVED).is_dir():
        save_derived(run, dataset.made)
