"""The reasons for a predicted rating: the user's rated items without which it would be lower.

The contribution of a rated item j to the prediction for an item i is the prediction minus the
prediction for the same user without the rating of j (leave-one-out influence; Cook and Weisberg,
"Residuals and influence in regression", 1982). Without the rating, the user's bias, degree,
residuals and messages of all layers come from the other ratings; the items stay unchanged.
Predictions are taken before clipping. The result is exact but for rounding, and costs little more
than encoding the user once for each rating: the messages of all ratings are summed once, and the
message of each rating is subtracted from the sum.

Shapes: n users with K ratings in total, k items predicted for each, H embedding size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dglrec.biases import Biases
from dglrec.blocks import Block
from dglrec.errors import UsageError
from dglrec.graph import Adjacency
from dglrec.infer.embed import Embeddings, evaluating
from dglrec.infer.leave_out import LeftOut
from dglrec.infer.lists import ListScorer
from dglrec.infer.predict import Scorer, entries_of
from dglrec.kernels import damp_means, pick_largest
from dglrec.nn import ConvolutionLayer, RatingModel, SAGEConv, aggregate
from dglrec.schema import RatingScale

REASONS = 3
"""The largest number of reasons in an explanation."""

_EDGES = 1 << 14  # at a time: their embeddings stay in the second-level cache
_EDGES_OF_SQUARES = 1 << 12  # at a time, where each edge needs a W x W matrix
_PAIRS = 1 << 20
_ROUNDING = 1e-5  # in ratings: smaller contributions are rounding errors


class Reasons(NamedTuple):
    """The R rated items that contributed most to each prediction, for n users and k items each.

    Attributes:
        items: int32 [n, k, R]; -1 where fewer than R items contributed.
        contributions: float32 [n, k, R]; in ratings, largest first; 0 where there is no item.
    """

    items: npt.NDArray[np.int32]
    contributions: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rated:
    """Users, and the ratings that they are encoded from.

    Attributes:
        ratings: of U users; the neighbours are items of the data set.
        scale: translates the codes of the ratings.
        biases: of these users.
        identities: int64 [U] the users' numbers in the data set; None for users that training
            never saw.
        features: float32 [U, F] of users that training never saw; None without features.
        told: float32 [U, H] for each layer, the messages that such users receive from their
            labels; empty for no messages.
    """

    ratings: Adjacency
    scale: RatingScale
    biases: Biases
    identities: Tensor | None
    features: Tensor | None = None
    told: tuple[Tensor, ...] = ()

    def of_new_users(self, model: RatingModel, users: Tensor) -> Tensor | None:
        """float32 [n, F] the features that the model reads of new users; None without features."""
        if self.features is None:
            return None
        return model.inputs.chosen_of_users(self.features[users])


def check_explainable(model: RatingModel) -> None:
    """Refuse a model from whose users a rating cannot be left out in closed form.

    Raises:
        UsageError: the model uses attention, or weighs ratings by their age, so that each message
            depends on all others; or it has a convolution, aggregator or combination for which
            there is no closed form here.
    """
    if model.config.convolution != "sage":
        raise UsageError(
            "explanations leave out each rating in closed form, and there is none for "
            f"model.convolution={model.config.convolution}; train with sage"
        )
    if model.config.combination != "last":
        raise UsageError(
            "explanations leave out each rating in closed form, and there is none for "
            f"model.combination={model.config.combination}; train with last"
        )
    if model.config.reads_times:
        name = "time_decay" if model.config.time_decay else "time_trend"
        raise UsageError(
            "explanations leave out each rating in closed form, and there is none with "
            f"model.{name}; train without it"
        )
    if model.config.aggregator in ("attention", "lstm"):
        raise UsageError(
            "explanations leave out each rating in closed form, and there is none for "
            f"model.aggregator={model.config.aggregator}; train with mean, sum or pool"
        )


@torch.inference_mode()
def find_reasons(
    model: RatingModel,
    embeddings: Embeddings,
    scorer: Scorer | ListScorer,
    rated: Rated,
    users: Tensor,
    places: Tensor,
    items: Tensor,
    count: int = REASONS,
) -> Reasons:
    """Find the rated items that contribute most to each prediction.

    An item is no reason for itself.

    Args:
        model: the model that made the embeddings.
        embeddings: exact embeddings of the data set.
        scorer: the scorer that chose the items; it knows the users and the items.
        rated: the ratings that the users are encoded from.
        users: int64 [n] rows of `rated`.
        places: int64 [n] the same users' rows in the scorer.
        items: int64 [n, k] the items predicted for each user.
        count: R, the largest number of reasons for a prediction.

    Raises:
        UsageError: see `check_explainable`.
    """
    check_explainable(model)
    shape = (*items.shape, count)
    out = Reasons(np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.float32))
    offsets = torch.from_numpy(rated.ratings.offsets)
    ends = (offsets[users + 1] - offsets[users]).cumsum(0)
    device = embeddings.nodes.items.device
    with evaluating(model):
        layers = zip(model.encoder.convolution_layers, embeddings.item_layers, strict=True)
        hops = [_Hop(layer, values) for layer, values in layers]
        first = 0
        while first < len(users):
            # As many users as have `_EDGES` ratings together, and at least one user.
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(torch.searchsorted(ends, before + _EDGES, right=True)))
            part, first = slice(first, last), last
            block, inputs, shifts, rated_items = _without_each(rated, users[part])
            if not len(rated_items):
                continue
            owners = torch.repeat_interleave(torch.arange(len(users[part])), block.offsets.diff())
            inputs_on_device = inputs.to(device)
            if rated.identities is None:
                known = rated.of_new_users(model, users[part])
                known = None if known is None else known[owners].to(device)
                values = model.inputs.new_users(inputs_on_device, known)
            else:
                identities = rated.identities[users[part]][owners].to(device)
                values = model.inputs.users(identities, inputs_on_device)
            on_device = block.to(device), owners.to(device), shifts.to(device)
            for number, hop in enumerate(hops):
                told = rated.told[number][users[part].to(device)] if rated.told else None
                if embeddings.told_users and rated.identities is not None:
                    told = embeddings.told_users[number][rated.identities[users[part]].to(device)]
                values = hop.without_each(values, *on_device, told)
            left_out = LeftOut(*on_device, inputs[:, 0], owners, rated.ratings, users[part])
            step = max(1, _PAIRS // len(rated_items))
            for column in range(0, items.shape[1], step):
                predicted = items[part, column : column + step]
                without = scorer.without_each(left_out, values, predicted)
                pairs = places[part].repeat_interleave(predicted.shape[1]), predicted.flatten()
                contributions = scorer.pairs(*pairs).view_as(predicted)[owners] - without
                contributions[rated_items.unsqueeze(1) == predicted[owners]] = 0.0
                contributions[contributions < _ROUNDING] = 0.0
                entries, largest = pick_largest(block.offsets.numpy(), contributions.numpy(), count)
                found = entries >= 0
                columns = slice(column, column + step)
                out.items[part, columns][found] = rated_items.numpy()[entries[found]]
                out.contributions[part, columns][found] = largest[found]
    return out


def _without_each(rated: Rated, users: Tensor) -> tuple[Block, Tensor, Tensor, Tensor]:
    """The ratings of n users, and the user's inputs without each of them.

    Returns:
        All K ratings; float32 [K, 3] the user's `Biases.inputs` without each rating; float32 [K]
        by how much the user's bias is higher without it; int64 [K] the rated items.
    """
    ratings, biases = rated.ratings, rated.biases
    owners, entries = entries_of(ratings.offsets, users)
    items = torch.from_numpy(ratings.neighbours[entries.numpy()]).long()
    codes = np.asarray(ratings.codes[entries.numpy()])
    starts = torch.from_numpy(ratings.offsets)
    degrees = starts[users + 1] - starts[users]
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), degrees.cumsum(0)))
    bias = biases.users[users]
    above_item = torch.from_numpy(rated.scale.decode(codes)) - biases.mean - biases.items[items]
    # A user's bias is the damped mean of rating - mean - item bias.
    sums = bias * (degrees + biases.damping.users)
    other_degrees = degrees[owners] - 1
    other_bias = (sums[owners] - above_item) / (other_degrees + biases.damping.users)
    block = Block(offsets, items, above_item - bias[owners], degrees.float())
    squares = biases.user_squares[users][owners] - above_item.square()
    inputs = biases.inputs(other_bias, other_degrees.float(), squares, biases.damping.users)
    return block, inputs, other_bias - bias[owners], items


class _Hop:
    """The part of a layer that updates users, with the message of each item computed once."""

    def __init__(self, layer: ConvolutionLayer, items: Tensor) -> None:
        bare = layer.to_users.bare
        assert isinstance(bare, SAGEConv)
        self.activated, self.residual = layer.activated, layer.residual
        self.bare, self.rated = bare, layer.to_users.rated
        self.refinement = layer.refinement
        self.refining = None if layer.refinement is None else layer.refinement.source(items)
        pool = self.bare.pool
        self.sent = self.bare.neighbour(items) if pool is None else functional.relu(pool(items))
        self.weighed = None if self.rated is None else self.rated.rating(items)

    def without_each(
        self,
        previous: Tensor,
        block: Block,
        owners: Tensor,
        shifts: Tensor,
        told: Tensor | None = None,
    ) -> Tensor:
        """The layer's values of the users without each of their ratings, float32 [K, H].

        Args:
            previous: float32 [K, H] the previous layer's values of the users without each rating.
            block: the K ratings.
            owners: int64 [K] the user of each rating, as a row of the block.
            shifts: float32 [K] by how much the user's bias is higher without the rating.
            told: float32 [n, H] the messages that the users receive along other relations; None
                for no messages.
        """
        out: Tensor = self.bare.own(previous) + self._bare(block, owners)
        if self.rated is not None and self.weighed is not None:
            out = out + _weighed(block, self.weighed, owners, shifts, self.rated.damping)
        if told is not None:
            out = out + told[owners]
        out = self.activated(out)
        if self.residual:
            out = out + previous
        if self.refinement is not None and self.refining is not None:
            guess = self.refinement.guess(out)
            delta = _refit(block, self.refining, guess, owners, shifts, self.refinement.damping)
            out = out + self.refinement.out(delta)
        return out

    def _bare(self, block: Block, owners: Tensor) -> Tensor:
        if self.bare.pool is not None:
            out: Tensor = self.bare.neighbour(_maximum_without_each(block, self.sent, owners))
            return out
        rest = aggregate(block, self.sent, "sum")[owners] - self.sent[block.neighbours]
        if self.bare.aggregator == "sum":
            return rest
        return rest / (block.degrees[owners] - 1).clamp(min=1).unsqueeze(1)


def _maximum_without_each(block: Block, messages: Tensor, owners: Tensor) -> Tensor:
    """For each edge the maximum of its user's other messages, which are >= 0, by unit; [K, H]."""
    largest = aggregate(block, messages, "max")
    of_edges = messages[block.neighbours]
    is_largest = of_edges == largest[owners]
    times = torch.zeros_like(largest).index_add(0, owners, is_largest.to(largest.dtype))
    smaller = of_edges.masked_fill(is_largest, 0.0)
    rows = owners.unsqueeze(1).expand_as(smaller)
    second = torch.zeros_like(largest).scatter_reduce(0, rows, smaller, "amax")
    return torch.where(is_largest & (times[owners] == 1), second[owners], largest[owners])


def _weighed(
    block: Block, messages: Tensor, owners: Tensor, shifts: Tensor, damping: Tensor
) -> Tensor:
    """`RatingConv` without each edge, with the other edges' residuals recomputed; [K, H]."""
    other_degrees = block.degrees[owners] - 1
    sums = _others_ratings(block, messages, owners, shifts)
    means = sums / other_degrees.clamp(min=1).unsqueeze(1)
    return damp_means(means, other_degrees, damping)


def _refit(
    block: Block, sources: Tensor, guess: Tensor, owners: Tensor, shifts: Tensor, damping: Tensor
) -> Tensor:
    """`fit_ridge` without each edge; [K, W].

    Leaving out an edge takes one term off the sum of e q and off the sum of q q^T. As in
    `fit_ridge`, the sums and the linear systems are float64: where the sources are nearly alike,
    only the damping keeps the sum of q q^T from being singular, and float32 would lose it.
    """
    dtype = guess.dtype
    sources, guess, damping = sources.double(), guess.double(), damping.double()
    of_edges = sources[block.neighbours]
    squares = sources.new_zeros(block.num_destinations, *of_edges.shape[1:], of_edges.shape[1])
    every = torch.arange(len(owners), device=owners.device)
    for edges in every.split(_EDGES_OF_SQUARES):
        rows = of_edges[edges]
        squares.index_add_(0, owners[edges], rows.unsqueeze(2) * rows.unsqueeze(1))
    out = _others_ratings(block, sources, owners, shifts)
    for edges in every.split(_EDGES_OF_SQUARES):
        rows = of_edges[edges]
        matrices = squares[owners[edges]] - rows.unsqueeze(2) * rows.unsqueeze(1)
        right_sides = out[edges].unsqueeze(2) - matrices @ guess[edges].unsqueeze(2)
        out[edges] = torch.linalg.solve(matrices + torch.diag(damping), right_sides).squeeze(2)
    return out.to(dtype)


def _others_ratings(block: Block, sources: Tensor, owners: Tensor, shifts: Tensor) -> Tensor:
    """For each edge the sum of e q over its user's other edges, with e recomputed; [K, W]."""
    of_edges = sources[block.neighbours]
    plain = aggregate(block, sources, "sum")[owners] - of_edges
    weighed = aggregate(block, sources, "sum", block.residuals)[owners]
    return weighed - block.residuals.unsqueeze(1) * of_edges - shifts.unsqueeze(1) * plain
