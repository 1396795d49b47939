"""Parts of a job -> a folder, by whichever processes come."""

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
    """A part to be made, and what makes its rows.

    `make` gives them with the number of rows of the input that named an unknown user or item.
    """

    number: int
    make: Callable[[], tuple[pa.Table, int]]


class Job(Protocol):
    """What is to be scored, in parts whose rows follow from the plan.

    Attributes:
        count: how many parts there are; None if that shows only when all have been gone through.
    """

    count: int | None

    def prepare(self) -> None:
        """Compute what processes compute together."""

    def ready(self) -> None:
        """Compute what else all parts need, each process for itself."""

    def parts(self, missing: set[int]) -> Iterator[Part]:
        """All parts in order.

        Args:
            missing: those that this process will make, as far as they are known.
        """


def fill(
    world: World,
    folder: PartsFolder,
    job: Job,
    shard: tuple[int, int],
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make the parts of a shard that are not there yet; processes take them in turn.

    Args:
        world: the processes.
        folder: what to fill.
        job: what with.
        shard: (i, n): every n-th part from the i-th on.
        overwrite: whether a folder of scores that is there goes first.

    Returns:
        See `score_top_k`.
    """
    turn, shards = shard
    name = f"{turn}-of-{shards}"

    count, found = job.count, 0
    kept: dict[int, Note] = {}
    made: dict[int, Note] = {}
    if overwrite:
        job.prepare()  # what fails here does so before anything is removed
    with ExitStack() as until_done:
        with world.together():
            if world.is_first:
                until_done.enter_context(folder.begun(name, overwrite=overwrite))
                found = folder.count()
        # As the first process sees it: a part that turns out damaged changes what others see.
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
            mine = range(turn, count or 0, shards)[world.rank :: world.size]
            kept = folder.whole(mine)
        lacking = torch.tensor([number for number in mine if number not in kept], dtype=torch.int64)
        # Dealt out anew: those that are missing may all have been one process's.
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
                    if count is None and (there := folder.whole([number])):
                        kept |= there
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
