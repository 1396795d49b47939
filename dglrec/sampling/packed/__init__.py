"""The fast loader for devices: batches of fixed shapes, so that the host does not wait."""

from dglrec.sampling.packed.loader import PackedBatchLoader, why_unpacked

__all__ = ["PackedBatchLoader", "why_unpacked"]
