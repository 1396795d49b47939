"""Adam's step for some rows of a table: each row is read and written once.

Torch's operations gather three tables, pass over the gathered rows a dozen times, and scatter them
back; compiled code needs neither copy.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy.typing as npt
from torch import Tensor

from dglrec.kernels.edges import check_rows
from dglrec.kernels.parallel import compiled, parts_of, run_side_by_side, runs_compiled

_NUMBERS = 7  # numbers read and written for each value of a row


class AdamStep(NamedTuple):
    """The numbers of one step of Adam.

    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Attributes:
        rate: alpha over (1 - beta_1^t).
        first: beta_1.
        second: beta_2.
        correction: 1 - beta_2^t.
        epsilon: added to the root.
        kept: by how much decoupled weight decay multiplies a value before the step (Loshchilov and
            Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2).
        penalty: L2 penalty; times the value, added to its gradient.
    """

    rate: float
    first: float
    second: float
    correction: float
    epsilon: float
    kept: float
    penalty: float


def move_rows(
    table: Tensor, moments: tuple[Tensor, Tensor], rows: Tensor, gradient: Tensor, step: AdamStep
) -> None:
    """Take Adam's step for some rows of a table, and update their moments, in place.

    Args:
        table: float32 [N, H].
        moments: float32 [N, H] each: of the gradients, and of their squares.
        rows: int64 [n], each once.
        gradient: float32 [n, H].
        step: the numbers of the step.

    Raises:
        IndexError: a row does not exist.
        ValueError: the arguments do not fit together.
    """
    shapes = [tuple(one.shape) for one in (table, *moments)]
    if len(set(shapes)) > 1 or gradient.shape != (len(rows), table.shape[1]):
        raise ValueError(f"table and moments {shapes}, gradient {tuple(gradient.shape)}")
    if not all(one.is_contiguous() for one in (table, *moments)):
        raise ValueError("table and moments must be contiguous")
    if not runs_compiled(table):
        _move_anywhere(table, moments, rows, gradient, step)
        return
    check_rows(rows, len(table), "rows")
    tables = _Tables(*(one.detach().numpy() for one in (table, *moments)))
    given = rows.contiguous().numpy(), gradient.detach().contiguous().numpy()
    # Of the table's type, so that compiled code does not compute in float64.
    numbers = AdamStep(*map(tables.values.dtype.type, step))
    run_side_by_side(
        [
            partial(_move, tables, *given, numbers, low, high)
            for low, high in parts_of(len(rows), _NUMBERS * gradient.numel())
        ]
    )


def _move_anywhere(
    table: Tensor, moments: tuple[Tensor, Tensor], rows: Tensor, gradient: Tensor, step: AdamStep
) -> None:
    """`move_rows` in torch's operations."""
    values = table.index_select(0, rows).mul_(step.kept)
    gradient = gradient + step.penalty * values
    mean, square = (moment.index_select(0, rows) for moment in moments)
    mean.lerp_(gradient, 1 - step.first)
    square.mul_(step.second).addcmul_(gradient, gradient, value=1 - step.second)
    values.addcdiv_(mean, (square / step.correction).sqrt_().add_(step.epsilon), value=-step.rate)
    for whole, part in zip((table, *moments), (values, mean, square), strict=True):
        whole.index_copy_(0, rows, part)


class _Tables(NamedTuple):
    """The table and its moments, [N, H] each."""

    values: npt.NDArray[Any]
    means: npt.NDArray[Any]
    squares: npt.NDArray[Any]


@compiled
def _move(tables, rows, gradient, step, low, high):  # type: ignore[no-untyped-def]
    rate, first, second, correction, epsilon, kept, penalty = step
    one = tables.values.dtype.type(1)
    for n in range(low, high):
        row = rows[n]
        values, mean, square = tables.values[row], tables.means[row], tables.squares[row]
        for h in range(gradient.shape[1]):
            value = kept * values[h]
            slope = gradient[n, h] + penalty * value
            new_mean = mean[h] + (one - first) * (slope - mean[h])
            new_square = second * square[h] + (one - second) * slope * slope
            mean[h] = new_mean
            square[h] = new_square
            values[h] = value - rate * new_mean / ((new_square / correction) ** 0.5 + epsilon)
