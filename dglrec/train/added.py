"""A trial run of registered parts on a few rows, before anything is trained or replaced."""

from dglrec.dataset import RatingDataset
from dglrec.nn import prove_convolution
from dglrec.train.config import Settings
from dglrec.train.objectives import prove_list_loss, prove_loss


def prove_parts(settings: Settings, dataset: RatingDataset) -> None:
    """Try the registered parts of a graph model; parts of the package are not tried.

    Raises:
        UsageError: a part fails, or returns a wrong shape or numbers that are not finite.
    """
    heads = settings.model.heads
    prove_convolution(settings.model)
    if heads != "lists":
        prove_loss(settings.train.loss, dataset)
    if heads != "rating":
        prove_list_loss(settings.ranking)
