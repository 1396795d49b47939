"""Parts that were registered, tried on a few rows before anything is trained or replaced."""

from dglrec.dataset import RatingDataset
from dglrec.nn import prove_convolution
from dglrec.train.config import Settings
from dglrec.train.objectives import prove_list_loss, prove_loss


def prove_parts(settings: Settings, dataset: RatingDataset) -> None:
    """Try the parts of a graph model that others have added; those of the package are left alone.

    Raises:
        UsageError: one fails, or gives another shape than is wanted, or no numbers.
    """
    heads = settings.model.heads
    prove_convolution(settings.model)
    if heads != "lists":
        prove_loss(settings.train.loss, dataset)
    if heads != "rating":
        prove_list_loss(settings.ranking)
