"""Time and peak memory of generating, preparing, opening and proving a data set.

    python benchmarks/bench_prepare.py --json benchmarks/results/prepare.json
    python benchmarks/bench_prepare.py --dataset data --epoch-seconds 64

The second measures opening and proving alone: what every command does before its first figure, as
a share of an epoch.

Each step runs in a fresh process, as a user would run it, so its time includes starting Python.
Synopses are embedded once before the clock starts: their embeddings are cached by content.
`read_csv` is pandas reading the same ratings file, for scale.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path
from statistics import median

from common import (
    Finished,
    Row,
    child_main,
    dglrec_command,
    print_table,
    run_child,
    run_measured,
    say,
    scaled_size,
    synth_command,
    write_results,
)

RATINGS_FILE = "rating_complete.csv"
ITEM_FILES = ("anime.csv", "anime_with_synopsis.csv")
COLUMNS = ("step", "rows", "seconds", "rows_per_second", "peak_memory_gb")
_OPENINGS = 5


def read_csv(path: str) -> Row:
    """In a child: pandas on the ratings file, at its defaults."""
    import pandas as pd

    started = time.perf_counter()
    frame = pd.read_csv(path)
    return {"seconds": time.perf_counter() - started, "rows": len(frame)}


def open_dataset(path: str) -> Row:
    """In a child: map a prepared data set, and then read all of it once."""
    started = time.perf_counter()
    from dglrec.dataset import RatingDataset

    imported = time.perf_counter()
    dataset = RatingDataset.open(Path(path))
    opened = time.perf_counter()
    dataset.prove()
    proved = time.perf_counter()
    return {
        "seconds": opened - imported,
        "prove_seconds": proved - opened,
        "import_seconds": imported - started,
        "rows": dataset.meta["counts"]["train"],
    }


def row_of(step: str, rows: int, done: Finished) -> Row:
    return {
        "step": step,
        "rows": rows,
        "seconds": round(done.seconds, 2),
        "rows_per_second": round(rows / done.seconds),
        "peak_memory_gb": round(done.peak_memory_gb, 3),
    }


def synth(folder: Path, scale: float) -> Row:
    return row_of(
        "synth", scaled_size(scale)["ratings"], run_measured(synth_command(folder, scale))
    )


def cache_texts(source: Path, folder: Path) -> Row:
    """Prepare the same items with one made-up rating each, so that only synopses take time."""
    small = folder / "small"
    small.mkdir()
    for name in ITEM_FILES:
        (small / name).symlink_to((source / name).resolve())
    with (
        (small / ITEM_FILES[0]).open(encoding="utf-8", newline="") as items,
        (small / RATINGS_FILE).open("w", encoding="utf-8", newline="") as ratings,
    ):
        ratings.write("user_id,anime_id,rating\n")
        for number, item in enumerate(csv.DictReader(items)):
            ratings.write(f"{number % 50},{item['MAL_ID']},{1 + number % 10}\n")
    done = run_measured(dglrec_command("prepare", str(small), str(folder / "small-dataset")))
    return {"step": "embed texts not in the cache", "seconds": round(done.seconds, 2)}


def measure(source: Path, folder: Path, text: bool, repeats: int) -> list[Row]:
    """Rows of preparing, of pandas, and of opening."""
    with (source / RATINGS_FILE).open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b"")) - 1
    rows = []
    if text:
        say("embedding synopses that the cache lacks, before the clock")
        rows.append(cache_texts(source, folder))
    dataset = folder / "dataset"
    options = ["--overwrite"] + ([] if text else ["--no-text"])
    command = dglrec_command("prepare", str(source), str(dataset), *options)
    runs = [row_of("prepare", lines, run_measured(command)) for _ in range(repeats)]
    rows.append(sorted(runs, key=lambda row: row["seconds"])[(repeats - 1) // 2])

    job = {"do": "read_csv", "path": str(source / RATINGS_FILE)}
    reads = [run_child(__file__, job) for _ in range(repeats)]
    read = sorted(reads, key=lambda row: row["seconds"])[(repeats - 1) // 2]
    rate = round(lines / read["seconds"])
    seconds = round(read["seconds"], 2)
    rows.append({"step": "read_csv", **read, "seconds": seconds, "rows_per_second": rate})

    return rows + measure_opening(dataset, None)


def measure_opening(dataset: Path, epoch_seconds: float | None) -> list[Row]:
    """Rows of opening and of proving, the files in the page cache after the first of each."""
    job = {"do": "open", "path": str(dataset)}
    openings = [run_child(__file__, job) for _ in range(_OPENINGS)]
    both: Row = {
        "rows": openings[0]["rows"],
        "peak_memory_gb": median([row["peak_memory_gb"] for row in openings]),
    }
    seconds = median([row["prove_seconds"] for row in openings])
    size = sum(file.stat().st_size for file in dataset.rglob("*") if file.is_file())
    proving: Row = {"gb_per_second": round(size / seconds / 1e9, 2)}
    if epoch_seconds is not None:
        proving["share_of_an_epoch"] = round(seconds / epoch_seconds, 5)
    return [
        {
            "step": "open",
            **both,
            "seconds": round(median([row["seconds"] for row in openings]), 4),
            "import_seconds": round(median([row["import_seconds"] for row in openings]), 2),
        },
        {"step": "prove", **both, "seconds": round(seconds, 4), **proving},
    ]


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="a generated source; default: make one")
    parser.add_argument("--dataset", type=Path, help="one that is prepared: opening it alone")
    parser.add_argument("--epoch-seconds", type=float, help="of a training on it, for the share")
    parser.add_argument("--scale", type=float, default=1.0, help="of users and ratings made")
    parser.add_argument("--no-text", action="store_true", help="leave synopses out")
    parser.add_argument("--repeats", type=int, default=1, help="of prepare and read_csv; median")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.dataset is not None:
        rows = measure_opening(arguments.dataset, arguments.epoch_seconds)
        print_table("opening", (*COLUMNS, "gb_per_second", "share_of_an_epoch"), rows)
        write_results(arguments.json, rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = arguments.source
        if source is None:
            source = folder / "source"
            rows.append(synth(source, arguments.scale))
        rows += measure(source, folder, not arguments.no_text, arguments.repeats)
    print_table("preparing", COLUMNS, rows)
    write_results(arguments.json, rows)


if __name__ == "__main__" and not child_main({"read_csv": read_csv, "open": open_dataset}):
    main()
