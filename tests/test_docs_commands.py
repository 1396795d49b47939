"""The shell blocks of README and of the tutorials run, from top to bottom, on a small table."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shells import NOT_RUN, ROOT, run_block, served, shell_blocks, to_run

EPOCHS = {"DGLREC_TRAIN_EPOCHS": "1"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH, with `dglrec` in it."""
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the pages take for granted: `ratings.csv` and `items.csv`."""
    random = np.random.default_rng(0)
    ratings = pd.DataFrame(
        {"user_id": random.integers(0, 60, 1_500), "item_id": random.integers(0, 40, 1_500)}
    )
    liked = ratings["user_id"] % 2 == ratings["item_id"] % 2
    ratings["rating"] = np.clip(3 + liked + random.integers(-1, 2, 1_500), 1, 5)
    ratings["timestamp"] = 1_600_000_000 + 3_600 * np.arange(1_500)
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    titles = [f"Film {number}" for number in range(40)]
    items = pd.DataFrame(
        {"item_id": range(40), "title": titles, "genres": ["Comedy", "Drama"] * 20}
    )
    items.to_csv(tmp_path / "items.csv", index=False)
    return tmp_path


def run_page(page: str, folder: Path, path: Path) -> int:
    """Run a page's blocks one after the other; how many there were."""
    blocks = [to_run(block) for block in shell_blocks((ROOT / page).read_text(encoding="utf-8"))]
    for block in filter(None, blocks):
        run_block(block, folder, path, **EPOCHS)
    return sum(map(bool, blocks))


@pytest.mark.slow
def test_the_commands_of_the_readme_run(folder: Path, path: Path) -> None:
    assert run_page("README.md", folder, path) >= 1
    assert (folder / "scores" / "_SUCCESS").is_file()
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(folder: Path, path: Path) -> None:
    assert run_page("docs/nightly.md", folder, path) >= 5
    current = folder / "current"
    assert current.is_symlink() and (current / "_SUCCESS").is_file()
    night = current.resolve().parent
    rows = pd.read_parquet(next(current.glob("part-*.parquet")))
    assert rows["user_id"].nunique() == 60

    # A night that failed goes on by the same script: without a run, and within one.
    lists = (current / "part-00000.parquet").read_bytes()
    for lost in ("lists", "run/results.json", "run/checkpoints/best"):
        run_block(f"rm -r {night / lost}; ./nightly.sh", folder, path, **EPOCHS)
        assert (current / "part-00000.parquet").read_bytes() == lists, lost
    # One whose table is bad ends with what `prepare` says, and leaves the lists of the last one.
    run_block(
        "echo 1,2,many,3 >>ratings.csv; ./nightly.sh 2000-01-01 && exit 1; test $? = 3",
        folder,
        path,
        **EPOCHS,
    )
    assert os.path.realpath(current) == str(night / "lists")


def test_failures_of_a_block_are_seen(folder: Path, path: Path) -> None:
    with pytest.raises(AssertionError, match=r"ended with 2:(.|\n)*--splat"):
        run_block("dglrec prepare ratings.csv data --splat\nls", folder, path)
    assert "--top-k" in run_block("dglrec score --help | cat", folder, path)
    assert run_block("dglrec evaluate nothing || echo $?", folder, path).endswith("\n3\n")


def test_lines_that_are_left_out_have_a_reason() -> None:
    assert all(NOT_RUN.values())
    block = "pip install .\ndglrec train data run\n"
    assert to_run(block) == "dglrec train data run\n"
