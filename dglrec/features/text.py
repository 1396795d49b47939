"""`SequenceEncoder`: a column of texts -> sentence embeddings; each text is embedded only once."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dglrec.features.cache import EmbeddingCache, default_cache
from dglrec.features.text_model import AUTO, TextModel
from dglrec.progress import progress

_BATCHES_AT_ONCE = 4  # batches between two writes to the cache: what an interruption may cost

# English words that carry grammar rather than content.
_STOP_WORDS = (
    "a about above after again against all also am an and any are as at be because been "
    "before being below between both but by can could did do does doing down during each few "
    "for from further had has have having he her here hers herself him himself his how i if "
    "in into is it its itself just may me might more most must my myself no nor not now of "
    "off on once only or other our ours ourselves out over own same shall she should so some "
    "such than that the their theirs them themselves then there these they this those though "
    "through to too under until up upon us very was we were what when where whether which "
    "while who whom whose why will with would yet you your yours yourself yourselves aren't "
    "can't couldn't didn't doesn't don't hadn't hasn't haven't he'd he'll he's i'd i'll i'm "
    "i've isn't it'd it'll it's let's she'd she'll she's shouldn't that's there's they'd "
    "they'll they're they've wasn't we'd we'll we're we've weren't what's who's won't "
    "wouldn't you'd you'll you're you've"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
# A sentence ends at white space behind a full stop, question mark, exclamation mark or ellipsis
# (perhaps with a closing quote or bracket), or at an empty line.
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])\s+|(?<=[.!?\u2026][\"'\u201d\u2019)\]])\s+|\s*\n\s*\n\s*"
)


@dataclass(frozen=True)
class TextCleaning:
    """How a text is cleaned before it is embedded: the steps that the paper names, all optional.

    >>> TextCleaning(remove_stop_words=True, per_sentence=True).pieces("The ship sinks. All drown!")
    ['ship sinks.', 'drown!']
    """

    remove_stop_words: bool = False
    remove_punctuation: bool = False
    per_sentence: bool = False
    """Embed each sentence separately and take the mean."""

    def pieces(self, text: str) -> list[str]:
        """The cleaned texts to embed, whole or by sentence; those without a word are left out."""
        parts = _SENTENCE_END.split(text) if self.per_sentence else [text]
        cleaned = (self._clean(part) for part in parts)
        return [part for part in cleaned if re.search(r"[^\W_]", part)]

    def _clean(self, text: str) -> str:
        if self.remove_stop_words:
            text = _WORD.sub(_without_stop_word, text)
        if self.remove_punctuation:
            text = _PUNCTUATION.sub(" ", _APOSTROPHE.sub("", text))
        return " ".join(text.split())


def _without_stop_word(match: re.Match[str]) -> str:
    word = match.group()
    return "" if word.lower().replace("\u2019", "'") in STOP_WORDS else word


class SequenceEncoder:
    """Texts as sentence embeddings of unit length, with a flag for texts that are present.

    The embeddings are those of a sentence-transformers model (Reimers and Gurevych, 2019). They are
    kept on disk under a hash of the model's files, the cleaning and the text: a text is embedded
    once, and if all texts are known the model is not even loaded.

    Args:
        model: "auto", a folder, or a name on the Hugging Face hub; see `TextModel`.
        cleaning: how each text is cleaned first.
        cache: the cache's folder; "auto" for `default_cache()`, None for no cache.
        device: where torch runs the model.
        batch_size: texts in a forward pass.
    """

    def __init__(
        self,
        model: str = AUTO,
        cleaning: TextCleaning | None = None,
        cache: Path | str | None = AUTO,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: must be 1 or more")
        self.model = TextModel(model, device)
        self.cleaning = cleaning or TextCleaning()
        self.cache = default_cache() if cache == AUTO else None if cache is None else Path(cache)
        self.batch_size = batch_size

    def encode(self, texts: Sequence[str | None]) -> npt.NDArray[np.float32]:
        """N texts, None where missing -> [N, D + 1]: the embedding, and 1 where there is text.

        A text without any word, perhaps after cleaning, counts as missing: its row is zeros.

        Raises:
            UnusableEnvironmentError: the model cannot be found, fetched or loaded.
        """
        pieces = {text: self.cleaning.pieces(text) for text in texts if text is not None}
        distinct = [text for text, parts in pieces.items() if parts]
        place = {text: index for index, text in enumerate(distinct)}
        index = np.array([place.get(text, -1) if text else -1 for text in texts], dtype=np.int64)
        embeddings = self._embed([pieces[text] for text in distinct], distinct)
        encoded = np.zeros((len(texts), embeddings.shape[1] + 1), dtype=np.float32)
        has_text = index >= 0
        encoded[has_text, :-1] = embeddings[index[has_text]]
        encoded[:, -1] = has_text
        return encoded

    def _embed(self, pieces: list[list[str]], texts: list[str]) -> npt.NDArray[np.float32]:
        """[N, D] embeddings of distinct texts, from the cache if it has them."""
        with self._open_cache() as cache:
            keys = [self._key(text) for text in texts] if cache else []
            width = cache.width(self.model.fingerprint) if cache else None
            found, known = _read(cache, keys, len(texts), width)
            if width is None or not known.all():
                if width != self.model.width:
                    width = self.model.width
                    found, known = _read(cache, keys, len(texts), width)
                    if cache:
                        cache.set_width(self.model.fingerprint, width)
                # The longest first: texts of similar length share a batch, and if memory runs out
                # it does so at once.
                missing = np.flatnonzero(~known)
                lengths = np.array([sum(map(len, pieces[row])) for row in missing], dtype=np.int64)
                missing = missing[np.argsort(-lengths, kind="stable")]
                step = self.batch_size * _BATCHES_AT_ONCE
                with progress("embedding texts", len(missing), "texts") as advance:
                    for start in range(0, len(missing), step):
                        rows = missing[start : start + step]
                        found[rows] = self._embed_pieces([pieces[row] for row in rows])
                        if cache:
                            cache.put(
                                (keys[row], found[row].astype("<f4").tobytes()) for row in rows
                            )
                        advance(len(rows))
        return found

    def _embed_pieces(self, pieces: list[list[str]]) -> npt.NDArray[np.float32]:
        """[N, D] unit-length means over the pieces of each of N texts."""
        flat = self.model.embed([part for parts in pieces for part in parts], self.batch_size)
        counts = np.array([len(parts) for parts in pieces])
        starts = np.cumsum(counts) - counts
        means = np.add.reduceat(flat, starts, axis=0) / counts[:, None]
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return np.asarray(means / np.maximum(lengths, 1e-12), dtype=np.float32)

    def _key(self, text: str) -> bytes:
        content = json.dumps([self.model.fingerprint, asdict(self.cleaning), text])
        return hashlib.sha256(content.encode("ascii")).digest()

    @contextmanager
    def _open_cache(self) -> Iterator[EmbeddingCache | None]:
        if self.cache is None:
            yield None
        else:
            with closing(EmbeddingCache(self.cache)) as cache:
                yield cache


def _read(
    cache: EmbeddingCache | None, keys: list[bytes], count: int, width: int | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """[N, width] the cache's values under the keys, and [N] whether each is there and valid."""
    found = np.zeros((count, width or 0), dtype=np.float32)
    known = np.zeros(count, dtype=np.bool_)
    if cache is None or width is None:
        return found, known
    row = {key: index for index, key in enumerate(keys)}
    for key, value in cache.get(keys):
        # A value of another length or type is not trusted: the text is embedded again.
        if isinstance(value, bytes) and len(value) == 4 * width:
            found[row[key]] = np.frombuffer(value, dtype="<f4")
            known[row[key]] = np.isfinite(found[row[key]]).all()
    return found, known
