"""`Attribute`: the labels of users or items as nodes, and the relation to them."""

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
    """The labels of a column, such as genres, as nodes of their own type.

    Attributes:
        name: of the attribute, and of the nodes' type.
        node_type: `user` or `item`: which nodes have the attribute.
        vocabulary: the labels of users or items with a training row, in ascending order. A label's
            position is its node's index.
        relation: `has_<name>`, from users or items to labels. Users or items without a training row
            have edges too, but only to labels in the vocabulary.
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
        name: of the attribute.
        node_type: `user` or `item`.
        labels: [N] the labels of each user or item, perhaps none.
        training: bool [N], whether a user or item has a training row.

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
    """Relate users or items to their labels, as far as a vocabulary has them.

    Args:
        name: of the attribute.
        node_type: `user` or `item`.
        labels: [N] the labels of each user or item, perhaps none.
        vocabulary: a label's position is its node's index.
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
