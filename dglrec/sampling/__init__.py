"""Loaders that yield `EdgeBatch`es. The only module that calls DGL's samplers.

A batch holds target edges and everything that predicts them: the sampled neighbourhoods of their
users and items, layer by layer, and the biases. None of it depends on the targets' ratings: targets
take no part in messages, in either direction, at any hop, and the biases are those fitted without
them.
"""

from dglrec.sampling.cluster import ClusterLoader
from dglrec.sampling.config import WEIGHING, LoaderConfig, seed_of
from dglrec.sampling.draws import Draw
from dglrec.sampling.full import FullGraphLoader
from dglrec.sampling.layerwise import LayerwiseLoader
from dglrec.sampling.neighbor import NeighborEdgeLoader
from dglrec.sampling.packed import PackedBatchLoader, why_unpacked
from dglrec.sampling.saint import SaintLoader
from dglrec.sampling.users import UserBatchLoader, check_directions

__all__ = [
    "WEIGHING",
    "ClusterLoader",
    "Draw",
    "FullGraphLoader",
    "LayerwiseLoader",
    "LoaderConfig",
    "NeighborEdgeLoader",
    "PackedBatchLoader",
    "SaintLoader",
    "UserBatchLoader",
    "check_directions",
    "seed_of",
    "why_unpacked",
]
