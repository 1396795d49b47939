"""`Attribute`: what users or items are labelled with, as nodes and a relation to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dglrec.features import GenresEncoder
from dglrec.ids import IdMap
from dglrec.relations.relation import ATTRIBUTE_PREFIX, Relation, build_relation


@dataclass(frozen=True)
class Attribute:
    """The labels of a column, such as genres, as nodes of a type of their own.

    Attributes:
        name: what the attribute and its nodes' type are called.
        node_type: whose attribute it is: `user` or `item`.
        vocabulary: in ascending order the labels that users or items with a training row have. A
            label's place is its node's index.
        relation: `has_<name>`, from users or items to labels. Those that training does not see have
            edges too, but to no label that training does not know.
    """

    name: str
    node_type: str
    vocabulary: tuple[str, ...]
    relation: Relation

    @property
    def ids(self) -> IdMap:
        """Labels <-> indices of nodes."""
        return IdMap(pa.array(self.vocabulary, type=pa.string()))


def label_attribute(
    name: str, node_type: str, labels: Sequence[Sequence[str]], training: npt.NDArray[np.bool_]
) -> Attribute:
    """Make nodes of labels.

    Args:
        name: what the attribute is called.
        node_type: `user` or `item`.
        labels: [N] for each user or item its labels, perhaps none.
        training: [N], whether a user or item has a training row.

    >>> trained = np.array([True, True, False])
    >>> kind = label_attribute("type", "item", [["TV"], ["OVA"], ["TV"]], trained)
    >>> kind.vocabulary, kind.relation.name, kind.relation.forward.neighbours.tolist()
    (('OVA', 'TV'), 'has_type', [1, 0, 1])
    """
    vocabulary = GenresEncoder.fit(labels, training).vocabulary
    return Attribute(
        name, node_type, vocabulary, relate_labels(name, node_type, labels, vocabulary)
    )


def relate_labels(
    name: str, node_type: str, labels: Sequence[Sequence[str]], vocabulary: Sequence[str]
) -> Relation:
    """Relate users or items to those of their labels that a vocabulary has.

    Args:
        name: what the attribute is called.
        node_type: `user` or `item`.
        labels: [N] for each user or item its labels, perhaps none.
        vocabulary: a label's place is its node's index.
    """
    place = {label: index for index, label in enumerate(vocabulary)}
    known = [[place[label] for label in dict.fromkeys(row) if label in place] for row in labels]
    sources = np.repeat(np.arange(len(labels), dtype=np.int32), [len(row) for row in known])
    destinations = np.array([label for row in known for label in row], dtype=np.int32)
    return build_relation(
        f"{ATTRIBUTE_PREFIX}{name}",
        source_type=node_type,
        destination_type=name,
        sources=sources,
        destinations=destinations,
        num_sources=len(labels),
        num_destinations=len(vocabulary),
    )
