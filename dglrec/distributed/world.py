"""The processes of one job: what they sum, what they tell one another, how they stop together.

What crosses between processes is numbers and bytes of known form: torch's helpers for arbitrary
objects go through pickle, and are not used.
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
    """What is used of torch's store of keys and bytes that all processes see."""

    def set(self, key: str, value: str) -> None:
        """Put a value."""

    def get(self, key: str) -> bytes:
        """Wait for a value."""

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""

    def add(self, key: str, amount: int) -> int:
        """Count up, and say how far."""


class PeerError(DglrecError):
    """Another process of the job failed, so this one stops too.

    Args:
        rank: the other's.
        exit_code: the other's.
        message: the other's.
        elsewhere: whether the other is on another machine, where its own message is not seen.
    """

    def __init__(self, rank: int, exit_code: int, message: str, elsewhere: bool) -> None:
        super().__init__(f"stopped, as rank {rank} failed: {message}")
        self.exit_code = exit_code
        self.told = not elsewhere


class LostRankError(DglrecError):
    """Another process of the job is gone, or does not answer."""


@dataclass(frozen=True)
class World:
    """The processes of one job, seen from one of them. Alone, everything is already everybody's.

    All methods but `is_first`, `cut`, `share_of` and `mark_started` are for every process to call,
    in the same order.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        local_rank: this process among those on its machine.
        local_size: how many those are.
        store: what outlives a restart by `torchrun`; None where nothing was launched.
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
        """Sums of numbers over all processes, in float64, the same on each."""
        return self.start_sum(values)()

    def start_sum(self, values: Sequence[float]) -> Callable[[], list[float]]:
        """Begin a `sum` while other work goes on; what comes back waits for it."""
        if self.size == 1:
            return lambda: list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        work = dist.all_reduce(totals, async_op=True)

        def finish() -> list[float]:
            work.wait()
            return [float(total) for total in totals]

        return finish

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """What the first process makes, on all.

        Raises:
            PeerError: it failed there.
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
        """Cut N rows, one after the other, into a stretch for each process, about equal in weight.

        Args:
            ends: int64 [N] running sums of the rows' weights.

        Returns:
            `size` + 1 bounds; process r has the rows from bound r to bound r + 1.
        """
        if self.size == 1:
            return [0, len(ends)]
        total = int(ends[-1]) if len(ends) else 0
        parts = torch.arange(1, self.size, device=ends.device)
        bounds = -(-2 * total * parts // self.size)
        # A row belongs where its middle lies, so that no bound is off by more than half a row.
        twice_middles = 2 * ends - ends.diff(prepend=ends.new_zeros(1))
        inner = torch.searchsorted(twice_middles, bounds)
        return [0, *(int(bound) for bound in inner), len(ends)]

    def share_of(self, total: int) -> tuple[int, int]:
        """This process's share of rows that are alike: the first, and one past the last."""
        each = -(-total // self.size)
        return min(self.rank * each, total), min((self.rank + 1) * each, total)

    def all_rows(self, share: Tensor, total: int) -> Tensor:
        """What each process holds of some rows, put together; gradients flow back to each.

        Args:
            share: [n, H]; the rows of `share_of(total)`.
            total: how many there are.

        Returns:
            [total, H], the same on all processes. Its gradient is summed over them.
        """
        if self.size == 1:
            return share
        # In float32 whatever autocast made of it, which may differ between processes.
        rows: Tensor = _AllRows.apply(share.float(), total, self.size)  # type: ignore[no-untyped-call]
        return rows

    def share_rows(self, rows: Tensor, bounds: Sequence[int]) -> None:
        """Fill a tensor of which each process has computed a stretch.

        Args:
            rows: [N, ...], contiguous; rows bounds[r] to bounds[r + 1] are known to process r.
            bounds: as `cut` gives them.
        """
        if self.size == 1:
            return
        for rank, (first, last) in enumerate(itertools.pairwise(bounds)):
            if first < last:
                dist.broadcast(rows[first:last], src=rank)

    def gather_parts(self, part: Tensor) -> list[Tensor]:
        """Tensors of equal width but different length, of all processes, in the order of ranks.

        Args:
            part: [n, ...]; n may differ, and be 0.
        """
        if self.size == 1:
            return [part]
        counts = [0.0] * self.size
        counts[self.rank] = len(part)
        lengths = [round(count) for count in self.sum(counts)]
        # Collectives want equal sizes: of short parts the rest is padding.
        padded = part.new_zeros((max(lengths), *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return [one[:length] for one, length in zip(parts, lengths, strict=True)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that may fail on one process only, as when a file is missing on one machine.

        The block must not call what other processes have to call too.

        Raises:
            PeerError: it failed on another process. Of those that fail with the same words, the
                first raises its own error and the others this.
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
                # Others did not get here in time; why this one failed is what matters.
                raise failure from None
        if failure is not None:
            raise failure

    def check_same(self, what: str, value: str) -> None:
        """Refuse to go on where processes differ in something.

        Args:
            what: that which must not differ, for the message.
            value: this process's.

        Raises:
            DglrecError: it differs from the first process's.
        """
        digest = hashlib.sha256(value.encode()).digest()
        first = self.from_first(lambda: digest)
        with self.together():
            if digest != first:
                raise DglrecError(f"rank {self.rank}: {what} differs from that of rank 0")

    def mark_started(self, job: str) -> None:
        """Note that a job has begun, for the processes that `torchrun` may start in our place."""
        if self.store is not None and self.is_first:
            self.store.set(f"{_STARTED}/{job}", "1")

    def has_started(self, job: str) -> bool:
        """Whether earlier processes, in whose place `torchrun` started us, had begun with a job."""
        store = self.store
        if store is None:
            return False
        found = self.from_first(lambda: b"1" if store.check([f"{_STARTED}/{job}"]) else b"0")
        return found == b"1"

    def _stop_with_others(self, failure: Exception | None) -> None:
        """Raise where another process failed and this one did not, or has the same to say."""
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
            said = bytes(other.tolist()).rstrip(b"\0")
            if (
                said
                and rank != self.rank
                and (not message or (rank < self.rank and said == message))
            ):
                first_here = self.rank - self.local_rank
                here = first_here <= rank < first_here + self.local_size
                text = said[1:].decode(errors="replace")
                raise PeerError(rank, said[0], text, elsewhere=not here) from failure


class _AllRows(torch.autograd.Function):
    """`World.all_rows`: an all-gather, whose gradient is a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, total: int, size: int) -> Tensor:
        each = -(-total // size)
        ctx.each, ctx.own, ctx.size = each, len(share), size
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
            return whole[start : start + ctx.own], None, None
        own = gradient.new_empty((ctx.each, *gradient.shape[1:]))
        dist.reduce_scatter(own, list(whole.chunk(ctx.size)))
        return own[: ctx.own], None, None


ALONE = World()
"""A job of one process."""
