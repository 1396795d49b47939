"""The inverse of a large symmetric matrix, in place."""

import torch
from torch import Tensor

from dglrec.progress import Advance

_BLOCK = 512


class SingularError(ValueError):
    """A matrix has no inverse, or float32 is too coarse for it."""


def invert_in_place(square: Tensor, advance: Advance) -> None:
    """Replace a symmetric positive definite matrix by its inverse.

    A block Gauss-Jordan elimination (the sweep operator: Goodnight, "A tutorial on the SWEEP
    operator", The American Statistician 33(3), 1979) on the blocks on and above the diagonal. For
    each block K of the diagonal, with P = A_KK^-1,

        A_ij -= A_iK P A_Kj,    A_iK = A_iK P,    A_KK = -P

    and in the end A is minus the inverse. It takes N^3 additions and multiplications, nearly all in
    matrix products, as LAPACK's potrf and potri do; unlike these it needs no second matrix,
    reports its progress, and can be interrupted. (OpenBLAS 0.3's threaded `spotrf` ends in a
    segmentation fault at N = 38,048.)

    Args:
        square: float32 [N, N], symmetric; only the diagonal and the elements above it are read.
        advance: is told how many rows are done, N in all.

    Raises:
        SingularError: the matrix is not positive definite.
    """
    count = len(square)
    cuts = [(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
    for first, last in cuts:
        corner = square[first:last, first:last].double()
        factor, failed = torch.linalg.cholesky_ex(corner, upper=True)
        if failed:
            raise SingularError(f"not positive definite at row {first + int(failed)}")
        pivot = torch.cholesky_inverse(factor, upper=True).float()
        strip = square.new_zeros(count, last - first)  # A_iK; zeros leave K's rows unchanged
        strip[:first] = square[:first, first:last]
        strip[last:] = square[first:last, last:].T
        scaled = strip @ pivot
        for low, high in cuts:
            square[low:high, low:].addmm_(scaled[low:high], strip[low:].T, alpha=-1)
        square[:first, first:last] = scaled[:first]
        square[first:last, last:] = scaled[last:].T
        square[first:last, first:last] = -pivot
        advance(last - first)
    for first, last in cuts:
        corner = square[first:last, first:last]
        corner.copy_(-(corner.triu() + corner.triu(1).T))
        square[first:last, last:].neg_()
        square[last:, first:last] = square[first:last, last:].T
