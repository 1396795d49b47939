"""One step: predictions, loss, gradient, optimiser; alone or with other processes."""

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
    """What came of a batch.

    Attributes:
        costs: of this process's targets, before any step; what it holds has no gradient.
        count: this process's targets.
        notes: sums over all processes of the notes that were passed; empty without a step.
    """

    costs: Costs
    count: int
    notes: tuple[float, ...] = ()


class TrainingStep:
    """Predictions, loss, gradient, and an optimiser step after one or more batches.

    A step's gradient is that of the mean loss over all of its targets, whatever their number on
    each process and in each batch: sums are added up, and divided once, by `EdgeBatch.divisor`.
    Across processes that is done by `DistributedDataParallel` (Li et al., "PyTorch distributed:
    experiences on accelerating data parallel training", VLDB 2020), which adds up gradients while
    others are still computed.

    Args:
        model: what is trained, in place.
        config: optimiser, schedule and clipping; its learning rate a number, not `auto`.
        objective: what is minimised.
        steps: of all epochs, for the schedule.
        world: the processes that train together.

    Attributes:
        number: steps taken, whether or not they held a target.
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
        self._targets = 0.0  # since the last step: what the sum of costs is divided by
        # Of each batch since then that held targets: its loss, and some of its edges.
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
        """That of the next step."""
        return self._rate * learning_rate_share(self.number, self.steps, self.config)

    def __call__(
        self, batch: EdgeBatch | None, *, update: bool = True, notes: Sequence[float] = ()
    ) -> Outcome:
        """Add a batch's gradient; then take a step, or leave that to a later batch.

        Args:
            batch: on the model's device; None for no targets.
            update: whether to take a step.
            notes: numbers to add up over all processes on the way; with `update` only.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are as before.
        """
        count = 0 if batch is None else batch.num_targets
        self._targets += 0 if batch is None else batch.divisor
        # Sums on their way while the batch computes.
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
        """What training goes on from, beside the weights."""
        return {
            "number": self.number,
            "optimizer": self.optimizer.state_dict(),
            "tables": [table.state_dict() for table in self._tables],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            KeyError, TypeError, ValueError: it is not one of this model and configuration.
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
        # The processes' mean of sums is on hand, and what is wanted is the mean over all targets.
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
        """Stop before a loss or gradient that is no number reaches the weights, on all processes.

        The norm is the same on all of them; the losses tell whose batch it was.
        """
        if bool(torch.isfinite(norm)):
            return
        bad = [(loss, edges) for loss, edges in self._losses if not bool(torch.isfinite(loss))]
        (somebodys,) = self.world.sum([bool(bad)])
        loss, edges = (bad or self._losses or [(torch.zeros(()), torch.empty(0))])[0]
        rank = f"rank {self.world.rank}, " if self.world.size > 1 else ""
        with self.world.together():
            if bad or (not somebodys and self.world.is_first):
                raise DivergedError(
                    f"{rank}loss {float(loss):g}, gradient norm {float(norm):g} (batch of edges "
                    f"{', '.join(str(int(edge)) for edge in edges)}, ...); the weights are as "
                    "before this step; try a lower train.learning_rate"
                )


class _SummedCosts(nn.Module):
    """A batch -> its `Costs`.

    Low precision is for the encoder alone. What comes out of it is brought to float32 for the heads
    and the objective: bfloat16 has 8 bits, so a residual of 1 would be off by up to 0.004, and so
    would each of the terms of a sum over a catalogue.

    Args:
        model: what predicts.
        objective: what is minimised.
        weights: those that get a gradient in any case.
        low_precision: whether to encode in bfloat16.
        world: the processes that exchange items where they share them.
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
            # Other processes wait for this one's gradients, zeros though they are.
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
    nodes = NodeValues(*(one.float() for one in encoded.nodes))
    return encoded._replace(nodes=nodes, users=_terms(encoded.users), items=_terms(encoded.items))


def _terms(terms: ListTerms | None) -> ListTerms | None:
    return None if terms is None else ListTerms(*(one.float() for one in terms))


def _distributed(summed: _SummedCosts, sparse: set[int]) -> DistributedDataParallel:
    """Gradients become the mean over processes; those of sparse tables are left to `SharedRows`."""
    ignored = [name for name, parameter in summed.named_parameters() if id(parameter) in sparse]
    ignored += [name for name, _ in summed.named_buffers()]  # constants, and the data set's
    # The name under which DistributedDataParallel looks for what it is to leave alone.
    summed._ddp_params_and_buffers_to_ignore = ignored  # type: ignore[assignment]
    return DistributedDataParallel(summed, gradient_as_bucket_view=True)


def learning_rate_share(step: int, steps: int, config: TrainConfig) -> float:
    """What part of the highest learning rate a step uses, 0 to 1.

    Args:
        step: from 0.
        steps: of all epochs.
        config: schedule and warm-up.
    """
    rising = min(1.0, (step + 1) / (config.warmup_steps + 1))
    done = min(1.0, step / steps)
    if config.schedule == "cosine":
        return rising * (1 + math.cos(math.pi * done)) / 2
    return rising * (1 - done) if config.schedule == "linear" else rising
