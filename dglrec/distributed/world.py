"""The processes of a job: how they sum, exchange data, and stop together.

Only numbers and bytes of known form are exchanged: torch's helpers for arbitrary objects use
pickle, and are not used here.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from dglrec.errors import DglrecError

_REPORT_BYTES = 1024
_STARTED = "started"


class Store(Protocol):
    """The methods used here of torch's key-value store, which all processes share."""

    def set(self, key: str, value: str) -> None:
        """Set the value of a key."""

    def get(self, key: str) -> bytes:
        """Wait for a key, and return its value."""

    def check(self, keys: list[str]) -> bool:
        """Whether all keys exist."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, and return its new value."""


class PeerError(DglrecError):
    """Another process of the job failed, so this process stops too.

    Args:
        rank: the rank of the failed process.
        exit_code: its exit code.
        message: its error message.
        elsewhere: whether it runs on another machine, so that its message is not seen here.
    """

    def __init__(self, rank: int, exit_code: int, message: str, elsewhere: bool) -> None:
        super().__init__(f"stopped, as rank {rank} failed: {message}")
        self.exit_code = exit_code
        self.told = not elsewhere


class LostRankError(DglrecError):
    """Another process of the job has ended, or does not answer."""


@dataclass(frozen=True)
class World:
    """The processes of a job, as seen from one of them.

    All methods except `is_first`, `cut`, `share_of` and `mark_started` are collective: every
    process must call them, in the same order. In a world of a single process they return their
    input.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        local_rank: the number of this process among those on its machine.
        local_size: the number of processes on its machine.
        store: the store, which outlives a restart by `torchrun`; None without a launcher.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store | None = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over all processes, in float64, the same on every process."""
        return self.start_sum(values)()

    def start_sum(self, values: Sequence[float]) -> Callable[[], list[float]]:
        """Start a `sum` in the background; the returned function waits for the result."""
        if self.size == 1:
            return lambda: list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        work = dist.all_reduce(totals, async_op=True)

        def finish() -> list[float]:
            work.wait()
            return [float(total) for total in totals]

        return finish

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """Bytes that the first process makes, on all processes.

        Raises:
            PeerError: `make` failed on the first process.
        """
        made = b""
        with self.together():
            if self.is_first:
                made = make()
        if self.size == 1:
            return made
        length = int(self.sum([len(made)])[0])
        data = torch.zeros(length, dtype=torch.uint8)
        if self.is_first and made:
            data = torch.frombuffer(bytearray(made), dtype=torch.uint8)
        if length:
            dist.broadcast(data, src=0)
        return data.numpy().tobytes()

    def cut(self, ends: Tensor) -> list[int]:
        """Divide N rows into consecutive ranges, one for each process, about equal in weight.

        Args:
            ends: int64 [N] running sums of the rows' weights.

        Returns:
            `size` + 1 bounds; process r has the rows from bounds[r] up to bounds[r + 1].
        """
        if self.size == 1:
            return [0, len(ends)]
        total = int(ends[-1]) if len(ends) else 0
        parts = torch.arange(1, self.size, device=ends.device)
        bounds = -(-2 * total * parts // self.size)
        # A row belongs to the range that holds its middle, so that no bound is off by more than
        # half a row.
        twice_middles = 2 * ends - ends.diff(prepend=ends.new_zeros(1))
        inner = torch.searchsorted(twice_middles, bounds)
        return [0, *(int(bound) for bound in inner), len(ends)]

    def share_of(self, total: int) -> tuple[int, int]:
        """This process's share of rows of equal weight: the first, and one past the last."""
        each = -(-total // self.size)
        return min(self.rank * each, total), min((self.rank + 1) * each, total)

    def all_rows(self, share: Tensor, total: int) -> Tensor:
        """All rows, from the shares of all processes; gradients flow back to each share.

        Args:
            share: [n, H]; the rows of `share_of(total)`.
            total: the number of rows.

        Returns:
            [total, H], the same on all processes. Its gradient is summed over the processes.
        """
        if self.size == 1:
            return share
        # Always float32: the type that autocast produces may differ between processes.
        rows: Tensor = _AllRows.apply(share.float(), total, self.size)  # type: ignore[no-untyped-call]
        return rows

    def share_rows(self, rows: Tensor, bounds: Sequence[int]) -> None:
        """Fill a tensor of which each process has computed a range of rows.

        Args:
            rows: [N, ...], contiguous; process r has computed rows bounds[r] up to bounds[r + 1].
            bounds: from `cut`.
        """
        if self.size == 1:
            return
        for rank, (first, last) in enumerate(itertools.pairwise(bounds)):
            if first < last:
                dist.broadcast(rows[first:last], src=rank)

    def gather_parts(self, part: Tensor) -> list[Tensor]:
        """The tensors of all processes, of equal width but different lengths, by rank.

        Args:
            part: [n, ...]; n may differ, and be 0.
        """
        if self.size == 1:
            return [part]
        counts = [0.0] * self.size
        counts[self.rank] = len(part)
        lengths = [round(count) for count in self.sum(counts)]
        # Collective operations need equal sizes: short parts are padded.
        padded = part.new_zeros((max(lengths), *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return [padded_part[:length] for padded_part, length in zip(parts, lengths, strict=True)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that may fail on some processes only, and stop all of them if it does.

        A file may be missing on a single machine, for example. The block must not call collective
        operations.

        Raises:
            PeerError: the block failed on another process. Of processes that fail with the same
                message, the first raises its own error and the others raise this one.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self.size > 1:
            try:
                self._stop_with_others(failure)
            except PeerError:
                raise
            except Exception:
                if failure is None:
                    raise
                # Other processes did not get here in time; this process's failure matters more.
                raise failure from None
        if failure is not None:
            raise failure

    def check_same(self, what: str, value: str) -> None:
        """Refuse a value that is not the same on all processes.

        Args:
            what: the name of the value, for the message.
            value: the value of this process.

        Raises:
            DglrecError: the value differs from that of the first process.
        """
        digest = hashlib.sha256(value.encode()).digest()
        first = self.from_first(lambda: digest)
        with self.together():
            if digest != first:
                raise DglrecError(f"rank {self.rank}: {what} differs from that of rank 0")

    def mark_started(self, job: str) -> None:
        """Note that a job has begun, for processes that `torchrun` may start in place of these."""
        if self.store is not None and self.is_first:
            self.store.set(f"{_STARTED}/{job}", "1")

    def has_started(self, job: str) -> bool:
        """Whether a job was begun by earlier processes that `torchrun` replaced by these."""
        store = self.store
        if store is None:
            return False
        found = self.from_first(lambda: b"1" if store.check([f"{_STARTED}/{job}"]) else b"0")
        return found == b"1"

    def _stop_with_others(self, failure: Exception | None) -> None:
        """Raise if another process failed, and this one did not, or has the same message."""
        message = b""
        if failure is not None:
            code = failure.exit_code if isinstance(failure, DglrecError) else 1
            text = str(failure) or type(failure).__name__
            message = bytes([code]) + text.encode()[: _REPORT_BYTES - 1]
        report = torch.zeros(_REPORT_BYTES, dtype=torch.uint8)
        report[: len(message)] = torch.tensor(list(message), dtype=torch.uint8)
        reports = [torch.empty_like(report) for _ in range(self.size)]
        dist.all_gather(reports, report)
        for rank, other in enumerate(reports):
            their_message = bytes(other.tolist()).rstrip(b"\0")
            if (
                their_message
                and rank != self.rank
                and (not message or (rank < self.rank and their_message == message))
            ):
                first_here = self.rank - self.local_rank
                here = first_here <= rank < first_here + self.local_size
                text = their_message[1:].decode(errors="replace")
                raise PeerError(rank, their_message[0], text, elsewhere=not here) from failure


class _AllRows(torch.autograd.Function):
    """`World.all_rows`: an all-gather, whose gradient is a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, total: int, size: int) -> Tensor:
        each = -(-total // size)
        ctx.each, ctx.length, ctx.size = each, len(share), size
        padded = share.new_zeros((each, *share.shape[1:]))
        padded[: len(share)] = share
        rows = share.new_empty((each * size, *share.shape[1:]))
        dist.all_gather(list(rows.chunk(size)), padded)
        return rows[:total]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        whole = gradient.new_zeros((ctx.each * ctx.size, *gradient.shape[1:]))
        whole[: len(gradient)] = gradient
        if gradient.device.type == "cpu":
            # Not every version of Gloo has a reduce-scatter.
            dist.all_reduce(whole)
            start = dist.get_rank() * ctx.each
            return whole[start : start + ctx.length], None, None
        reduced = gradient.new_empty((ctx.each, *gradient.shape[1:]))
        dist.reduce_scatter(reduced, list(whole.chunk(ctx.size)))
        return reduced[: ctx.length], None, None


ALONE = World()
"""The world of a single process."""
