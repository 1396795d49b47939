"""The fast loader on a device that must not be waited for: batches of fixed shapes."""

from dglrec.sampling.packed.loader import PackedBatchLoader, why_unpacked

__all__ = ["PackedBatchLoader", "why_unpacked"]
