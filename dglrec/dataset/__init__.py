"""The prepared data set on disk: `prepare` makes one, `RatingDataset.open` maps one.

dataset.json                   schema version, counts, scale, split, source checksums; size, type,
                               shape and checksum of each file below, and its own checksum
users.parquet, items.parquet   external ids, titles, attributes; row n is index n
train/*.npy                    adjacency in both directions, rating codes, biases
valid.parquet, test.parquet    held-out rows: user and item as indices, rating
features/*.npy                 a row for each item
user_features.npy              a row for each user, if tables give attributes of users
relations/<name>/*.npy         further edges in both directions, if files give any
planted/*.npy                  of generated data: what determines the best possible lists
"""

from dglrec.dataset.derived import DerivedDataset, derive
from dglrec.dataset.held_out import HeldOut
from dglrec.dataset.layout import DATASET_FILE, HELD_OUT, PROOFS, SCHEMA_VERSION, TRAIN
from dglrec.dataset.options import PrepareOptions
from dglrec.dataset.prepare import prepare
from dglrec.dataset.stored import RatingDataset
from dglrec.dataset.tables import user_table
from dglrec.dataset.writing import write_dataset

__all__ = [
    "DATASET_FILE",
    "HELD_OUT",
    "PROOFS",
    "SCHEMA_VERSION",
    "TRAIN",
    "DerivedDataset",
    "HeldOut",
    "PrepareOptions",
    "RatingDataset",
    "derive",
    "prepare",
    "user_table",
    "write_dataset",
]
