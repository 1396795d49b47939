"""The labels of items and users as nodes: `find_attributes`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec.dataset.tables import attribute_columns, attribute_kinds
from dglrec.features import Kind, read_labels
from dglrec.relations import Attribute, label_attribute


@dataclass(frozen=True)
class KnownOf:
    """The attributes of all nodes of a type.

    Attributes:
        node_type: `user` or `item`.
        table: [N] rows; see `tables.attribute_columns`.
        training: bool [N], whether a node has a training row.
        kinds: attribute name -> kind, where it is known; other kinds are inferred.
    """

    node_type: str
    table: pd.DataFrame
    training: npt.NDArray[np.bool_]
    kinds: Mapping[str, Kind]


def find_attributes(*known: KnownOf) -> dict[str, Attribute]:
    """All attributes with labels, by name.

    If two node types have an attribute of the same name, that of the second is called
    `<type>_<name>`. Attributes none of whose labels occurs in training are left out.
    """
    found: dict[str, Attribute] = {}
    for one in known:
        columns = attribute_columns(one.table)
        for name, kind in attribute_kinds(one.table, one.kinds).items():
            if not kind.has_labels:
                continue
            labels = read_labels(one.table[columns[name]], kind)
            free = f"{one.node_type}_{name}" if name in found else name
            attribute = label_attribute(free, one.node_type, labels, one.training)
            if attribute.vocabulary and free not in found:
                found[free] = attribute
    return found
