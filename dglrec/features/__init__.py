"""Columns of attributes -> feature arrays. What is fitted is fitted on training rows only.

`kinds.py` finds out what a column is, `columns.py` encodes numbers and genres, `text.py` texts;
`text_model.py` finds and loads the sentence-transformers model, `cache.py` keeps what it has
embedded.
"""

from dglrec.features.cache import check_cache, default_cache
from dglrec.features.columns import GenresEncoder, IdentityEncoder
from dglrec.features.kinds import (
    Kind,
    infer_kind,
    parse_kinds,
    read_labels,
    read_numbers,
    read_texts,
)
from dglrec.features.text import SequenceEncoder, TextCleaning

__all__ = [
    "GenresEncoder",
    "IdentityEncoder",
    "Kind",
    "SequenceEncoder",
    "TextCleaning",
    "check_cache",
    "default_cache",
    "infer_kind",
    "parse_kinds",
    "read_labels",
    "read_numbers",
    "read_texts",
]
