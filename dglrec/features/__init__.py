"""Columns of attributes -> feature arrays. What is fitted is fitted on training rows only.

`columns.py` encodes numbers and genres, `text.py` texts; `text_model.py` finds and loads the
sentence-transformers model, `cache.py` keeps what it has embedded.
"""

from dglrec.features.cache import default_cache
from dglrec.features.columns import GenresEncoder, IdentityEncoder
from dglrec.features.text import SequenceEncoder, TextCleaning

__all__ = ["GenresEncoder", "IdentityEncoder", "SequenceEncoder", "TextCleaning", "default_cache"]
