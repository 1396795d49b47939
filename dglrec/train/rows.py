"""Tables of which a step touches few rows: those rows are exchanged and updated, not the table."""

import torch
from torch import Tensor, nn

from dglrec.distributed import World
from dglrec.train.config import TrainConfig


class SharedRows:
    """A table with one row a node, and its optimiser.

    A vector for each of 310,000 users takes 80 MB, and so does its gradient, of which a step fills
    some thousand rows. What processes exchange is these rows and their numbers. Adam's moments are
    those of the rows too ("lazy" Adam, `torch.optim.SparseAdam`): a row that a step does not touch
    stays as it is, and so does not decay.

    Args:
        parameter: [N, H], of an `nn.Embedding(sparse=True)`.
        config: optimiser and weight decay.
        world: the processes that train together.
    """

    def __init__(self, parameter: nn.Parameter, config: TrainConfig, world: World) -> None:
        self.parameter = parameter
        self.world = world
        self.weight_decay = config.weight_decay
        self.decoupled = config.optimizer == "adamw"
        self.optimizer = torch.optim.SparseAdam([parameter])
        self.rows = torch.empty(0, dtype=torch.int64)
        self.values = torch.empty(0)

    def gather(self) -> None:
        """Make `values` the processes' mean gradient of each of `rows`, the same on all of them."""
        table = self.parameter
        if table.grad is None:
            rows = torch.empty(0, dtype=torch.int64, device=table.device)
            values = table.new_empty(0, table.shape[1])
        else:
            gradient = table.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
        all_rows = torch.cat(self.world.gather_parts(rows))
        all_values = torch.cat(self.world.gather_parts(values)) / self.world.size
        whole = torch.sparse_coo_tensor(
            all_rows.unsqueeze(0), all_values, table.shape, check_invariants=False
        ).coalesce()
        self.rows, self.values = whole.indices()[0], whole.values()

    def step(self, learning_rate: float) -> None:
        """Update the rows with what `values` are by now."""
        if not len(self.rows):
            return
        table = self.parameter
        with torch.no_grad():
            if self.weight_decay:
                own = table[self.rows]
                if self.decoupled:
                    table[self.rows] = own * (1 - learning_rate * self.weight_decay)
                else:
                    self.values += self.weight_decay * own
        table.grad = _sparse(self.rows, self.values, table)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()


def _sparse(rows: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """The gradient that is zero in all other rows; they are distinct and in order already."""
    return torch.sparse_coo_tensor(
        rows.unsqueeze(0), values, table.shape, is_coalesced=True, check_invariants=False
    )
