"""The documentation as a site: `scripts/docs` builds it into build/docs."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from dglrec import __version__  # noqa: E402 - found by the line above

project = "dglrec"
author = "the dglrec authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "notebooks",
    "reference",
]
exclude_patterns = ["_ext"]
highlight_language = "text"
nitpicky = True
# Only types that are public, `dglrec.NAME`, have an entry to point to.
nitpick_ignore_regex = [("py:.*", r"(?!dglrec\.[A-Za-z]+$).*")]

# Headings have the anchors that they have on the pages of a repository, where links work as well.
myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"dglrec {version}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
