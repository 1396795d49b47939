"""Run the quickstart and put what it prints into the README.

    python benchmarks/readme.py

What is printed on stdout, and so without progress, goes between the two marks of the README, spaces
at the ends of lines left out.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(
    r"(<!-- quickstart: begin.*?-->\n```text\n)(.*?)(```\n<!-- quickstart: end -->)", re.S
)


class ReadmeError(Exception):
    """The README lacks the marks."""


def shown_in(text: str) -> str:
    """What a README shows of a quickstart.

    Raises:
        ReadmeError: it has no marks, or several pairs of them.
    """
    blocks = BLOCK.findall(text)
    if len(blocks) != 1:
        raise ReadmeError(f"the marks of the quickstart's output stand {len(blocks)} times in it")
    return str(blocks[0][1])


def rows_of(text: str) -> list[str]:
    """Names of columns and rows of the tables in what a quickstart prints, in order."""
    lines = (line.strip("┃│ ") for line in text.splitlines() if line[:1] in "┃│")
    cells = ([cell.strip() for cell in re.split("[┃│]", line)] for line in lines)
    return [row[0] for row in cells if row[0]]


def main() -> None:
    """Run it, and write."""
    text = README.read_text(encoding="utf-8")
    shown_in(text)
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            [sys.executable, "-m", "dglrec", "quickstart", "--no-text"],
            cwd=folder,
            stdout=subprocess.PIPE,
            check=True,
            encoding="utf-8",
        )
    shown = "".join(f"{line.rstrip()}\n" for line in ran.stdout.splitlines())
    README.write_text(BLOCK.sub(lambda found: found[1] + shown + found[3], text), encoding="utf-8")


if __name__ == "__main__":
    main()
