"""dglrec: scalable mini-batch training of graph neural networks for rating prediction."""

import os

# DGL asks for its backend through this variable; unset, the first `import dgl` writes a config
# file under the user's home and prints a line about it.
os.environ.setdefault("DGLBACKEND", "pytorch")

# OpenMP threads that wait for work spin unless told otherwise, and where something else wants the
# cores too they spin in its way and in their own: beside one busy process an epoch on ML-100K took
# 36 s with spinning threads, and 5 s without.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
