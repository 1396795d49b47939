"""Columns of attributes -> feature arrays. Encoders are fitted on training rows only.

`kinds.py` finds out the kind of a column, `columns.py` encodes numbers and genres, `text.py` texts;
`encoders.py` chooses among them by kind; `text_model.py` finds and loads the sentence-transformers
model, and `cache.py` keeps its embeddings.
"""

from dglrec.features.cache import check_cache, default_cache
from dglrec.features.columns import GenresEncoder, IdentityEncoder
from dglrec.features.encoders import (
    ENCODERS,
    MOST_LABELS,
    ColumnEncoder,
    FeatureEncoder,
    Fitting,
    add_encoder,
    fit_column,
)
from dglrec.features.kinds import (
    Kind,
    infer_kind,
    parse_kinds,
    read_labels,
    read_numbers,
    read_texts,
    stored_kind,
)
from dglrec.features.text import SequenceEncoder, TextCleaning

__all__ = [
    "ENCODERS",
    "MOST_LABELS",
    "ColumnEncoder",
    "FeatureEncoder",
    "Fitting",
    "GenresEncoder",
    "IdentityEncoder",
    "Kind",
    "SequenceEncoder",
    "TextCleaning",
    "add_encoder",
    "check_cache",
    "default_cache",
    "fit_column",
    "infer_kind",
    "parse_kinds",
    "read_labels",
    "read_numbers",
    "read_texts",
    "stored_kind",
]
