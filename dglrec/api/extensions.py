"""Parts of one's own, under names that the configuration takes from then on, in this process.

What is registered is tried on a few rows before anything is trained with it. A run or a data set
that was made with it needs it registered again wherever it is opened.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from dglrec.errors import UsageError
from dglrec.features import FeatureEncoder, add_encoder
from dglrec.nn import CONVOLUTIONS, Convolution
from dglrec.registry import Registry
from dglrec.train import LIST_LOSSES, LOSSES, ListLoss, Loss

_Loss = TypeVar("_Loss", bound=Loss)
_ListLoss = TypeVar("_ListLoss", bound=ListLoss)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Make = TypeVar("_Make", bound=Callable[[int], Convolution])
_Encoder = TypeVar("_Encoder", bound=type[FeatureEncoder])


def register_loss(name: str, *, replace: bool = False) -> Callable[[_Loss], _Loss]:
    """Make a function the loss `train.loss = name`.

    The function takes float32 [B] predicted ratings and ratings, and gives the loss of each, [B],
    through which gradients go back.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether one that was registered before under that name may go.

    Raises:
        UsageError: the name is none, or taken.
    """
    return _registering(LOSSES, name, replace)


def register_list_loss(name: str, *, replace: bool = False) -> Callable[[_ListLoss], _ListLoss]:
    """Make a function the loss of lists `ranking.loss = name`.

    Of B positive targets, each beside k items that its user has not rated, the function takes
    float32 [B] scores of the positives, float32 [B, k] scores of their negatives, and bool [B, k]
    which negatives there are; the scores of others are 0 and mean nothing. It gives the loss of
    each positive, [B], through which gradients go back. Which negatives there are say
    `ranking.negatives`, `ranking.negatives_a_target` and the like; scores are over
    `ranking.temperature`, and cosines with `ranking.normalised`.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether one that was registered before under that name may go.

    Raises:
        UsageError: the name is none, or taken.
    """
    return _registering(LIST_LOSSES, name, replace)


def register_convolution(name: str, *, replace: bool = False) -> Callable[[_Make], _Make]:
    """Make a class the convolution `model.convolution = name`: messages along one relation.

    The class, or function, takes the width H of embeddings and gives a `Convolution`: its `forward`
    takes a `Block` of edges, [S, H] sources and [D, H] destinations, and gives [D, H]; its
    `without_edges` gives the same of [D, H] destinations that have no edge. Beside it there are the
    rated messages and the ridge regression, unless the configuration switches them off.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether one that was registered before under that name may go.

    Raises:
        UsageError: the name is none, or taken.
    """

    def register(make: _Make) -> _Make:
        _check_callable(make, "convolution", name)

        def sized(size: int, config: Any) -> Convolution:
            del config
            made = make(size)
            if not isinstance(made, nn.Module):
                raise TypeError(f"{type(made).__name__} is no Convolution")
            return made

        CONVOLUTIONS.add(name, sized, replace=replace)
        return make

    return register


def register_encoder(name: str, *, replace: bool = False) -> Callable[[_Encoder], _Encoder]:
    """Make a class what encodes attributes of a kind: `attributes={"column": name}` of `fit`.

    The class has a class method `fit(column, training)` and a method `encode(column)`; see
    `FeatureEncoder`.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether one that was registered before under that name may go.

    Raises:
        UsageError: the name is none, or taken.
    """

    def register(encoder: _Encoder) -> _Encoder:
        for method in ("fit", "encode"):
            _check_callable(getattr(encoder, method, None), f"encoder {name}'s {method}", "")
        add_encoder(name, encoder, replace=replace)
        return encoder

    return register


def _registering(
    losses: Registry[Callable[[Any], Any]], name: str, replace: bool
) -> Callable[[_Function], _Function]:
    """Adds a function to losses, the same one for whatever they are made for."""

    def register(loss: _Function) -> _Function:
        _check_callable(loss, losses.what, name)
        losses.add(name, lambda made_for: loss, replace=replace)
        return loss

    return register


def _check_callable(found: Any, what: str, name: str) -> None:
    if not callable(found):
        raise UsageError(f"{what} {name}".rstrip() + ": is no function or class")
