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
from dglrec.nn.decoder import DecoderTerms, EdgeRegressor
from dglrec.nn.encoder import Exchange, HeteroEncoder, SAGELayer
from dglrec.nn.graph_filter import GraphFilterConv, shifts
from dglrec.nn.inputs import NodeInputs
from dglrec.nn.lists import ListHead, ListRows, ListTerms, score_lists
from dglrec.nn.model import Encoded, RatingModel
from dglrec.nn.values import Layer, NodeValues

__all__ = [
    "Aggregator",
    "DecoderTerms",
    "EdgeRegressor",
    "Encoded",
    "Exchange",
    "GraphFilterConv",
    "HeteroEncoder",
    "Layer",
    "ListHead",
    "ListRows",
    "ListTerms",
    "ModelConfig",
    "NodeInputs",
    "NodeValues",
    "RatingConv",
    "RatingModel",
    "RefinementConv",
    "RelationConv",
    "SAGEConv",
    "SAGELayer",
    "aggregate",
    "map_and_aggregate",
    "score_lists",
    "shifts",
]
