"""Dropout of a module's values in training."""

from torch import Tensor, nn

from dglrec.kernels import drop_units


class Dropout(nn.Module):
    """Drops a share of the values in training, none in evaluation; see `drop_units`.

    Args:
        share: from 0 to below 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return drop_units(values, self.share) if self.training and self.share else values
