"""What both peers take from plain torch: inputs of the nodes, and the edge regressor."""

import torch
from common import Workload
from torch import Tensor, nn

WIDTH = 64
FANOUTS = (5, 10)
"""Neighbours a node, the hop nearest to the target edges first."""

# Of the first columns of `Biases.inputs`: bias and log degree. Log degrees go up to 12; the biases
# beside them stay around 1. The spread, in the column behind them, `plain` does without as well.
_SCALES = (1.0, 0.1)
USER_FEATURES = len(_SCALES)


def user_features(workload: Workload) -> Tensor:
    """float32 [U, USER_FEATURES]: bias and scaled log degree of every user."""
    inputs = workload.biases.user_inputs(slice(None))
    return inputs[:, :USER_FEATURES] * torch.tensor(_SCALES)


class NodeInputs(nn.Module):
    """A learned vector for each item; for each user a linear map of its bias and log degree."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.item_vectors = nn.Embedding(num_items, WIDTH)
        self.from_user_features = nn.Linear(USER_FEATURES, WIDTH)

    def forward(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """float32 [N_u, USER_FEATURES] and int64 [N_i] items -> [N, WIDTH] by type of node."""
        return {"user": self.from_user_features(users), "item": self.item_vectors(items)}


class MLPRegressor(nn.Module):
    """Two layers over the concatenated embeddings of an edge's ends."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, WIDTH] each -> [B] ratings."""
        hidden = torch.relu(self.hidden(torch.cat((users, items), dim=1)))
        ratings: Tensor = self.out(hidden).squeeze(1)
        return ratings
