"""Parts of a job -> a folder, by whichever processes come."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from dglrec.distributed import World
from dglrec.errors import DataError
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
        """Compute what all parts need; for all processes to call together."""

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

    def is_own(number: int) -> bool:
        return number % shards == turn and number // shards % world.size == world.rank

    count, complete = job.count, False
    kept: dict[int, Note] = {}
    made: dict[int, Note] = {}
    with ExitStack() as until_done:
        with world.together():
            if world.is_first:
                until_done.enter_context(folder.begun(name, overwrite=overwrite))
                count = folder.count() if count is None else count
        # As the first process sees it: a part that turns out damaged changes what others see.
        told = world.sum([count + 1 if world.is_first and count is not None else 0])[0]
        count = round(told) - 1 if told else None
        with world.together():
            if not folder.out.is_dir():
                raise DataError(
                    f"{folder.out}: rank {world.rank} does not see the folder that rank 0 writes; "
                    "several machines need a shared one, or --shard and a folder each"
                )
            folder.check()
            own = {number for number in range(count or 0) if is_own(number)}
            kept = folder.whole(own)
        missing = own - kept.keys()
        if count is None or world.sum([len(missing)])[0]:
            job.prepare()
            with world.together():
                for number, make in job.parts(missing):
                    count = number + 1
                    if not is_own(number) or number in kept:
                        continue
                    there = {} if number in missing else folder.whole([number])
                    if there:
                        kept |= there
                    else:
                        made[number] = folder.write(number, *make())
        with world.together():
            if world.is_first and count is not None:
                complete = folder.finish(count, name)
    notes = [*kept.values(), *made.values()]
    rows, unknown = sum(note.rows for note in notes), sum(note.unknown for note in notes)
    figures = world.sum([rows, unknown, len(notes), len(kept), complete])
    rows, unknown, parts, there_before = (round(figure) for figure in figures[:4])
    if unknown and world.is_first:
        log(f"{unknown} rows name a user or an item that the data set lacks")
    if shards > 1 and not figures[4] and world.is_first:
        log(f"{folder.out}: {count} parts are to be there; other shards have to add theirs")
    return {
        "rows": rows,
        **({"unknown_rows": unknown} if unknown else {}),
        "parts": parts,
        "kept": there_before,
        "complete": bool(figures[4]),
    }
