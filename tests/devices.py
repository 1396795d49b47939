"""A device that is not there: what a step would launch on it, and when it would be waited for.

`FakeTensorMode` carries shapes and devices and no values: an operation that mixes devices raises,
and so does one that needs a value on the host. The device is torch's `meta`, as autograd asks for
the runtime of a device that torch was not built with.
"""

import collections
from contextlib import contextmanager

import pytest
import torch
import torch._functorch.config as config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")

# What launches nothing: views, and room that nobody has written to yet.
_FREE = {
    "_local_scalar_dense",
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "device",  # prim::device, a question
    "empty",
    "empty_like",
    "expand",
    "lift_fresh",
    "new_empty",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
}
# What launches several kernels on CUDA: sorts before a gradient is summed in a fixed order,
# batched factorisations, scans and reductions of two passes. Counted high rather than low.
_SEVERAL = {
    "_embedding_bag": 2,
    "_embedding_bag_backward": 8,
    "_embedding_bag_dense_backward": 8,
    "_embedding_bag_forward_only": 2,
    "_foreach_norm": 4,
    "_fused_adam_": 2,
    "_fused_adamw_": 2,
    "_linalg_check_errors": 0,
    "cholesky_solve": 2,
    "cumsum": 2,
    "embedding_dense_backward": 8,
    "index_put": 2,
    "index_put_": 2,
    "linalg_cholesky_ex": 3,
    "repeat_interleave": 2,
    "sort": 8,
    "topk": 8,
}
# What the host cannot go past before the device has answered, with a value or with a shape.
_ASKS = {"_local_scalar_dense", "item", "is_nonzero"}  # those without a gradient come whole
_COPIES = {"_to_copy", "to"}
_WAITS = {*_ASKS, "nonzero", "_unique2", "unique_dim", "masked_select", "bincount"}


class Launches(TorchDispatchMode):
    """Counts the kernels that operations on the device would launch, and the waits for it.

    Attributes:
        kernels: by the operation's name.
        waits: likewise.
        crossings: copies between host and device, by number of values.
    """

    def __init__(self):
        super().__init__()
        self.kernels = collections.Counter()
        self.waits = collections.Counter()
        self.crossings = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        targets = {torch.device(leaf).type for leaf in leaves if isinstance(leaf, torch.device)}
        on_device = DEVICE.type in devices | targets
        if not on_device:
            # The host's tensors are here, but have no values either.
            return _value_like(args[0]) if name in _ASKS else func(*args, **kwargs)
        if name in _WAITS:
            self.waits[name] += 1
            if name in _ASKS:
                return _value_like(args[0])
        if name in _COPIES and targets and targets != devices:
            self.crossings.append(args[0].numel())
        if name not in _FREE:
            self.kernels[name] += _SEVERAL.get(name, 1)
        return func(*args, **kwargs)

    @property
    def total(self):
        """Kernels launched."""
        return sum(self.kernels.values())


def _value_like(tensor):
    """What stands for a number that nobody knows."""
    return True if tensor.dtype == torch.bool else (tensor.dtype.is_floating_point and 1.0) or 1


@contextmanager
def pretended():
    """Within it tensors have no values, and those of `DEVICE` may be asked to be anywhere."""
    supported = optimizer._get_fused_kernels_supported_devices
    with config.patch(fake_tensor_allow_meta=True), pytest.MonkeyPatch.context() as patch:
        # Of Adam's kernels torch looks at the device alone.
        patch.setattr(
            optimizer,
            "_get_fused_kernels_supported_devices",
            lambda: [*supported(), DEVICE.type],
        )
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
