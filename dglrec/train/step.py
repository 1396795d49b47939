"""A training step: predictions, loss, gradient, optimiser; in a single process or several."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dglrec.blocks import EdgeBatch
from dglrec.distributed import ALONE, World
from dglrec.errors import DivergedError
from dglrec.nn import Encoded, ListTerms, NodeValues, RatingModel
from dglrec.train.config import TrainConfig
from dglrec.train.objectives import Costs, Objective
from dglrec.train.rows import SharedRows


@dataclass(frozen=True)
class Outcome:
    """The result of a batch.

    Attributes:
        costs: the losses of this process's targets, before the step, without gradients.
        count: the number of this process's targets.
        notes: sums over all processes of the notes that were passed; empty without a step.
    """

    costs: Costs
    count: int
    notes: tuple[float, ...] = ()


class TrainingStep:
    """Predictions, loss, gradient, and an optimiser step after one or more batches.

    The gradient of a step is that of the mean loss over all of its targets, whatever their number
    on each process and in each batch: sums are accumulated, and divided once, by
    `EdgeBatch.divisor`. `DistributedDataParallel` (Li et al., "PyTorch distributed: experiences on
    accelerating data parallel training", VLDB 2020) sums over processes, which it does for
    finished gradients while others are still computed.

    Args:
        model: the model, which is trained in place.
        config: optimiser, schedule and clipping; the learning rate is a number, not `auto`.
        objective: the objective to minimise.
        steps: the number of steps of all epochs, for the schedule.
        world: the processes that train together.

    Attributes:
        number: the number of steps taken, including steps without targets.
    """

    def __init__(
        self,
        model: RatingModel,
        config: TrainConfig,
        objective: Objective,
        steps: int,
        world: World = ALONE,
    ) -> None:
        if config.learning_rate == "auto":
            raise ValueError("the learning rate must be a number; see Settings.resolved")
        self.model = model
        self.config = config
        self.objective = objective
        self.steps = steps
        self.world = world
        self.number = 0
        self._rate = config.learning_rate
        self._targets = 0.0  # since the last step: the divisor of the sum of losses
        # The loss and some edges of each batch with targets since the last step.
        self._losses: list[tuple[Tensor, Tensor]] = []
        self._tables = [SharedRows(table, config, world) for table in model.sparse_tables()]
        sparse = {id(table.parameter) for table in self._tables}
        self._dense = [p for p in model.parameters() if id(p) not in sparse]
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(
            self._dense, lr=self._rate, weight_decay=config.weight_decay, fused=True
        )
        summed = _SummedCosts(model, objective, self._dense, config.precision == "bfloat16", world)
        self._summed: nn.Module = summed
        if config.compile:
            summed.compile(fullgraph=True, dynamic=False)
        if world.size > 1:
            self._summed = _distributed(summed, sparse)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate * learning_rate_share(self.number, self.steps, self.config)

    def __call__(
        self, batch: EdgeBatch | None, *, update: bool = True, notes: Sequence[float] = ()
    ) -> Outcome:
        """Add the gradient of a batch; then take a step, or leave that to a later batch.

        Args:
            batch: on the model's device; None for a batch without targets.
            update: whether to take a step.
            notes: numbers to sum over all processes at the same time; only with `update`.

        Raises:
            DivergedError: the loss or the gradient is not finite; the weights are unchanged.
        """
        count = 0 if batch is None else batch.num_targets
        self._targets += 0 if batch is None else batch.divisor
        # The sums are exchanged while the batch is computed.
        finish = self.world.start_sum((self._targets, *notes)) if update else None
        with self._without_sums() if not update else nullcontext():
            costs = Costs(*self._summed(batch))
            costs.total.backward()
        costs = costs._replace(total=costs.total.detach())
        if batch is not None:
            self._losses.append((costs.total, batch.edges[:3].clone()))
        if finish is None:
            return Outcome(costs, count)
        targets, *sums = finish()
        if targets:
            self._update(targets)
        self.optimizer.zero_grad()
        for table in self._tables:
            table.parameter.grad = None
        self._targets = 0.0
        self._losses = []
        self.number += 1
        return Outcome(costs, count, tuple(sums))

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed training needs, without the weights."""
        return {
            "number": self.number,
            "optimizer": self.optimizer.state_dict(),
            "tables": [table.state_dict() for table in self._tables],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state.

        Raises:
            KeyError, TypeError, ValueError: the state is not of this model and configuration.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        for table, its_state in zip(self._tables, state["tables"], strict=True):
            table.load_state_dict(its_state)
        self.number = int(state["number"])

    def _without_sums(self) -> AbstractContextManager[Any]:
        summed = self._summed
        if isinstance(summed, DistributedDataParallel):
            return summed.no_sync()
        return nullcontext()

    def _update(self, targets: float) -> None:
        for table in self._tables:
            table.gather(len(self._losses))
        gradients = [p.grad for p in self._dense if p.grad is not None]
        gradients += [table.values for table in self._tables]
        # Gradients are means of sums over processes; the mean over all targets is needed.
        share = self.world.size / targets
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = share * torch.linalg.vector_norm(norms)
        self._check_finite(norm)
        factor = share * (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
        rate = self.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for table in self._tables:
            table.step(rate)

    def _check_finite(self, norm: Tensor) -> None:
        """Raise on all processes before a loss or gradient that is not finite reaches the weights.

        The norm is the same on all processes; the losses tell which batch it was.
        """
        if bool(torch.isfinite(norm)):
            return
        bad = [(loss, edges) for loss, edges in self._losses if not bool(torch.isfinite(loss))]
        (any_bad,) = self.world.sum([bool(bad)])
        loss, edges = (bad or self._losses or [(torch.zeros(()), torch.empty(0))])[0]
        rank = f"rank {self.world.rank}, " if self.world.size > 1 else ""
        with self.world.together():
            if bad or (not any_bad and self.world.is_first):
                raise DivergedError(
                    f"{rank}loss {float(loss):g}, gradient norm {float(norm):g} (batch of edges "
                    f"{', '.join(str(int(edge)) for edge in edges)}, ...); the weights are as "
                    "before this step; try a lower train.learning_rate"
                )


class _SummedCosts(nn.Module):
    """A module that computes the `Costs` of a batch.

    Low precision is for the encoder only. Its outputs are converted to float32 for the heads and
    the objective: bfloat16 has 8 bits, so a residual of 1 would be off by up to 0.004, and so would
    each term of a sum over a catalogue.

    Args:
        model: the model.
        objective: the objective to minimise.
        weights: the weights that get a gradient even without a batch.
        low_precision: whether to encode in bfloat16.
        world: the processes, which exchange items if each encodes a share of them.
    """

    def __init__(
        self,
        model: RatingModel,
        objective: Objective,
        weights: list[nn.Parameter],
        low_precision: bool,
        world: World,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.weights = weights
        self.low_precision = low_precision
        self.all_items = partial(world.all_rows, total=len(model.inputs.features))

    def forward(self, batch: EdgeBatch | None) -> tuple[Tensor, ...]:
        if batch is None:
            # Other processes wait for this process's gradients, even if they are zeros.
            nothing = sum((weight.sum() * 0 for weight in self.weights), torch.zeros(()))
            zero = torch.zeros((), dtype=torch.float64, device=nothing.device)
            return nothing, zero, zero, zero.long()
        if self.low_precision:
            with torch.autocast(batch.ratings.device.type, dtype=torch.bfloat16):
                encoded = _in_float32(self.model.encode(batch, self.all_items))
        else:
            encoded = self.model.encode(batch, self.all_items)
        return tuple(self.objective.costs(self.model, encoded, batch))


def _in_float32(encoded: Encoded) -> Encoded:
    nodes = NodeValues(*(values.float() for values in encoded.nodes))
    return encoded._replace(nodes=nodes, users=_terms(encoded.users), items=_terms(encoded.items))


def _terms(terms: ListTerms | None) -> ListTerms | None:
    return None if terms is None else ListTerms(*(tensor.float() for tensor in terms))


def _distributed(summed: _SummedCosts, sparse: set[int]) -> DistributedDataParallel:
    """Average gradients over processes; those of sparse tables are left to `SharedRows`."""
    ignored = [name for name, parameter in summed.named_parameters() if id(parameter) in sparse]
    ignored += [name for name, _ in summed.named_buffers()]  # constants and features
    # DistributedDataParallel reads the parameters and buffers to ignore from this attribute.
    summed._ddp_params_and_buffers_to_ignore = ignored  # type: ignore[assignment]
    return DistributedDataParallel(summed, gradient_as_bucket_view=True)


def learning_rate_share(step: int, steps: int, config: TrainConfig) -> float:
    """The share of the highest learning rate that a step uses, 0 to 1.

    Args:
        step: the step's number, from 0.
        steps: the number of steps of all epochs.
        config: schedule and warm-up.
    """
    rising = min(1.0, (step + 1) / (config.warmup_steps + 1))
    done = min(1.0, step / steps)
    if config.schedule == "cosine":
        return rising * (1 + math.cos(math.pi * done)) / 2
    return rising * (1 - done) if config.schedule == "linear" else rising
