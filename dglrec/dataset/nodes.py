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
    for of_type in known:
        columns = attribute_columns(of_type.table)
        for name, kind in attribute_kinds(of_type.table, of_type.kinds).items():
            if not kind.has_labels:
                continue
            labels = read_labels(of_type.table[columns[name]], kind)
            full_name = f"{of_type.node_type}_{name}" if name in found else name
            attribute = label_attribute(full_name, of_type.node_type, labels, of_type.training)
            if attribute.vocabulary and full_name not in found:
                found[full_name] = attribute
    return found
