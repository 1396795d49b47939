"""URIs, split into parts, and the parts that messages may not show."""

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from dglrec.errors import UsageError

S3, GCS = ("s3", "s3a", "s3n"), ("gs", "gcs")
_USER_IS_A_PLACE = ("abfs", "abfss")  # abfs://container@account...
_LEAST_SECRET = 4  # characters; shorter strings are part of many words

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_QUERY = re.compile(r"\?(?=[A-Za-z_][\w.-]*=)")  # other question marks are part of globs


def is_uri(text: str) -> bool:
    """Whether a text is a URI rather than a path.

    >>> is_uri("s3://bucket/a.csv"), is_uri("a/b.csv"), is_uri("c:/a")
    (True, False, False)
    """
    return _URI.fullmatch(text) is not None


@dataclass(frozen=True)
class Uri:
    """A URI, split into parts.

    Attributes:
        scheme: in lowercase letters.
        address: host or bucket, and the path in it, without a slash at the end.
        user: the part before `@`, which may be a key and a secret.
        query: the part after `?`, as written.
    """

    scheme: str
    address: str
    user: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> "Uri":
        """Split the text of a URI.

        Raises:
            UsageError: the URI names no bucket.
        """
        found = _URI.fullmatch(text)
        assert found is not None
        scheme, rest = found[1].lower(), found[2]
        query = ""
        if scheme in ("http", "https"):
            rest, _, query = rest.partition("?")
        elif mark := _QUERY.search(rest):
            rest, query = rest[: mark.start()], rest[mark.end() :]
        host, slash, path = rest.partition("/")
        user = ""
        if scheme not in _USER_IS_A_PLACE:
            user, _, host = host.rpartition("@")
        if not host and scheme in (*S3, *GCS):
            raise UsageError(f"{scheme}://{slash}{path}: names no bucket; write {scheme}://BUCKET")
        return cls(scheme, f"{host}{slash}{path}".rstrip("/"), user, query)

    @property
    def text(self) -> str:
        """The whole URI."""
        user = f"{self.user}@" if self.user else ""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{user}{self.address}{query}"

    @property
    def shown(self) -> str:
        """The URI without the parts that may be secret."""
        return f"{self.scheme}://{self.address}"

    @property
    def bucket(self) -> str | None:
        """The bucket, in a store that has buckets."""
        return self.address.partition("/")[0] if self.scheme in (*S3, *GCS) else None

    def at(self, address: str) -> "Uri":
        """Another address in the same store."""
        return replace(self, address=address)

    def options(self, known: tuple[str, ...]) -> dict[str, str]:
        """The options of the query, by name.

        Raises:
            UsageError: the query has an unknown option.
        """
        options = dict(parse_qsl(self.query))
        if unknown := [name for name in options if name not in known]:
            raise UsageError(
                f"{self.shown}: a {self.scheme}:// URI has no option {unknown[0]}; there are "
                f"{', '.join(known)}"
            )
        return options

    def without_secrets(self, text: str) -> str:
        """A text from which this URI's user and query are removed."""
        secrets = [self.user, *self.user.split(":")]
        if self.bucket is None:  # with a bucket, the query only says where the store is
            secrets += [self.query, *(value for _, value in parse_qsl(self.query))]
        for secret in sorted(secrets, key=len, reverse=True):
            for form in (secret, unquote(secret)):
                if len(form) >= _LEAST_SECRET:
                    text = text.replace(form, "***")
        # Some libraries write them differently, in a URI of their own.
        text = re.sub(r"(://[^\s?'\"<>]*)\?[^\s'\"<>]*", r"\1", text)
        return text if self.scheme in _USER_IS_A_PLACE else re.sub(r"://[^/\s@]+@", "://", text)
