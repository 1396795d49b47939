"""Docstrings as reStructuredText: `code` between single ticks is code there too."""

import re
from typing import Any

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(\w?)")


def as_literals(text: str) -> str:
    r"""Text with single ticks doubled; a letter right behind them is set apart, as it has to be.

    >>> print(as_literals("`DataError`s of a `frame`"))
    ``DataError``\ s of a ``frame``
    """
    return _CODE.sub(lambda found: f"``{found[1]}``" + (rf"\ {found[2]}" * bool(found[2])), text)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this: docstrings pass through `as_literals` when they are read."""

    def convert(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
        lines[:] = as_literals("\n".join(lines)).split("\n")

    app.connect("autodoc-process-docstring", convert, priority=100)  # before Napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
