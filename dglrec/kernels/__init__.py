"""The inner loops, compiled, on as many threads as torch has.

`edges.py` sums over edges and scores them, `parallel.py` cuts work into a stretch a thread.
"""

from dglrec.kernels.edges import score_edges, segment_sums, sum_messages
from dglrec.kernels.parallel import compiled, even_parts, run_side_by_side

__all__ = [
    "compiled",
    "even_parts",
    "run_side_by_side",
    "score_edges",
    "segment_sums",
    "sum_messages",
]
