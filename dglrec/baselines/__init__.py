"""Recommenders without a gradient, to be beaten: the mean rating, biases, similar items.

`simple.py` and `neighbours.py` have the models, `models.py` finds them by name, `dense.py` ranks a
catalogue with any of them.
"""

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.models import Baseline, fit_model, load_model
from dglrec.baselines.neighbours import ItemNeighbours
from dglrec.baselines.simple import BiasBaseline, GlobalMean

__all__ = [
    "Baseline",
    "BaselineConfig",
    "BiasBaseline",
    "GlobalMean",
    "ItemNeighbours",
    "fit_model",
    "load_model",
]
