"""A folder of Parquet files that attempts, processes and shards fill together, part by part.

_plan.json            what is scored, with which model and options; written first, shared by all
part-00000.parquet    the rows of a part; written atomically
_parts/00000.json     the note of that part: rows, bytes, checksum. A part without it is unfinished
_manifest.json        the plan and all parts; written when all parts are finished
_SUCCESS              empty; written last

The plan alone determines the rows of each part. Any number of processes can therefore make the
missing parts in any order, and the finished folder is the same.
"""

import hashlib
import json
from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dglrec import __version__
from dglrec.errors import DataError, DglrecError, UnreadableError, UsageError
from dglrec.files import (
    TEMPORARY,
    atomic_file,
    check_possible,
    check_target_folder,
    disk_errors,
    fits_checksum,
    read_json,
    sha256_of,
    sweep,
    with_checksum,
    write_json,
)
from dglrec.places import Place, RemotePath
from dglrec.progress import log
from dglrec.run import locked

MANIFEST_FILE = "_manifest.json"
PLAN_FILE = "_plan.json"
SUCCESS_FILE = "_SUCCESS"
NOTES_FOLDER = "_parts"

SCHEMA_VERSION = 2
"""Version 1 had no checksums of notes and manifests."""

_A_NOTE = "[0-9]*.json"
_START_LOCK = "start.lock"
_ONLY = "0-of-1"  # the job of one shard
_VERSION = "dglrec"  # key in the manifest: the version that finished the folder
_MEND = "give the command that made it once more"


class Note(BaseModel):
    """The note of a finished part.

    Attributes:
        rows: the number of rows in the part's file.
        size: the size of the file, in bytes.
        sha256: the checksum of the file.
        unknown_rows: the number of input rows with an unknown user or item.
        unknown: how such rows were treated; None where there were none.
        plan: the digest of the plan that the part was made by.
        checksum: the checksum of the other fields, from `with_checksum`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rows: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str
    unknown_rows: int = Field(ge=0)
    unknown: str | None
    plan: str
    checksum: str

    @classmethod
    def of(cls, **values: Any) -> "Note":
        """A note of these values with its checksum."""
        return cls(**with_checksum(values))

    @model_validator(mode="after")
    def _is_as_written(self) -> "Note":
        if not fits_checksum(self.model_dump()):
            raise ValueError("altered since it was written")
        return self


class PartsFolder:
    """The folder, as one process sees it.

    Args:
        out: the folder; see `begun`.
        plan: JSON values that say what is scored, with which model and options.
    """

    def __init__(self, out: Place, plan: dict[str, Any]) -> None:
        self.out = out
        self.plan = {"schema_version": SCHEMA_VERSION, **plan}
        self._is_locked = False
        self._digest = hashlib.sha256(_identity(self.plan).encode()).hexdigest()

    def refuse_other_folder(self, overwrite: bool) -> None:
        """Refuse, before any work, a folder that holds something other than scores.

        Raises:
            UsageError: the folder holds something else.
            DataError: the folder holds scores but no plan.
        """
        check_possible(self.out)
        plan = self.out / PLAN_FILE
        if plan.is_file() or not self.out.exists():
            return
        has_scores = any(self._notes.glob(_A_NOTE))
        begun = self.out.is_dir() and all(
            path.name.startswith(TEMPORARY) or path.suffix == ".lock"
            for path in (*self.out.iterdir(), *self._notes.glob("*"))
            if path != self._notes
        )
        if plan.is_file():
            return  # another shard wrote it while we looked
        if has_scores:
            raise DataError(
                f"{plan}: no such file, though {self.out} holds scores; get it back, or score into "
                "another folder"
            )
        if begun:
            return  # these files are of a job that was killed before it wrote its plan
        check_target_folder(self.out, marker=PLAN_FILE, overwrite=overwrite)

    @contextmanager
    def begun(self, job: str, *, overwrite: bool = False) -> Iterator[None]:
        """Make the folder, or check that its plan is this one, and lock it for a job of this name.

        Another plan is replaced if no part was finished by it and no job is using the folder.

        Args:
            job: the name of the shard, such as "0-of-1".
            overwrite: whether to remove existing scores first, whatever their plan.

        Raises:
            UsageError: the folder holds something else, has another plan, or is in use.
        """
        with disk_errors(self.out):
            self.refuse_other_folder(overwrite)
            self.out.resolve().mkdir(parents=True, exist_ok=True)
            self._notes.mkdir(exist_ok=True)
        if isinstance(self.out, RemotePath):
            log(f"{self.out}: stores have no locks; let nothing but other shards write there")
        with ExitStack() as until_done:
            with self._alone_at_start():
                lock = self._lock(f"{job}.lock")
                # Without locks, other jobs at the folder cannot be noticed.
                self._is_locked = until_done.enter_context(lock)
                with disk_errors(self.out):
                    self._settle(self._is_alone(job), overwrite)
            yield

    def _settle(self, alone: bool, overwrite: bool) -> None:
        """Check or write the plan; a job that is alone removes what killed jobs left."""
        if not alone and overwrite:
            raise UsageError(
                f"{self.out}: another shard may be writing there; wait for it, or remove the "
                "folder by hand"
            )
        plan_file, manifest = self.out / PLAN_FILE, self.out / MANIFEST_FILE
        has_finished = manifest.exists() or any(self._notes.glob(_A_NOTE))
        started = plan_file.is_file() and (has_finished or not alone) and not overwrite
        if alone:
            self._sweep(everything=not started)
        if started:
            self.check()
            if not alone or read_json(plan_file)["unknown"] == self.plan["unknown"]:
                return
        write_json(plan_file, self.plan)

    def _alone_at_start(self) -> AbstractContextManager[bool]:
        """The lock under which processes take and look at the other locks; held only briefly."""
        return self._lock(_START_LOCK, wait=True)

    def _lock(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """A lock in the folder; stores have none."""
        if isinstance(self.out, RemotePath):
            return nullcontext(False)
        return locked(self.out / NOTES_FOLDER, name, shown=self.out, wait=wait)

    def _is_alone(self, job: str) -> bool:
        """Whether no other job is at the folder, as far as that can be known.

        A store has no locks: there a job is assumed to be alone if it is the only shard.
        """
        if isinstance(self.out, RemotePath):
            return job == _ONLY
        for lock in self._notes.glob("*-of-*.lock"):
            try:
                if lock.stem != job:
                    with self._lock(lock.name):
                        pass
            except UsageError:
                return False
        return self._is_locked

    def _sweep(self, *, everything: bool) -> None:
        """Remove what killed processes left half-written, and perhaps all scores.

        The success file and the manifest are removed first, and notes before their parts, so that
        a kill in between leaves nothing marked as finished that is not there.
        """
        for folder in (self.out, self._notes):
            sweep(folder)
        if everything:
            marks = (self.out / name for name in (SUCCESS_FILE, MANIFEST_FILE))
            notes, parts = self._notes.glob(_A_NOTE), self.out.glob("part-*.parquet")
            for path in (*marks, *notes, *parts):
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Check that the folder's plan is this one.

        Raises:
            UsageError: the folder has another plan.
            DataError: the folder has no readable plan, or an altered one.
        """
        try:
            begun = read_json(self.out / PLAN_FILE)
        except DataError as error:
            raise DataError(f"{error}; --overwrite begins the folder anew") from error
        if _identity(begun) != _identity(self.plan) and self._is_made_by_this():
            raise DataError(
                f"{self.out / PLAN_FILE}: altered since it was written, as the folder holds parts "
                "made by this command; get it back, or begin anew with --overwrite"
            )
        # Parts that were finished while unknown ids were an error contain none.
        as_now = begun.get("unknown") in ("error", self.plan["unknown"])
        if _identity(begun) != _identity(self.plan) or not as_now:
            raise UsageError(
                f"{self.out}: begun with {_difference(begun, self.plan)}; choose another folder, "
                "or replace this one with --overwrite"
            )

    def count(self) -> int:
        """The number of parts of a finished folder; 0 for an unfinished one."""
        success, manifest = self.out / SUCCESS_FILE, self.out / MANIFEST_FILE
        if not success.is_file():
            return 0
        if success.stat().st_size:
            log(f"{success}: holds something; making it again")
            return 0
        try:
            found = read_json(manifest)
        except DataError as error:
            log(f"{error}; making it again")
            return 0
        notes = self._readable_notes()
        count = sum(1 for _ in self._notes.glob(_A_NOTE))
        if len(notes) == count and not self._is_manifest(found, notes):
            log(f"{manifest}: altered since it was written; making it again")
            return 0
        return count

    def _readable_notes(self) -> dict[int, Note]:
        """The undamaged notes, by part; `_note` logs the damaged ones when parts are made again."""
        paths: Iterable[Place] = self._notes.glob(_A_NOTE)
        notes = {}
        for path in sorted(paths, key=lambda path: path.name):
            with suppress(DataError, ValueError):
                notes[int(path.stem)] = Note.model_validate(read_json(path))
        return notes

    def _is_made_by_this(self) -> bool:
        """Whether a finished part was made by this plan, whatever the folder's plan says."""
        return any(note.plan == self._digest for note in self._readable_notes().values())

    def _is_manifest(self, found: dict[str, Any], finished: dict[int, Note]) -> bool:
        """Whether a manifest is of these parts and this plan, whatever the input files' names."""
        wanted = json.loads(json.dumps(self._manifest(finished)))
        same = _identity(_of_any_version(found)) == _identity(_of_any_version(wanted))
        return same and found.get("parts") == wanted["parts"] and bool(fits_checksum(found))

    def whole(self, numbers: Iterable[int]) -> dict[int, Note]:
        """The notes of those parts that are finished and undamaged; the others have to be made.

        Raises:
            DataError: a part was made by another plan.
        """
        found, lacking = {}, False
        for number in numbers:
            note, path = self._note(number), self.out / part_name(number)
            if note is not None and _is_as_written(path, note):
                found[number] = note
                continue
            if not lacking:
                self._not_finished()
                lacking = True
            if note is not None:
                what = "damaged" if path.exists() else "gone"
                log(f"{path}: {what} since it was written; making it again")
        return found

    def write(self, number: int, table: pa.Table, unknown: int = 0) -> Note:
        """Write a part, and then its note, which marks it as finished.

        Raises:
            DglrecError: the disk is full, or the folder cannot be written.
        """
        path, note_path = self.out / part_name(number), self._note_path(number)
        try:
            with atomic_file(path) as temporary:
                # A dictionary pays off for ids and ranks, which repeat, not for scores.
                repeated = [name for name in table.column_names if _repeats(table, name)]
                pq.write_table(table, temporary, use_dictionary=repeated)
                note = Note.of(
                    rows=len(table),
                    size=temporary.stat().st_size,
                    sha256=sha256_of(temporary),
                    unknown_rows=unknown,
                    unknown=self.plan["unknown"] if unknown else None,
                    plan=self._digest,
                )
            write_json(note_path, note.model_dump())
        except DglrecError as error:
            raise type(error)(
                f"{error}; finished parts are kept: the same command goes on from there"
            ) from error
        return note

    def finish(self, count: int, job: str, checked: Container[int]) -> bool:
        """Write the manifest and the success file, if all parts are finished.

        Args:
            count: the number of parts of the finished folder.
            job: the name of this shard.
            checked: parts that this job has just written or compared with their checksums.

        Returns:
            Whether all parts are finished.

        Raises:
            DataError: a part was made by another plan.
        """
        notes = [self._note(number) for number in range(count)]
        finished = {number: note for number, note in enumerate(notes) if note is not None}
        for number, note in list(finished.items()):
            path = self.out / part_name(number)
            if number not in checked and not _is_as_written(path, note):
                log(f"{path}: gone or damaged since it was written; run its shard again")
                del finished[number]
        if len(finished) < count:
            self._not_finished()
            return False
        with disk_errors(self.out), self._alone_at_start():
            if self._is_alone(job):
                self._sweep(everything=False)
            write_json(self.out / MANIFEST_FILE, self._manifest(finished))
            with atomic_file(self.out / SUCCESS_FILE) as temporary:
                temporary.touch()
        return True

    def verify(self) -> str:
        """Compare all files with their checksums, and change nothing.

        Returns:
            What is missing, in words; an empty string for a finished folder.

        Raises:
            DataError: a file is not as it was written.
        """
        finished = {}
        notes: Iterable[Place] = self._notes.glob(_A_NOTE)
        for path in sorted(notes, key=str):
            try:
                number, note = int(path.stem), Note.model_validate(read_json(path))
            except ValueError as error:  # includes pydantic's ValidationError
                raise DataError(f"{path}: damaged; {_MEND}") from error
            self._refuse_other_plan(number, note)
            part = self.out / part_name(number)
            if not _is_as_written(part, note):
                raise DataError(f"{part}: gone or damaged since it was written; {_MEND}")
            finished[number] = note
        success, manifest = self.out / SUCCESS_FILE, self.out / MANIFEST_FILE
        if not success.is_file():
            return f"{len(finished)} parts are finished, and not all of them"
        if success.stat().st_size:
            raise DataError(f"{success}: holds something; {_MEND}")
        found, wanted = read_json(manifest), json.loads(json.dumps(self._manifest(finished)))
        same = _of_any_version(found) == _of_any_version(wanted)
        if not same or not fits_checksum(found):
            raise DataError(
                f"{manifest}: not what {PLAN_FILE} and the parts are: one of them was altered; "
                f"{_MEND}"
            )
        return ""

    def _manifest(self, finished: dict[int, Note]) -> dict[str, Any]:
        """The manifest: the plan, and all parts."""
        parts = [
            {"file": part_name(number), "rows": note.rows, "sha256": note.sha256}
            for number, note in finished.items()
        ]
        totals = {"rows": sum(note.rows for note in finished.values())}
        if unknown := sum(note.unknown_rows for note in finished.values()):
            totals["unknown_rows"] = unknown
        # The version is not part of the plan: another version may continue the folder.
        return with_checksum({**self.plan, _VERSION: __version__, **totals, "parts": parts})

    @property
    def _notes(self) -> Place:
        return self.out / NOTES_FOLDER

    def _not_finished(self) -> None:
        with disk_errors(self.out):
            for name in (SUCCESS_FILE, MANIFEST_FILE):
                (self.out / name).unlink(missing_ok=True)

    def _note_path(self, number: int) -> Place:
        return self._notes / f"{number:05d}.json"

    def _note(self, number: int) -> Note | None:
        path = self._note_path(number)
        if not path.is_file():
            return None
        try:
            note = Note.model_validate(read_json(path))
        except UnreadableError:
            raise
        except (DataError, ValidationError):
            log(f"{path}: damaged; making its part again")
            return None
        self._refuse_other_plan(number, note)
        return note

    def _refuse_other_plan(self, number: int, note: Note) -> None:
        if note.plan != self._digest or note.unknown not in (None, self.plan.get("unknown")):
            raise DataError(
                f"{self.out / part_name(number)}: made with other options than {PLAN_FILE} says; "
                "choose another folder, or replace this one with --overwrite"
            )


def check_scores(out: Place) -> str:
    """What is missing from a folder of scores, in words; an empty string for a finished folder.

    Raises:
        DataError: a file is not as it was written.
    """
    plan = read_json(out / PLAN_FILE)
    version = plan.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{out / PLAN_FILE}: scores of schema version {version}; this program knows version "
            f"{SCHEMA_VERSION}; {_MEND}"
        )
    return PartsFolder(out, plan).verify()


def part_name(number: int) -> str:
    """The name of a part's file."""
    return f"part-{number:05d}.parquet"


def _is_as_written(path: Place, note: Note) -> bool:
    return path.is_file() and path.stat().st_size == note.size and sha256_of(path) == note.sha256


def _of_any_version(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, _VERSION: None, "checksum": None}


def _repeats(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return not (pa.types.is_floating(kind) or pa.types.is_list(kind))


def _identity(plan: dict[str, Any]) -> str:
    """What determines the rows of parts: the plan but for file names and `unknown`."""
    return json.dumps(_bare(plan), sort_keys=True)


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(part) for key, part in value.items() if key not in ("file", "unknown")}
    return value


def _difference(begun: dict[str, Any], plan: dict[str, Any]) -> str:
    """The difference between two plans, in words."""
    if begun.get("model") != plan["model"]:
        return "another model"
    if begun.get("dataset") != plan["dataset"]:
        return "another data set"
    if not isinstance(begun.get("options"), dict) or begun.get("kind") != plan["kind"]:
        return f"{begun.get('kind', 'something else')}, not {plan['kind']}"
    before = {**begun["options"], "unknown": begun.get("unknown")}
    now = {**plan["options"], "unknown": plan["unknown"]}
    changed = [
        f"{key} {_shown(before.get(key))}, now {_shown(now.get(key))}"
        for key in {**before, **now}
        if _bare(before.get(key)) != _bare(now.get(key))
    ]
    return "; ".join(changed) or "another version of dglrec"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"of file {value.get('file')} ({str(value.get('sha256'))[:8]})"
    return "not given" if value is None else json.dumps(value)
