"""The work of a study: prepare data, train missing runs, sum errors, write the table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dglrec import __version__
from dglrec.checkpoint import MODEL_FILE, load_checkpoint
from dglrec.compare import metrics_of
from dglrec.config import changed_keys, load_settings
from dglrec.dataset import RatingDataset, prepare
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.evaluate.ranking import DEFAULT_K, check_ranking
from dglrec.files import (
    TEMPORARY,
    atomic_file,
    check_checksums,
    disk_errors,
    read_json,
    sweep,
    write_json,
)
from dglrec.ingest import open_source
from dglrec.progress import log
from dglrec.relations import DERIVED_NAMES
from dglrec.run import (
    BEST,
    CONFIG_FILE,
    LOCK_FILE,
    RESULTS_FILE,
    SELECTION,
    check_folder_with,
    check_same_dataset,
    is_finished,
    locked,
    open_predictor,
)
from dglrec.study.declaration import PrepareKeys, Study, Variant, select
from dglrec.study.discovery import discover
from dglrec.study.record import STUDY_FILE, is_prepared, record_study
from dglrec.study.sums import RunSums, load_sums, save_sums, sums_of_run
from dglrec.study.table import FinishedRun, as_markdown, tabulate
from dglrec.train import remove_checkpoints, train

TABLE_FILE = "results.md"

_DATA, _RUNS, _SUMS = "data", "runs", "sums"
_SEED = "seed-"


def run_study(
    study: Study,
    source: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    ranking: int | None = None,
    at_most: int | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train the missing runs of a study, and write its table.

    A call that was stopped is resumed by the same call. Of a finished run's checkpoints only the
    best is kept.

    Args:
        study: from `read_study`.
        source: a prepared data set, or a source that `prepare` takes.
        out: the study's folder.
        only: names of the variants to train; empty for all variants.
        seeds: seeds to train with in place of the study's; None for these.
        ranking: the length of the lists to compare variants by, in place of the study's; finished
            runs serve for any length.
        at_most: restrict the table to users with at most this many training ratings; None for all
            users.
        device: where to compute; None for the CPU.

    Returns:
        The result of `tabulate` for all finished runs in the folder, including earlier calls'.

    Raises:
        UsageError: `only` or `seeds` are wrong, the folder belongs to something else or to another
            declaration, or a variant sets `prepare` keys while SOURCE is prepared already.
        DataError: the source is missing or bad, or a run in the folder is damaged.
        DglrecError: a training failed. Finished runs are kept.
    """
    source, out = Path(source), Path(out)
    if ranking is not None and ranking < 1:
        raise UsageError(f"--ranking {ranking}: must be 1 or more")
    variants, chosen = select(study, () if study.discovers else only, seeds)
    _check_source(source, variants)
    if study.discovers and is_prepared(source):
        dataset = RatingDataset.open(source)
        study = discover(study, lambda variant: dataset)
        variants, chosen = select(study, only, seeds)
    check_folder_with(out, STUDY_FILE)
    with locked(out), disk_errors(out):
        for folder in (out, out / _DATA, *(out / _SUMS).glob("*")):
            sweep(folder)
        work = _Work(study, source, out, device or torch.device("cpu"))
        if study.discovers:
            # The record comes first, so that the folder is known to be a study's.
            if not (out / STUDY_FILE).is_file():
                plain = {
                    name: variant for name, variant in study.variants.items() if not variant.of
                }
                record_study(replace(study, variants=plain), source, out)
            work.study = study = discover(study, work.dataset_of)
            variants, chosen = select(study, only, seeds)
        begun = record_study(study, source, out)
        wanted = [(variant, seed) for seed in chosen for variant in variants]
        # All data sets are prepared and checked before the first training, so errors show early.
        for variant in variants:
            work.dataset_of(variant)
        _check_features(work, variants)
        work.ranking = _length_of_lists(work, variants, ranking)
        missing = [
            (variant, seed) for variant, seed in wanted if not work.is_finished(variant, seed)
        ]
        log(f"{study.name}: {len(wanted)} runs, of which {len(wanted) - len(missing)} are there")
        for number, (variant, seed) in enumerate(missing, 1):
            log(f"run {number} of {len(missing)}: {variant.name}, seed {seed}")
            work.train(variant, seed)
        result = tabulate(study, work.finished(at_most))
        if at_most is not None:
            result["at_most"] = at_most
            result["notes"].insert(0, f"only users with at most {at_most} training ratings")
        if begun != __version__:
            result["notes"].append(f"begun with dglrec {begun}, resumed with {__version__}")
        write_json(out / RESULTS_FILE, result)
        with atomic_file(out / TABLE_FILE) as temporary:
            temporary.write_text(as_markdown(result), encoding="utf-8")
    return result


def _check_source(source: Path, variants: Sequence[Variant]) -> None:
    """Refuse a SOURCE that does not serve all variants.

    Raises:
        UsageError: it is a prepared data set, and a variant sets `prepare` keys.
        DataError: it is missing, or not a source.
    """
    if not is_prepared(source):
        for variant in variants:
            open_source(source, variant.prepare.format)
        return
    for variant in variants:
        given = variant.prepare.given()
        if given:
            keys = ", ".join(f"prepare.{key}" for key in given)
            raise UsageError(
                f"{source} is prepared already, and variant {variant.name} sets {keys}: give the "
                "source that it was prepared from"
            )


def _check_features(work: "_Work", variants: Sequence[Variant]) -> None:
    """Refuse variants that name features or relations that their data set lacks.

    Raises:
        UsageError: there are such variants; the message says how to train the others.
    """
    bad: dict[str, tuple[str, list[str]]] = {}
    for variant in variants:
        model, dataset = variant.settings.model, work.dataset_of(variant)
        lacked_by_key = {
            "model.item_features": model.missing_features(dataset.meta["features"]),
            "model.user_features": model.missing_user_features(dataset.user_feature_widths),
            "model.relations": [
                name
                for name in model.relations
                if name not in (*dataset.relation_names, *DERIVED_NAMES)
            ],
        }
        for key, lacked in lacked_by_key.items():
            if lacked:
                bad.setdefault(variant.name, (key, lacked))
    if bad:
        name, (key, lacked) = next(iter(bad.items()))
        others = [variant.name for variant in variants if variant.name not in bad]
        rest = f": {' '.join(f'--only {other}' for other in others)}" if others else ""
        raise UsageError(
            f"variant {name}: {key}: the data set has no {' and no '.join(lacked)}; "
            f"leave {' and '.join(bad)} out{rest}"
        )


def _length_of_lists(work: "_Work", chosen: Sequence[Variant], ranking: int | None) -> int | None:
    """The length of the lists in the table, or None for a table of predicted ratings.

    Args:
        work: the study's folder, whose finished runs are in the table as well.
        chosen: the variants to train.
        ranking: the requested length; None for the study's.

    Raises:
        UsageError: a data set has fewer items, or no relevant row.
    """
    variants = [
        variant
        for name, variant in work.study.variants.items()
        if variant in chosen or work.has_runs(name)
    ]
    k = work.study.ranking if ranking is None else ranking
    if k is None:
        rates = (
            variant.rates(has_ratings=work.dataset_of(variant).has_ratings) for variant in variants
        )
        k = None if all(rates) else DEFAULT_K
    if k is not None:
        for variant in variants:
            with _named(f"variant {variant.name}"):
                check_ranking(work.dataset_of(variant), work.study.split, [k], None)
    return k


@dataclass
class _Work:
    """The work in a study's folder, which is locked."""

    study: Study
    source: Path
    out: Path
    device: torch.device
    ranking: int | None = None
    datasets: dict[PrepareKeys, RatingDataset] = field(default_factory=dict)

    def dataset_of(self, variant: Variant) -> RatingDataset:
        """A variant's data set, which is prepared if it does not exist yet."""
        keys = variant.prepare
        if keys not in self.datasets:
            prepares = not is_prepared(self.source)
            path = self.out / _DATA / keys.name if prepares else self.source
            mend = f"remove {path} to prepare it again" if prepares and path.exists() else ""
            with _named(f"variant {variant.name}", mend):
                if prepares and not path.exists():
                    log(f"preparing {path.name}")
                    dataset = prepare(self.source, path, keys.options())
                else:
                    dataset = RatingDataset.open(path)
                self._check_sources(keys, dataset)
            self.datasets[keys] = dataset
        return self.datasets[keys]

    def is_finished(self, variant: Variant, seed: int) -> bool:
        """Whether a run is finished.

        Raises:
            DataError: it is damaged, or has other settings than its variant and seed.
        """
        run = self._run(variant, seed)
        if not run.is_dir() or all(
            path.name.startswith((LOCK_FILE, TEMPORARY)) for path in run.iterdir()
        ):
            return False
        dataset = self.dataset_of(variant)
        with _named(*_of_run(variant, seed, run)):
            if not (run / CONFIG_FILE).is_file():
                raise DataError(f"{run}: holds no {CONFIG_FILE}, so it is no run")
            asked = variant.with_seed(seed)
            if asked.train.refit != "none":
                # The settings of a refitted run are recorded in its selection.
                chooses = run / SELECTION / CONFIG_FILE
                if not chooses.is_file() or not is_finished(run):
                    return False
                train = asked.train.model_copy(update={"refit": "none"})
                recorded, asked = load_settings(file=chooses), replace(asked, train=train)
            else:
                recorded = load_settings(file=run / CONFIG_FILE)
            wanted = asked.resolved_for(dataset)
            changed = changed_keys(recorded, wanted)
            if changed:
                raise DataError(f"{run}: trained with another {', '.join(changed)}")
            if not is_finished(run):
                return False
            check_checksums(run)
            read_json(run / RESULTS_FILE)
            check_same_dataset(load_checkpoint(run / BEST).meta, dataset, run)
        return True

    def train(self, variant: Variant, seed: int) -> None:
        """Train a run to its end, or resume it."""
        run, dataset = self._run(variant, seed), self.dataset_of(variant)
        with _named(*_of_run(variant, seed, run)):
            try:
                train(
                    dataset,
                    run,
                    variant.with_seed(seed),
                    device=self.device,
                    resume=(run / CONFIG_FILE).is_file(),
                )
            except KeyboardInterrupt:
                log(f"{self.out}: the same study command resumes it")
                raise
            self._sums(variant, seed)

    def finished(self, at_most: int | None = None) -> dict[str, list[FinishedRun]]:
        """All finished runs in the folder by variant, in the order of the study.

        Args:
            at_most: restrict figures to users with at most this many training ratings.
        """
        found: dict[str, list[FinishedRun]] = {}
        for name, variant in self.study.variants.items():
            for seed in self._seeds(name):
                if self.is_finished(variant, seed):
                    run = self._run(variant, seed)
                    with _named(*_of_run(variant, seed, run)):
                        sums = self._sums(variant, seed)
                        if at_most is not None:
                            sums = sums.of_few(self.dataset_of(variant), at_most)
                        finished_run = FinishedRun.of(seed, sums, read_json(run / RESULTS_FILE))
                    found.setdefault(name, []).append(finished_run)
        return found

    def has_runs(self, name: str) -> bool:
        """Whether a variant has runs in the folder, finished or not."""
        return bool(self._seeds(name))

    def _run(self, variant: Variant, seed: int) -> Path:
        return self.out / _RUNS / variant.name / f"{_SEED}{seed}"

    def _seeds(self, name: str) -> list[int]:
        """The seeds of a variant's runs in the folder, ascending."""
        numbers = [path.name[len(_SEED) :] for path in (self.out / _RUNS / name).glob(f"{_SEED}*")]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _sums(self, variant: Variant, seed: int) -> RunSums:
        """A finished run's sums; predicts its rows if there are no stored sums."""
        run = self._run(variant, seed)
        remove_checkpoints(run, keep_best=True)
        lists = "" if self.ranking is None else f"-lists-{self.ranking}"
        path = self.out / _SUMS / variant.name / f"{_SEED}{seed}{lists}.parquet"
        if path.is_file():
            try:
                found = load_sums(path, metrics_of(self.ranking))
            except DataError as error:
                log(f"{error}; predicting again")
            else:
                weights = str(load_checkpoint(run / BEST).meta["sha256"][MODEL_FILE])
                if (found.split, found.weights) == (self.study.split, weights):
                    return found
                log(f"{path}: of another training; predicting again")
        dataset = self.dataset_of(variant)
        trained = open_predictor(run, dataset=dataset.path, device=self.device)
        found = sums_of_run(trained, run, self.study.split, self.ranking)
        save_sums(path, found)
        return found

    def _check_sources(self, keys: PrepareKeys, dataset: RatingDataset) -> None:
        """Refuse a data set if a source file changed since another variant's was prepared."""
        given = (keys.train_file, keys.test_file)
        beside = (keys.item_table, keys.user_table, keys.relation)
        for others, other in self.datasets.items():
            if (others.train_file, others.test_file) != given:
                continue
            # Two variants may have tables or relations of the same file name in different folders.
            same = (others.item_table, others.user_table, others.relation) == beside
            before = {
                (source["file"], source.get("as")): source["sha256"]
                for source in other.meta["sources"]
                if same or "as" not in source
            }
            for source in dataset.meta["sources"]:
                if (
                    before.get((source["file"], source.get("as")), source["sha256"])
                    != source["sha256"]
                ):
                    raise DataError(
                        f"{self.source}: {source['file']} changed after {other.path} or "
                        f"{dataset.path} was prepared; start the study anew in another folder"
                    )


def _of_run(variant: Variant, seed: int, run: Path) -> tuple[str, str]:
    """The arguments of `_named` for errors of a run."""
    return f"variant {variant.name}, seed {seed}", f"remove {run} to train it again"


@contextmanager
def _named(what: str, mend: str = "") -> Iterator[None]:
    """Add the variant, and perhaps the seed, to the message of an error.

    Args:
        what: the variant, and perhaps the seed.
        mend: what to do if data are missing or bad.
    """
    try:
        yield
    except DglrecError as error:
        more = f"; {mend}" if mend and isinstance(error, DataError) else ""
        raise type(error)(f"{what}: {error}{more}") from error
