"""URIs, cut up, and what of them no message may show."""

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from dglrec.errors import UsageError

S3, GCS = ("s3", "s3a", "s3n"), ("gs", "gcs")
_USER_IS_A_PLACE = ("abfs", "abfss")  # abfs://container@account...
_LEAST_SECRET = 4  # characters; fewer are part of many words

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_QUERY = re.compile(r"\?(?=[A-Za-z_][\w.-]*=)")  # any other question mark is a glob's


def is_uri(text: str) -> bool:
    """Whether a text is a URI and no path.

    >>> is_uri("s3://bucket/a.csv"), is_uri("a/b.csv"), is_uri("c:/a")
    (True, False, False)
    """
    return _URI.fullmatch(text) is not None


@dataclass(frozen=True)
class Uri:
    """A URI, cut up.

    Attributes:
        scheme: in small letters.
        address: host or bucket, and the path in it, without a slash at the end.
        user: what stands before an `@`, which may be a key and a secret.
        query: what stands behind the `?`, as written.
    """

    scheme: str
    address: str
    user: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> "Uri":
        """Cut up a text that is one.

        Raises:
            UsageError: it names no bucket.
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
        """All of it."""
        user = f"{self.user}@" if self.user else ""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{user}{self.address}{query}"

    @property
    def shown(self) -> str:
        """The URI without what may be secret."""
        return f"{self.scheme}://{self.address}"

    @property
    def bucket(self) -> str | None:
        """The bucket, in a store that has buckets."""
        return self.address.partition("/")[0] if self.scheme in (*S3, *GCS) else None

    def at(self, address: str) -> "Uri":
        """Another address in the same store."""
        return replace(self, address=address)

    def options(self, known: tuple[str, ...]) -> dict[str, str]:
        """What the query says, by name.

        Raises:
            UsageError: it says something that is not known.
        """
        options = dict(parse_qsl(self.query))
        if unknown := [name for name in options if name not in known]:
            raise UsageError(
                f"{self.shown}: a {self.scheme}:// URI has no option {unknown[0]}; there are "
                f"{', '.join(known)}"
            )
        return options

    def without_secrets(self, text: str) -> str:
        """A text without what this URI's user and query say."""
        secrets = [self.user, *self.user.split(":")]
        if self.bucket is None:  # else the query says where the store is
            secrets += [self.query, *(value for _, value in parse_qsl(self.query))]
        for secret in sorted(secrets, key=len, reverse=True):
            for form in (secret, unquote(secret)):
                if len(form) >= _LEAST_SECRET:
                    text = text.replace(form, "***")
        # Some write them in another way, in a URI again.
        text = re.sub(r"(://[^\s?'\"<>]*)\?[^\s'\"<>]*", r"\1", text)
        return text if self.scheme in _USER_IS_A_PLACE else re.sub(r"://[^/\s@]+@", "://", text)
