"""The model: blocks and tensors in, tensors out; no table, no loader, no rank."""

from dglrec.nn.config import Aggregator, ModelConfig
from dglrec.nn.convolutions import (
    RatingConv,
    RefinementConv,
    RelationConv,
    SAGEConv,
    aggregate,
    map_and_aggregate,
)
from dglrec.nn.decay import EdgeWeights, TimeDecay, half_lives
from dglrec.nn.decoder import DecoderTerms, EdgeRegressor
from dglrec.nn.encoder import Exchange, HeteroEncoder, SAGELayer
from dglrec.nn.graph_filter import GraphFilterConv, shifts
from dglrec.nn.inputs import NodeInputs
from dglrec.nn.lists import ListHead, ListRows, ListTerms, score_lists
from dglrec.nn.model import Encoded, RatingModel
from dglrec.nn.relations import RelationMaps
from dglrec.nn.values import NO_MESSAGES, Layer, Messages, NodeValues

__all__ = [
    "NO_MESSAGES",
    "Aggregator",
    "DecoderTerms",
    "EdgeRegressor",
    "EdgeWeights",
    "Encoded",
    "Exchange",
    "GraphFilterConv",
    "HeteroEncoder",
    "Layer",
    "ListHead",
    "ListRows",
    "ListTerms",
    "Messages",
    "ModelConfig",
    "NodeInputs",
    "NodeValues",
    "RatingConv",
    "RatingModel",
    "RefinementConv",
    "RelationConv",
    "RelationMaps",
    "SAGEConv",
    "SAGELayer",
    "TimeDecay",
    "aggregate",
    "half_lives",
    "map_and_aggregate",
    "score_lists",
    "shifts",
]
