"""Notebooks as pages: their cells as Markdown and code, with no output.

The tests run the cells (`tests/test_api.py`), so nothing is computed when the site is built.
"""

import json
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser


class NotebookParser(MystParser):
    """Reads the cells of a notebook as one text of Markdown."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        """Parse a notebook's JSON into a document."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def as_markdown(notebook: dict[str, Any]) -> str:
    r"""The cells of a notebook, one after the other.

    >>> as_markdown({"cells": [{"cell_type": "code", "source": ["1 + 1"]}]})
    '```python\n1 + 1\n```'
    """
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        cells.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(cells)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this: files that end in .ipynb are pages."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
