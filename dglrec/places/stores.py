"""Stores: opening their file systems, and turning their errors into ours."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from dglrec.errors import (
    DataError,
    DglrecError,
    UnreadableError,
    UnusableEnvironmentError,
    UsageError,
)
from dglrec.places.uri import GCS, S3, Uri

_OTHERS_OF_ARROW = ("abfs", "abfss", "hdfs", "viewfs")
_STORES_OF_OBJECTS = ("s3", "gcs", "abfs")  # as pyarrow calls them

_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 30, 3
_GCS_SECONDS = 30
_SHOWN_CHARACTERS = 160

_AWS_ERROR = re.compile(r"AWS Error ([A-Z_0-9]+)(?: \(HTTP status (\d+)\))?")
_OF_A_STORE = re.compile(r"AWS Error|google::cloud|HTTP status|curlCode|\bStatus\(")
_REFUSED_BY_GOOGLE = re.compile(r"PERMISSION_DENIED|UNAUTHENTICATED|OAuth2 access token")
_REFUSED_KEYS = (
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "INVALID_SIGNATURE",
    "MISSING_AUTHENTICATION_TOKEN",
    "REQUEST_EXPIRED",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
)
_CREDENTIALS = {
    **dict.fromkeys(
        S3,
        "; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from AWS_PROFILE or "
        "the machine's role; public data takes ?anonymous=true",
    ),
    **dict.fromkeys(
        GCS,
        "; credentials come from GOOGLE_APPLICATION_CREDENTIALS or the machine's account; public "
        "data takes ?anonymous=true",
    ),
}


class Store:
    """A remote file system, opened when it is first used.

    Args:
        uri: leads to a file or folder in it.
    """

    def __init__(self, uri: Uri) -> None:
        self.uri = uri

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        with faults_of(self.uri, self.uri.shown):
            return open_filesystem(self.uri)

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem`."""
        return self._opened[0]

    @property
    def root(self) -> str:
        """The path in the file system that the URI leads to."""
        return self._opened[1]

    @property
    def shows_whole_files(self) -> bool:
        """Whether a name appears only once its file is complete, as in object stores."""
        return self.filesystem.type_name in _STORES_OF_OBJECTS


def is_fault_of_store(error: OSError) -> bool:
    """Whether the store itself failed, rather than what parses its bytes."""
    return error.errno is not None or _OF_A_STORE.search(str(error)) is not None


@contextmanager
def faults_of(uri: Uri, shown: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what a store raises into an error that a user can read.

    Raises:
        DataError: nothing is there to be read.
        UnreadableError: the place cannot be read.
        DglrecError: the place cannot be written.
        UnusableEnvironmentError: a package or memory is missing.
    """
    try:
        yield
    except DglrecError:
        raise
    except MemoryError as error:
        raise UnusableEnvironmentError(f"{shown}: out of memory") from error
    except ImportError as error:
        what = uri.without_secrets(" ".join(str(error).split()))
        raise UnusableEnvironmentError(f"{shown}: needs another package ({what})") from error
    except Exception as error:
        kind, why = _explained(error, uri)
        if kind is None and not writing:
            kind, why = UnreadableError, f"cannot be read ({why})"
        if writing:
            kind, why = DglrecError, f"cannot be written ({why})"
        # Not even a traceback may show credentials.
        cause = None if uri.user or uri.query else error
        raise (kind or DglrecError)(f"{shown}: {why}") from cause


def _explained(error: Exception, uri: Uri) -> tuple[type[DglrecError] | None, str]:
    """The kind of a store's error, None if it is not known; and its reason, as text."""
    text = " ".join(str(error).split())
    found = _AWS_ERROR.search(text)
    code, status = (found[1], found[2]) if found else ("", None)
    hint = _CREDENTIALS.get(uri.scheme, "")
    if code == "NO_SUCH_BUCKET":
        return DataError, f"no such bucket as {uri.bucket}"
    if isinstance(error, FileNotFoundError) or code == "NO_SUCH_KEY":
        return DataError, "no such file"
    if isinstance(error, IsADirectoryError):
        return DataError, "is a folder where a file was expected"
    if code == "ACCESS_DENIED" or status in ("401", "403") or isinstance(error, PermissionError):
        return UnreadableError, f"access denied{hint}"
    if code in _REFUSED_KEYS:
        return UnreadableError, f"the store refuses the credentials ({code}){hint}"
    if refused := _REFUSED_BY_GOOGLE.search(text):
        return UnreadableError, f"no credentials that the store takes ({refused[0]}){hint}"
    if code == "NETWORK_CONNECTION" or isinstance(error, ConnectionError | TimeoutError):
        return UnreadableError, f"the store cannot be reached ({_short(text, uri)})"
    return None, _short(text, uri)


def _short(text: str, uri: Uri) -> str:
    # The beginning says which key of which bucket; the message names the place anyway.
    text = re.sub(r"^When [^:]*: ", "", uri.without_secrets(text))
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def open_filesystem(uri: Uri) -> tuple[Any, str]:
    """The file system of a URI, and the path in it that the URI leads to.

    Raises:
        UsageError: there is none for the scheme, or the query has an unknown option.
        ImportError: a package is missing.
        OSError: the store cannot be reached.
    """
    if uri.scheme in S3:
        return _open_s3(uri), uri.address
    if uri.scheme in GCS:
        return _open_gcs(uri), uri.address
    if uri.scheme in _OTHERS_OF_ARROW:
        from pyarrow.fs import FileSystem

        filesystem, root = FileSystem.from_uri(uri.text)
        return filesystem, root
    return _open_fsspec(uri)


def _open_s3(uri: Uri) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    options: dict[str, Any] = uri.options(("endpoint_override", "scheme", "region", "anonymous"))
    options["anonymous"] = _is_true(options.get("anonymous", ""))
    key, colon, secret = uri.user.partition(":")
    if colon:
        options |= {"access_key": unquote(key), "secret_key": unquote(secret)}
    # AWS's own tools read these variables, but pyarrow's constructor does not.
    if endpoint := options.pop("endpoint_override", "") or _endpoint_of_environment():
        scheme, named, host = endpoint.rpartition("://")
        options["endpoint_override"] = host.rstrip("/")
        if named:
            options.setdefault("scheme", scheme)
    elif not (options.get("region") or _environment("AWS_REGION", "AWS_DEFAULT_REGION")):
        options["region"] = _region_of(uri.address.partition("/")[0])
    return S3FileSystem(
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )


def _endpoint_of_environment() -> str:
    if _is_true(_environment("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")):
        return ""
    return _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def _environment(*names: str) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")


def _is_true(text: str) -> bool:
    return text.lower() in ("true", "1")


def _region_of(bucket: str) -> str | None:
    """The region of an AWS bucket; None if it cannot be found: the next request reports why."""
    from pyarrow.fs import resolve_s3_region

    try:
        return str(resolve_s3_region(bucket))
    except OSError:
        return None


def _open_gcs(uri: Uri) -> Any:
    from pyarrow.fs import GcsFileSystem

    known = ("endpoint_override", "scheme", "project_id", "anonymous")
    options: dict[str, Any] = uri.options(known)
    asked = _is_true(options.get("anonymous", ""))
    options["anonymous"] = asked or uri.user == "anonymous"
    return GcsFileSystem(retry_time_limit=timedelta(seconds=_GCS_SECONDS), **options)


def _open_fsspec(uri: Uri) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        filesystem, root = url_to_fs(uri.text)
    except ValueError as error:
        raise UsageError(
            f"{uri.shown}: no file system is known for {uri.scheme}://; there are s3, gs, abfs, "
            "hdfs, file, and those of fsspec's packages that are installed"
        ) from error
    return PyFileSystem(FSSpecHandler(filesystem)), str(root)
