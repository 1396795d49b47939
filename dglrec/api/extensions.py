"""Register losses, convolutions and encoders under names that the configuration then accepts.

Registrations hold for this process. What is registered is tried on a few rows before anything is
trained with it. A run or a data set that was made with it can only be opened where it is registered
again.
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

    The function takes float32 [B] predicted ratings and ratings, and returns the loss of each
    rating, [B], through which gradients flow back.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether an earlier registration of that name may be replaced.

    Raises:
        UsageError: the name is not allowed, or taken.
    """
    return _registering(LOSSES, name, replace)


def register_list_loss(name: str, *, replace: bool = False) -> Callable[[_ListLoss], _ListLoss]:
    """Make a function the loss of lists `ranking.loss = name`.

    The function takes B positive targets, each with k items that its user has not rated: float32
    [B] scores of the positives, float32 [B, k] scores of their negatives, and bool [B, k], which of
    the negatives are there; the scores of absent negatives are 0 and mean nothing. It returns the
    loss of each positive, [B], through which gradients flow back. The settings `ranking.negatives`,
    `ranking.negatives_a_target` and the like choose the negatives; scores are divided by
    `ranking.temperature`, and are cosines with `ranking.normalised`.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether an earlier registration of that name may be replaced.

    Raises:
        UsageError: the name is not allowed, or taken.
    """
    return _registering(LIST_LOSSES, name, replace)


def register_convolution(name: str, *, replace: bool = False) -> Callable[[_Make], _Make]:
    """Make a class the convolution `model.convolution = name`: messages along a relation.

    The class, or function, takes the width H of embeddings and returns a `Convolution`: its
    `forward` takes a `Block` of edges, [S, H] sources and [D, H] destinations, and returns [D, H];
    its `without_edges` returns the same for [D, H] destinations that have no edge. The model also
    has rated messages and the ridge regression, unless the configuration switches them off.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether an earlier registration of that name may be replaced.

    Raises:
        UsageError: the name is not allowed, or taken.
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
    """Make a class the encoder of a kind of attributes: `attributes={"column": name}` of `fit`.

    The class has a class method `fit(column, training)` and a method `encode(column)`; see
    `FeatureEncoder`.

    Args:
        name: lowercase letters, digits and underscores.
        replace: whether an earlier registration of that name may be replaced.

    Raises:
        UsageError: the name is not allowed, or taken.
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
    """A decorator that adds a function to losses; the function does not depend on the settings."""

    def register(loss: _Function) -> _Function:
        _check_callable(loss, losses.what, name)
        losses.add(name, lambda made_for: loss, replace=replace)
        return loss

    return register


def _check_callable(found: Any, what: str, name: str) -> None:
    if not callable(found):
        raise UsageError(f"{what} {name}".rstrip() + ": is no function or class")
