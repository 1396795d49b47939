"""Edges beside the ratings: between users, between items, and from either to labels.

`read_relation` reads a file of edges, `label_attribute` makes nodes of a column's labels. Both give
a `Relation`, which holds its edges in both directions.
"""

from dglrec.relations.attributes import Attribute, label_attribute, relate_labels
from dglrec.relations.directions import Direction, DirectionTensors, directions_of
from dglrec.relations.reading import EdgeCounts, HeldOutPairs, ReadRelation, read_relation
from dglrec.relations.relation import (
    DERIVED_AMONG_USERS,
    DERIVED_NAMES,
    ITEM_TYPE,
    REVERSE_PREFIX,
    USER_TYPE,
    Edges,
    Relation,
    build_relation,
    check_relation_name,
    parse_relations,
)

__all__ = [
    "DERIVED_AMONG_USERS",
    "DERIVED_NAMES",
    "ITEM_TYPE",
    "REVERSE_PREFIX",
    "USER_TYPE",
    "Attribute",
    "Direction",
    "DirectionTensors",
    "EdgeCounts",
    "Edges",
    "HeldOutPairs",
    "ReadRelation",
    "Relation",
    "build_relation",
    "check_relation_name",
    "directions_of",
    "label_attribute",
    "parse_relations",
    "read_relation",
    "relate_labels",
]
