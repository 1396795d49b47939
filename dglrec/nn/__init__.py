"""The model: blocks and tensors in, tensors out; it knows no table, loader or rank."""

from dglrec.nn.aggregation import aggregate, map_and_aggregate
from dglrec.nn.attention import GATConv, GATv2Conv
from dglrec.nn.bare import GCNConv, GINConv, PinSageConv, SAGEConv, prove_convolution
from dglrec.nn.config import CONVOLUTIONS, Aggregator, ModelConfig
from dglrec.nn.convolutions import RatingConv, RefinementConv, RelationConv
from dglrec.nn.decay import EdgeWeights, TimeDecay, half_lives
from dglrec.nn.decoder import DecoderTerms, EdgeRegressor
from dglrec.nn.encoder import ConvolutionLayer, Exchange, HeteroEncoder
from dglrec.nn.graph_filter import GraphFilterConv, shifts
from dglrec.nn.inputs import NodeInputs
from dglrec.nn.lists import ListHead, ListRows, ListTerms, score_lists
from dglrec.nn.model import Encoded, RatingModel
from dglrec.nn.relations import RelationMaps
from dglrec.nn.transfer import ItemNetwork, fit_item_network
from dglrec.nn.values import NO_MESSAGES, Convolution, Layer, Messages, NodeValues

__all__ = [
    "CONVOLUTIONS",
    "NO_MESSAGES",
    "Aggregator",
    "Convolution",
    "ConvolutionLayer",
    "DecoderTerms",
    "EdgeRegressor",
    "EdgeWeights",
    "Encoded",
    "Exchange",
    "GATConv",
    "GATv2Conv",
    "GCNConv",
    "GINConv",
    "GraphFilterConv",
    "HeteroEncoder",
    "ItemNetwork",
    "Layer",
    "ListHead",
    "ListRows",
    "ListTerms",
    "Messages",
    "ModelConfig",
    "NodeInputs",
    "NodeValues",
    "PinSageConv",
    "RatingConv",
    "RatingModel",
    "RefinementConv",
    "RelationConv",
    "RelationMaps",
    "SAGEConv",
    "TimeDecay",
    "aggregate",
    "fit_item_network",
    "half_lives",
    "map_and_aggregate",
    "prove_convolution",
    "score_lists",
    "shifts",
]
