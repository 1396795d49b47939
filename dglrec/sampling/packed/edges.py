"""The edges that users and items of a step read: samples in rows of the fan-out, or all edges."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dglrec.blocks import RelationBlock
from dglrec.graph import RatingGraph
from dglrec.kernels import chances, sample_fixed
from dglrec.relations import ITEM_TYPE, USER_TYPE, Direction, DirectionTensors
from dglrec.sampling.packed.parts import Edges, PackedStep, Readers
from dglrec.sampling.packed.passes import PackedPasses
from dglrec.sampling.tensors import take


class PackedEdges(PackedPasses):
    """Makes the edges of batches of fixed shapes; see `PackedBatchLoader`.

    Arguments are those of `UserSchedule`.
    """

    def _set_up(self, graph: RatingGraph, directions: Sequence[Direction]) -> None:
        super()._set_up(graph, directions)
        self._in_step = torch.full((graph.num_users + 1,), -1, device=self.device)
        self._share = slice(*self.world.share_of(graph.num_items))
        self._own_items = self._catalogue[self._share]
        self._everybody = torch.arange(graph.num_users, device=self.device)
        ends = graph.by_item.offsets
        self._stretch_of_items = slice(int(ends[self._share.start]), int(ends[self._share.stop]))
        of_items = [of_item for _, of_item in self.config.fanouts]
        before = [of_user for of_user, _ in self.config.fanouts[:-1]]
        self._in_full = (
            min(before + of_items, default=1) < 0
            or any(one.source_type == USER_TYPE for one in directions)
            or sum(of_items) * len(self._own_items) >= graph.num_users
        )

    def _read_by_users(
        self,
        step: PackedStep,
        mine: PackedStep,
        readers: Readers,
        fanout: int,
        key: Tensor,
        keys: Tensor,
    ) -> Edges:
        """The ratings that a layer's users read, without targets.

        Args:
            step: with the users of all processes.
            mine: with this process's users.
            readers: this process's users; where all edges are read, all users may follow them.
            fanout: of users.
            key: of the sample.
            keys: of the step.
        """
        if fanout > 0:
            return self._to_users(step, readers, fanout, key)
        support = self._whole_support(mine)
        if len(readers.nodes) == len(mine.users):
            return support
        return support.followed_by(self._all_ratings(self._everybody, keys, by_user=True))

    def _read_by_items(self, fanout: int, key: Tensor, keys: Tensor) -> Edges:
        """The ratings that this process's items read; neighbours are indices of users."""
        if fanout > 0:
            return self._to_items(keys, fanout, key)
        return self._all_ratings(self._own_items, keys, by_user=False)

    def _among(
        self, readers: Readers, raters: Tensor, step: PackedStep, num_own: int
    ) -> tuple[Readers, Tensor]:
        """Add raters to the readers; gives the readers, and the raters' numbers, int64 [K].

        Args:
            readers: the readers so far; this process's users of the step come first.
            raters: int64 [K].
            step: with the users of all processes.
            num_own: how many users of the step come first.
        """
        first = len(readers.nodes)
        if not self._in_full:
            readers = readers.followed_by(self._readers(step, raters))
            return readers, torch.arange(first, len(readers.nodes), device=self.device)
        if first == num_own:
            readers = readers.followed_by(self._readers(step, self._everybody))
        return readers, raters + num_own

    def _whole_support(self, step: PackedStep) -> Edges:
        """The whole support of the step's users."""
        residuals = self._by_user.ratings(step.support)
        residuals -= self._biases.predict(take(step.users, step.support_owners), step.support_items)
        return Edges(
            step.support_offsets,
            step.support_items,
            residuals * step.support_present,
            step.support_present,
            step.support_counts,
        )

    def _to_users(self, step: PackedStep, readers: Readers, fanout: int, key: Tensor) -> Edges:
        """The sampled ratings that users read; users of the step read from their support."""
        samples, there = sample_fixed(
            readers.starts, readers.counts, fanout, chances(readers.nodes, key)
        )
        of_support = samples - self._num_edges
        edges = torch.where(
            of_support >= 0,
            take(step.support, of_support.clamp(0, len(step.support) - 1).flatten()).view_as(
                samples
            ),
            samples,
        )
        edges = edges.clamp(max=self._num_edges - 1).flatten()
        items = take(self._by_user.neighbours, edges)
        owners = readers.nodes.unsqueeze(1).expand_as(samples).flatten()
        residuals = self._by_user.ratings(edges) - self._biases.predict(owners, items)
        return Edges.of_samples(items, residuals, there)

    def _to_items(self, keys: Tensor, fanout: int, key: Tensor) -> Edges:
        """The sampled ratings that items read, without targets; neighbours are indices of users."""
        lists, nodes = self._by_item, self._own_items
        starts, counts = lists.starts[self._share], lists.counts[self._share]
        samples, there = sample_fixed(starts, counts, fanout, chances(nodes, key))
        edges = samples.clamp(max=self._num_edges - 1).flatten()
        raters = take(lists.neighbours, edges).long()
        items = nodes.unsqueeze(1).expand_as(samples).flatten()
        there = there & ~self._is_held(raters, items, keys).view_as(there)
        residuals = lists.ratings(edges) - self._biases.predict(raters, items)
        return Edges.of_samples(raters, residuals, there)

    def _all_ratings(self, nodes: Tensor, keys: Tensor, *, by_user: bool) -> Edges:
        """All ratings of all users, or of this process's items, without targets."""
        lists = self._by_user if by_user else self._by_item
        part = slice(None) if by_user else self._share
        edges = slice(0, self._num_edges) if by_user else self._stretch_of_items
        owners = nodes.repeat_interleave(lists.counts[part], output_size=edges.stop - edges.start)
        others = lists.neighbours[edges].long()
        users, items = (owners, others) if by_user else (others, owners)
        residuals = lists.ratings(edges) - self._biases.predict(users, items)
        ends = lists.starts[part] - edges.start, lists.offsets.new_full((1,), len(others))
        return Edges.unless(self._is_held(users, items, keys), torch.cat(ends), others, residuals)

    def _along(
        self, tensors: DirectionTensors, nodes: Tensor, key: Tensor, keys: Tensor, before: int
    ) -> RelationBlock:
        """The block of users or items along a direction of a relation.

        Args:
            tensors: the direction's edges.
            nodes: int64 [D] destinations; nobody is replaced by the last user, and has no reader.
            key: of the sample.
            keys: of the step, whose targets are left out of relations between users and items.
            before: how many readers come before all users; added to users' indices.
        """
        kind = tensors.direction
        nodes = nodes.clamp(max=len(tensors.counts) - 1)
        starts, counts = take(tensors.starts, nodes), take(tensors.counts, nodes)
        samples, there = sample_fixed(
            starts, counts, self.config.relation_fanout, chances(nodes, key)
        )
        samples = samples.clamp(max=len(tensors.neighbours) - 1)
        neighbours = take(tensors.neighbours, samples.flatten()).long()
        if {kind.source_type, kind.destination_type} == {USER_TYPE, ITEM_TYPE}:
            ends = nodes.unsqueeze(1).expand_as(samples).flatten(), neighbours
            users, items = ends if kind.destination_type == USER_TYPE else ends[::-1]
            there = there & ~self._is_held(users, items, keys).view_as(there)
        shares = tensors.fixed_shares(samples, there).flatten()
        if kind.source_type == USER_TYPE:
            neighbours = neighbours + before
        block = Edges.of_samples(neighbours, shares, there).given(counts.float())
        return RelationBlock(kind.name, kind.destination_type, kind.source_type, block)

    def _others(
        self, users: Tensor, of_layer: Sequence[Tensor], keys: Tensor, before: int
    ) -> tuple[RelationBlock, ...]:
        """The blocks of a layer's users, int64 [D], and items along all directions.

        Args:
            users: the layer's destinations.
            of_layer: a key for each direction.
            keys: of the step.
            before: as for `_along`.
        """
        return tuple(
            self._along(
                one,
                users if one.direction.destination_type == USER_TYPE else self._own_items,
                key,
                keys,
                before,
            )
            for one, key in zip(self._directions, of_layer, strict=True)
        )

    def _labels_of(
        self, unseen: Tensor, of_layer: Sequence[Tensor], keys: Tensor
    ) -> tuple[RelationBlock, ...]:
        """The labels that unseen items, int64 [C], read: those of the last layer."""
        if not len(unseen):
            return ()
        return tuple(
            self._along(one, unseen, key, keys, 0)
            for one, key in zip(self._directions, of_layer, strict=True)
            if one.direction.reads_labels and one.direction.destination_type == ITEM_TYPE
        )

    def _is_held(self, users: Tensor, items: Tensor, keys: Tensor) -> Tensor:
        """Whether each of n pairs would be a target of the step if it were a rating, bool [n]."""
        return (take(self._in_step, users) >= 0) & self._is_target(users, items, keys)

    def _readers(self, step: PackedStep, raters: Tensor) -> Readers:
        """Where raters' ratings are: for users of the step, in its support."""
        places = take(self._in_step, raters)
        inside, places = places >= 0, places.clamp(min=0)
        starts = take(step.support_offsets, places) + self._num_edges
        counts = take(step.support_counts, places).long()
        return Readers(
            raters,
            torch.where(inside, starts, take(self._starts, raters)),
            torch.where(inside, counts, take(self._counts, raters)),
        )
