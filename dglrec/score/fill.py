"""Write the parts of a job into a folder, divided among processes and shards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import torch

from dglrec.distributed import World
from dglrec.errors import DataError, DglrecError
from dglrec.progress import log
from dglrec.score.parts import Note, PartsFolder


class Part(NamedTuple):
    """The number of a part, and a function that makes its rows.

    `make` returns the rows and the number of input rows with an unknown user or item.
    """

    number: int
    make: Callable[[], tuple[pa.Table, int]]


class Job(Protocol):
    """Work to do in parts, whose rows are determined by the plan.

    Attributes:
        count: the number of parts; None if it is known only after iterating over all of them.
    """

    count: int | None

    def prepare(self) -> None:
        """Compute what all processes compute together."""

    def ready(self) -> None:
        """Compute what else the parts need, in each process separately."""

    def parts(self, missing: set[int]) -> Iterator[Part]:
        """All parts in order.

        Args:
            missing: the parts that this process will make, where `count` is known.
        """


def fill(
    world: World,
    folder: PartsFolder,
    job: Job,
    shard: tuple[int, int],
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make the missing parts of a shard; processes take them in turn.

    Args:
        world: the processes.
        folder: the folder to fill.
        job: makes the parts.
        shard: (i, n): every n-th part from the i-th on.
        overwrite: whether to remove existing scores from the folder first.

    Returns:
        See `score_top_k`.
    """
    turn, shards = shard
    name = f"{turn}-of-{shards}"

    count, found = job.count, 0
    kept: dict[int, Note] = {}
    made: dict[int, Note] = {}
    if overwrite:
        job.prepare()  # if this fails, nothing has been removed yet
    with ExitStack() as until_done:
        with world.together():
            if world.is_first:
                until_done.enter_context(folder.begun(name, overwrite=overwrite))
                found = folder.count()
        # Only the first process counts: once any process finds a damaged part, the folder no longer
        # looks finished to the others.
        found = round(world.sum([found])[0])
        complete = shards == 1 and found > 0 and count in (None, found)
        count = found if complete else count
        with world.together():
            if not folder.out.is_dir():
                raise DataError(
                    f"{folder.out}: rank {world.rank} does not see the folder that rank 0 writes; "
                    "several machines need a shared one, or --shard and a folder each"
                )
            folder.check()
            assigned = range(turn, count or 0, shards)[world.rank :: world.size]
            kept = folder.whole(assigned)
        lacking = torch.tensor(
            [number for number in assigned if number not in kept], dtype=torch.int64
        )
        # Missing parts are divided anew, as all of them may have been of the same process.
        missing = torch.cat(world.gather_parts(lacking)).sort().values.tolist()
        to_make = set(missing[world.rank :: world.size])
        complete = complete and not missing

        def takes(number: int) -> bool:
            if count is not None:
                return number in to_make
            return number % shards == turn and number // shards % world.size == world.rank

        last = (count or 0) - 1
        if count is None or missing:
            if not overwrite:
                job.prepare()
            with world.together():
                job.ready()
                for number, make in job.parts(to_make):
                    last = number
                    if not takes(number):
                        continue
                    if count is None and (finished := folder.whole([number])):
                        kept |= finished
                    else:
                        made[number] = folder.write(number, *make())
        with world.together():
            if world.is_first and not complete:
                complete = folder.finish(last + 1, name, kept.keys() | made.keys())
    notes = [*kept.values(), *made.values()]
    rows, unknown = sum(note.rows for note in notes), sum(note.unknown_rows for note in notes)
    figures = world.sum([rows, unknown, len(notes), len(kept), world.is_first and complete])
    rows, unknown, parts, there_before = (round(figure) for figure in figures[:4])
    if unknown and world.is_first:
        log(f"{unknown} rows name a user or an item that the data set lacks")
    if not figures[4] and world.is_first:
        if shards == 1:
            raise DglrecError(f"{folder.out}: not all parts are there; give the command once more")
        log(f"{folder.out}: {last + 1} parts are to be there; other shards have to add theirs")
    return {
        "rows": rows,
        **({"unknown_rows": unknown} if unknown else {}),
        "parts": parts,
        "kept": there_before,
        "complete": bool(figures[4]),
    }
