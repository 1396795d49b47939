"""Embedding tables whose rows are exchanged and updated only where a step has gradients."""

from typing import Any

import torch
from torch import nn

from dglrec.distributed import World
from dglrec.kernels import AdamStep, move_rows
from dglrec.train.config import TrainConfig

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # as in torch.optim.Adam


class SharedRows:
    """A table with a row for each node, and its optimiser.

    Vectors of 310,000 users take 80 MB, and so does their dense gradient, of which a step fills
    about ten thousand rows. Processes exchange only these rows and their numbers. Adam's moments
    are updated for these rows only, as in `torch.optim.SparseAdam` ("lazy" Adam; Kingma and Ba,
    "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1, for the rows that have a
    gradient): a row without a gradient stays unchanged, and is not decayed.

    Args:
        parameter: [N, H], of an `nn.Embedding(sparse=True)`; a batch names each row at most once.
        config: optimiser and weight decay.
        world: the processes that train together.

    Attributes:
        rows: int64 [n] rows of the step, ascending if they come from several batches or processes.
        values: float32 [n, H] the gradients of these rows.
    """

    def __init__(self, parameter: nn.Parameter, config: TrainConfig, world: World) -> None:
        self.parameter = parameter
        self.world = world
        self.weight_decay = config.weight_decay
        self.decoupled = config.optimizer == "adamw"
        self.steps = 0
        self.moments = torch.zeros_like(parameter.data), torch.zeros_like(parameter.data)
        self.rows = torch.empty(0, dtype=torch.int64)
        self.values = torch.empty(0)

    def gather(self, batches: int = 1) -> None:
        """Set `rows` and `values` to the mean gradient over the processes, the same on all of them.

        Args:
            batches: the number of batches whose gradients were accumulated.
        """
        table, world = self.parameter, self.world
        if table.grad is None:
            rows = torch.empty(0, dtype=torch.int64, device=table.device)
            values = table.new_empty(0, table.shape[1])
        else:
            gradient = table.grad.coalesce() if batches > 1 else table.grad
            rows, values = gradient._indices()[0], gradient._values()
        if world.size > 1:
            parts = world.gather_parts(rows)
            rows, places = torch.unique(torch.cat(parts), return_inverse=True)
            total = values.new_zeros(len(rows), table.shape[1])
            # Process by process: a part has no row twice, so that on a GPU too the order of the
            # sums, and thus every bit, is the same on all processes.
            lengths = [len(part) for part in parts]
            for part_rows, part in zip(
                places.split(lengths), world.gather_parts(values), strict=True
            ):
                total.index_add_(0, part_rows, part)
            values = total / world.size
        self.rows, self.values = rows, values

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the rows with the current `values`."""
        if not len(self.rows):
            return
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in _BETAS)
        decay = self.weight_decay
        step = AdamStep(
            rate=learning_rate / first,
            first=_BETAS[0],
            second=_BETAS[1],
            correction=second,
            epsilon=_EPSILON,
            kept=1 - learning_rate * decay if self.decoupled else 1.0,
            penalty=0.0 if self.decoupled else decay,
        )
        move_rows(self.parameter.data, self.moments, self.rows, self.values, step)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed training needs, without the table itself."""
        return {"steps": self.steps, "moments": list(self.moments)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state.

        Raises:
            KeyError, RuntimeError, ValueError: the state is not of this table.
        """
        for moment, saved in zip(self.moments, state["moments"], strict=True):
            moment.copy_(saved)
        self.steps = int(state["steps"])
