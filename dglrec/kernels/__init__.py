"""The compiled inner loops, which run on as many threads as torch has.

`edges.py` sums over edges and scores them, `attention.py` weighs them by a softmax, `turned.py`
sorts them by source, `ridge.py` fits a regression to each node's edges, `damping.py` shrinks means
of few ratings, `dropout.py` drops values, `rows.py` takes Adam's step for some rows of a table,
`hashing.py` makes random decisions by hashes, `segments.py` sums over all edges in float64,
`ranking.py` finds the best items of a catalogue, `lists.py` merges lists of items, `softmax.py`
sums over a catalogue's scores, `neighbours.py` compares items by who rated them, `sampling.py`
samples a node's edges, `layers.py` weighs the neighbours of a layer's nodes and finds the edges to
the chosen ones, `numbering.py` numbers a step's nodes, `parallel.py` divides work among threads.
"""

from dglrec.kernels.attention import attend, attend_jointly
from dglrec.kernels.damping import damp_means
from dglrec.kernels.dropout import drop_units
from dglrec.kernels.edges import ragged, score_edges, sum_messages
from dglrec.kernels.hashing import HASH_BITS, chances, hash_of, hash_part_of, hash_parts, hashes
from dglrec.kernels.layers import Excluded, Lists, add_importance, edges_with
from dglrec.kernels.lists import ItemLists, merge_lists, pick_largest
from dglrec.kernels.maxima import max_messages
from dglrec.kernels.neighbours import (
    Rated,
    Raters,
    add_similarities,
    count_pairs,
    predict_residuals,
)
from dglrec.kernels.numbering import number_rows
from dglrec.kernels.parallel import (
    compiled,
    compiles_for,
    even_parts,
    parts_of,
    run_side_by_side,
    runs_compiled,
)
from dglrec.kernels.ranking import Terms, Tiles, rank_items
from dglrec.kernels.ridge import fit_ridge
from dglrec.kernels.rows import AdamStep, move_rows
from dglrec.kernels.sampling import sample_fixed, sample_stretches
from dglrec.kernels.segments import segment_squares, segment_sums
from dglrec.kernels.softmax import catalogue_log_sum_exp
from dglrec.kernels.turned import turned_edges
from dglrec.kernels.whole import kept_edges

__all__ = [
    "HASH_BITS",
    "AdamStep",
    "Excluded",
    "ItemLists",
    "Lists",
    "Rated",
    "Raters",
    "Terms",
    "Tiles",
    "add_importance",
    "add_similarities",
    "attend",
    "attend_jointly",
    "catalogue_log_sum_exp",
    "chances",
    "compiled",
    "compiles_for",
    "count_pairs",
    "damp_means",
    "drop_units",
    "edges_with",
    "even_parts",
    "fit_ridge",
    "hash_of",
    "hash_part_of",
    "hash_parts",
    "hashes",
    "kept_edges",
    "max_messages",
    "merge_lists",
    "move_rows",
    "number_rows",
    "parts_of",
    "pick_largest",
    "predict_residuals",
    "ragged",
    "rank_items",
    "run_side_by_side",
    "runs_compiled",
    "sample_fixed",
    "sample_stretches",
    "score_edges",
    "segment_squares",
    "segment_sums",
    "sum_messages",
    "turned_edges",
]
