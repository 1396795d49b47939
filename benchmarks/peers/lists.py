"""Peers that make lists, each trained by its own library's code.

Every one is a function that trains on pairs and calls `report` after each stretch of training: a
step, or an epoch where the library has no smaller unit. `report` returns True when time is up.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Vectors = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Report = Callable[[int, Callable[[], Vectors]], bool]
"""Pairs trained on since the last call, and what gives users' [U, F] and items' [I, F] vectors,
whose dot products order a user's list -> whether to stop. The clock stands still meanwhile."""

WIDTH = 64
LAYERS = 3


class Pairs(NamedTuple):
    """The training pairs: int64 [E] each, by user, and how many users and items there are."""

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    num_users: int
    num_items: int


class Stopped(Exception):  # noqa: N818 - no error: it leaves a library's loop when time is up
    """Time is up."""


def train_pyg(pairs: Pairs, report: Report, *, batch: int, learning_rate: float, seed: int) -> None:
    """`torch_geometric.nn.models.LightGCN` with BPR, after PyG's `examples/lightgcn.py`.

    The adjacency is normalised once, as in LightGCN's paper, and given as the sparse CSR tensor
    that PyG converts others to. A plain `edge_index` gathers and scatters a row for each edge.
    """
    from torch_geometric.nn.models import LightGCN

    torch.manual_seed(seed)
    num_users, num_nodes = pairs.num_users, pairs.num_users + pairs.num_items
    users, items = torch.from_numpy(pairs.users), torch.from_numpy(pairs.items) + num_users
    ends = torch.stack((torch.cat((users, items)), torch.cat((items, users))))
    degrees = torch.bincount(ends[0], minlength=num_nodes).float()
    weights = (degrees[ends[0]] * degrees[ends[1]]).rsqrt()
    graph = torch.sparse_coo_tensor(ends, weights, (num_nodes, num_nodes)).coalesce()
    graph = graph.to_sparse_csr()
    model = LightGCN(num_nodes, WIDTH, LAYERS, normalize=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    @torch.no_grad()
    def vectors() -> Vectors:
        found = model.get_embedding(graph)
        return found[:num_users].numpy(), found[num_users:].numpy()

    while True:
        for chosen in torch.randperm(len(users)).split(batch):
            positive: Tensor = torch.stack((users[chosen], items[chosen]))
            other = torch.randint(num_users, num_nodes, (len(chosen),))
            negative = torch.stack((users[chosen], other))
            scores = model(graph, torch.cat((positive, negative), dim=1))
            loss = model.recommendation_loss(
                *scores.chunk(2),
                node_id=torch.cat((users[chosen], items[chosen], other)),
                lambda_reg=1e-4,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if report(len(chosen), vectors):
                return


def train_cornac(
    pairs: Pairs, report: Report, *, batch: int, learning_rate: float, seed: int
) -> None:
    """Cornac's `LightGCN`, which is built on DGL.

    It trains in one call. Its early stopping, called after each epoch when the vectors are there,
    is where an epoch is reported.
    """
    from cornac.data import Dataset
    from cornac.models import LightGCN

    class Reporting(LightGCN):  # type: ignore[misc]
        def early_stop(self, *_: Any, **__: Any) -> bool:
            return report(len(pairs.users), lambda: (self.U, self.V))

    shape = {"num_users": pairs.num_users, "num_items": pairs.num_items}
    ratings = np.ones(len(pairs.users), dtype=np.float32)
    data = Dataset(
        **shape,
        uid_map={str(user): user for user in range(pairs.num_users)},
        iid_map={str(item): item for item in range(pairs.num_items)},
        uir_tuple=(pairs.users, pairs.items, ratings),
        seed=seed,
    )
    model = Reporting(
        emb_size=WIDTH,
        num_layers=LAYERS,
        num_epochs=1_000_000,
        batch_size=batch,
        learning_rate=learning_rate,
        early_stopping={"patience": 0},
        seed=seed,
    )
    model.fit(data)


def train_implicit_bpr(
    pairs: Pairs, report: Report, *, regularization: float, learning_rate: float, seed: int
) -> None:
    """`implicit`'s `BayesianPersonalizedRanking`; an item's bias is one of its vector's columns."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=WIDTH,
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=1_000_000,
        random_state=seed,
    )
    _fit_implicit(model, pairs, report)


def train_implicit_als(
    pairs: Pairs, report: Report, *, regularization: float, alpha: float, seed: int
) -> None:
    """`implicit`'s `AlternatingLeastSquares`, by conjugate gradients."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=WIDTH,
        regularization=regularization,
        alpha=alpha,
        iterations=1_000_000,
        random_state=seed,
    )
    _fit_implicit(model, pairs, report)


def _fit_implicit(model: Any, pairs: Pairs, report: Report) -> None:
    from scipy.sparse import csr_matrix

    ones = np.ones(len(pairs.users), dtype=np.float32)
    shape = (pairs.num_users, pairs.num_items)
    matrix = csr_matrix((ones, (pairs.users, pairs.items)), shape=shape)

    def after_epoch(*_: Any) -> None:
        if report(len(pairs.users), lambda: (model.user_factors, model.item_factors)):
            raise Stopped

    try:
        model.fit(matrix, show_progress=False, callback=after_epoch)
    except Stopped:
        return
