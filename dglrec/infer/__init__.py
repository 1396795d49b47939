"""What a trained model says, without sampling: embeddings of all nodes, ratings, best items.

`embed.py` encodes, `predict.py` and `lists.py` decode, `explain.py` finds the ratings that a
prediction rests on, `smoothing.py` measures how alike nodes become, `similar.py` finds similar
items, and `diverse.py` makes lists of items that are unlike each other.
"""

from dglrec.infer.diverse import WEIGHT, Diverse, Diversity, likeness_of
from dglrec.infer.embed import (
    Embeddings,
    EncodedNodes,
    embed_all,
    embed_new_items,
    embed_new_users,
    embed_without,
)
from dglrec.infer.explain import REASONS, Rated, Reasons, check_explainable, find_reasons
from dglrec.infer.item_items import ItemItems, ItemWeights
from dglrec.infer.lists import ListScorer
from dglrec.infer.predict import Scorer, entries_of, predict_pairs
from dglrec.infer.similar import comparable_items, nearest_items
from dglrec.infer.smoothing import cosines_by_layer, mean_cosines
from dglrec.infer.told import blocks_of_labels, tell_new_users

__all__ = [
    "REASONS",
    "WEIGHT",
    "Diverse",
    "Diversity",
    "Embeddings",
    "EncodedNodes",
    "ItemItems",
    "ItemWeights",
    "ListScorer",
    "Rated",
    "Reasons",
    "Scorer",
    "blocks_of_labels",
    "check_explainable",
    "comparable_items",
    "cosines_by_layer",
    "embed_all",
    "embed_new_items",
    "embed_new_users",
    "embed_without",
    "entries_of",
    "find_reasons",
    "likeness_of",
    "mean_cosines",
    "nearest_items",
    "predict_pairs",
    "tell_new_users",
]
