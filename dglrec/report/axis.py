"""An axis of a picture: numbers -> places, with round numbers between its ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_TICKS = 5
_FEWEST_DECADES = 3  # on a logarithmic axis with fewer of them, 2 and 5 have a tick too
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_LARGE_STEP = 10_000


@dataclass(frozen=True)
class Axis:
    """Numbers -> places in the picture.

    Attributes:
        low: the smaller end; of a logarithmic axis its logarithm to the base 10.
        high: the larger end, likewise.
        start: where `low` is in the picture.
        end: where `high` is.
        ticks: the round numbers.
        log: whether the axis is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        tight: bool = False,
        whole: bool = False,
        log: bool = False,
    ) -> "Axis":
        """An axis that has room for all values, and for rounding where there is but one.

        Args:
            values: at least one.
            start: where the axis begins in the picture.
            end: where it ends.
            tight: whether to leave less room.
            whole: whether ticks are whole numbers, as epochs and lengths are.
            log: whether it is logarithmic; values are then above 0.
        """
        placed = [math.log10(value) for value in values] if log else values
        low, high = min(placed), max(placed)
        room = (high - low) * (0.02 if tight else 0.06) or max(abs(high), 1.0) * 0.05
        low, high = low - room, high + room
        ticks = _powers(low, high) if log else _multiples(low, high, whole=whole)
        return cls(low, high, start, end, ticks, log)

    def __call__(self, value: float) -> float:
        """Where a number is in the picture."""
        placed = math.log10(value) if self.log else value
        share = (placed - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def show(self, tick: float) -> str:
        """A tick with as many decimals as the distance of ticks has."""
        if self.log:
            return _with_unit(tick) if tick >= _LARGE_STEP else f"{tick:g}"
        step = min((b - a for a, b in pairwise(self.ticks)), default=abs(tick) or 1.0)
        if step >= _LARGE_STEP:
            return _with_unit(tick)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{tick + 0.0:,.{decimals}f}" if decimals < 7 else f"{tick:.2e}"


def _multiples(low: float, high: float, *, whole: bool) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step *= next((by for by in (1, 2, 5) if (high - low) / (step * by) <= _TICKS), 10)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step), math.floor(high / step)
    return tuple(step * at for at in range(first, last + 1))


def _powers(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten, and 2 and 5 times those where there are few.

    Args:
        low: a logarithm to the base 10.
        high: likewise.
    """
    first, last = math.floor(low), math.floor(high)
    factors = (1, 2, 5) if last - math.ceil(low) + 1 < _FEWEST_DECADES else (1,)
    found = (float(f"{by}e{power}") for power in range(first, last + 1) for by in factors)
    return tuple(tick for tick in found if low <= math.log10(tick) <= high)


def _with_unit(value: float) -> str:
    for bound, unit in _UNITS:
        if abs(value) >= bound:
            return f"{value / bound:g}{unit}"
    return f"{value:g}"
