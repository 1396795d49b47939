"""What a target costs on graphs of other shapes: many items, many users.

    python benchmarks/bench_shapes.py --json benchmarks/results/shapes.json

Ratings are planted: biases, two factors, noise, and items of uneven popularity; the same number of
them in each graph, so that what differs is how many nodes they lie between. Of each shape the
default model is trained for some seconds with its default settings (both heads, validation left
out), all its nodes are embedded exactly, and lists are made for some users; each in a fresh
process. The first shape is the anime graph's, with all of its ratings.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench_train import DglrecLoop
from common import (
    RESULTS,
    ChildError,
    PartClock,
    Row,
    child_main,
    measure_loop,
    open_workload,
    print_table,
    run_child,
    save_workload,
    say,
    training_of,
    write_results,
)

ANIME = (310_059, 16_872, 46_000_000)
RATINGS = 20_000_000
ITEMS = (1_000, 10_000, 100_000, 1_000_000)  # of a million users
USERS = (10_000, 100_000, 1_000_000, 10_000_000)  # of as many items as there are anime
COLUMNS = (
    "users",
    "items",
    "ratings",
    "reads",
    "batch",
    "edges_per_second",
    "ns_per_edge",
    "step_ms",
    "peak_memory_gb",
    "embed_seconds",
    "lists_per_second",
    "infer_memory_gb",
)

_PAIRS_AT_ONCE = 1 << 22


def plant(users: int, items: int, ratings: int, folder: str) -> Row:
    """In a child: write a graph of about so many ratings, and its biases."""
    import numpy as np

    from dglrec.biases import fit_biases
    from dglrec.graph import build_graph
    from dglrec.schema import RatingScale

    started = time.perf_counter()
    generator = np.random.default_rng(0)
    keys = np.empty(0, dtype=np.int64)
    # A popular item is drawn again and again by somebody who has it: what is missing is drawn anew.
    for _ in range(8):
        missing = ratings - len(keys)
        if missing <= ratings // 100:
            break
        of_user = generator.integers(0, users, missing)
        # Density falls with the third root of an item's place.
        of_item = np.minimum(items * generator.random(missing) ** 1.5, items - 1).astype(np.int64)
        keys = np.concatenate((keys, of_user * items + of_item))
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]
    owners, rated = np.divmod(keys, items)
    del keys
    sides = [generator.normal(size=(count, 3)).astype(np.float32) for count in (users, items)]
    values = np.empty(len(owners), dtype=np.float32)
    for first in range(0, len(owners), _PAIRS_AT_ONCE):
        part = slice(first, first + _PAIRS_AT_ONCE)
        one, other = sides[0][owners[part]], sides[1][rated[part]]
        taste = 0.7 * (one[:, 1:] * other[:, 1:]).sum(1)
        noise = generator.normal(0, 1, len(one))
        values[part] = 7.5 + 0.6 * one[:, 0] + 0.6 * other[:, 0] + taste + noise
    scale = RatingScale(1, 10)
    codes = scale.encode(np.clip(np.round(values), 1, 10))
    graph = build_graph(owners, rated, codes, num_users=users, num_items=items, scale=scale)
    save_workload(graph, fit_biases(graph), Path(folder))
    return {"ratings": graph.num_edges, "plant_seconds": round(time.perf_counter() - started, 1)}


def train(folder: str, seconds: float) -> Row:
    """In a child: the default model's training steps for some seconds."""
    import torch

    from dglrec.nn import ModelConfig
    from dglrec.sampling import LoaderConfig
    from dglrec.train import Settings, TrainConfig

    workload, clock = open_workload(None, folder), PartClock()
    settings = Settings(ModelConfig(), LoaderConfig(), TrainConfig())
    resolved = settings.resolved(workload.graph)
    loop = DglrecLoop(*training_of(workload, settings, torch.device("cpu")), clock)
    return {
        "reads": resolved.loader.items,
        "batch": resolved.loader.batch_size,
        "negatives": resolved.ranking.negatives,
        "list_size": resolved.model.list_size,
        **measure_loop(loop, seconds, clock),
        "threads": torch.get_num_threads(),
    }


def infer(folder: str, listed: int) -> Row:
    """In a child: exact embeddings of all nodes, and lists of ten for some users."""
    import torch

    from dglrec.infer import ListScorer, embed_all
    from dglrec.kernels import ItemLists
    from dglrec.nn import ModelConfig, RatingModel

    workload = open_workload(None, folder)
    graph = workload.graph
    torch.manual_seed(0)
    config = ModelConfig(heads="both", dropout=0.0)
    model = RatingModel(config, graph.num_users, workload.item_features)
    started = time.perf_counter()
    lists = embed_all(model, graph, workload.biases).lists
    embedded = time.perf_counter()
    assert lists is not None
    users = torch.arange(min(listed, graph.num_users))
    seen = graph.by_user.of_nodes(0, len(users))
    ListScorer(*lists).best(users, ItemLists(seen.offsets, seen.neighbours), 10)
    done = time.perf_counter()
    return {
        "embed_seconds": round(embedded - started, 2),
        "listed": len(users),
        "lists_per_second": round(len(users) / (done - embedded)),
    }


def shapes(arguments: argparse.Namespace) -> Iterator[tuple[int, int, int]]:
    """Users, items and ratings of each graph."""
    if arguments.shape:
        for text in arguments.shape:
            users, items, ratings = (int(word.replace("_", "")) for word in text.split(","))
            yield users, items, ratings
        return
    yield ANIME
    yield from ((1_000_000, items, RATINGS) for items in ITEMS)
    yield from ((users, ANIME[1], RATINGS) for users in USERS)


def measured(shape: tuple[int, int, int], arguments: argparse.Namespace) -> Row:
    """A shape's row; where a process failed (for want of memory, say), that it did."""
    users, items, ratings = shape
    row: Row = {"users": users, "items": items, "ratings": ratings}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as temporary:
        folder = str(Path(temporary) / "graph")
        try:
            planted = run_child(__file__, {"do": "plant", **row, "folder": folder})
            del planted["peak_memory_gb"]
            row |= planted
            job = {"do": "train", "folder": folder, "seconds": arguments.seconds}
            row |= run_child(__file__, job)
            found = run_child(
                __file__, {"do": "infer", "folder": folder, "listed": arguments.listed}
            )
            row |= {**found, "infer_memory_gb": found["peak_memory_gb"]} | {
                "peak_memory_gb": row["peak_memory_gb"]
            }
        except ChildError as error:
            say(f"{users:,} users, {items:,} items: {error}")
            return {**row, "error": str(error)}
    say(
        f"{users:,} users, {items:,} items: {row['ns_per_edge']:,} ns a target, "
        f"{row['peak_memory_gb']:.2f} GB"
    )
    return row


def draw(rows: list[Row], target: Path) -> None:
    """Cost a target against the number of items, and of users, as SVG and PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dglrec", "font.size": 9})
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained", sharey=True)
    anime = next(row for row in rows if row["items"] == ANIME[1])
    by_items = [row for row in rows if row["users"] == 1_000_000 and row["items"] in ITEMS]
    by_users = [row for row in rows if row["items"] == ANIME[1] and row["users"] in USERS]
    for panel, name, points in ((axes[0], "items", by_items), (axes[1], "users", by_users)):
        points = sorted(points, key=lambda row: row[name])
        costs = [row["ns_per_edge"] / 1000 for row in points]
        panel.plot([row[name] for row in points], costs, marker="o", color="#0b6e4f")
        panel.axhline(anime["ns_per_edge"] / 1000, linestyle="--", color="#777777", linewidth=1)
        panel.set_xscale("log")
        panel.set_xlabel(f"{name}, of 20 million ratings")
        panel.grid(alpha=0.3)
    highest = max(row["ns_per_edge"] for row in (*by_items, *by_users)) / 1000
    axes[0].set_ylim(0, 1.1 * highest)
    axes[0].set_ylabel("µs a target, default model")
    axes[1].annotate("the anime graph", (USERS[0], anime["ns_per_edge"] / 1000), va="bottom")
    for suffix in ("svg", "png"):
        figure.savefig(target.with_suffix(f".{suffix}"), dpi=150, metadata={})
    plt.close(figure)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", nargs="+", metavar="USERS,ITEMS,RATINGS", help="in place of those of the plot"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of training, of each shape")
    parser.add_argument("--listed", type=int, default=10_000, help="users that lists are made for")
    parser.add_argument("--scratch", type=Path, help="where graphs are written meanwhile")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument(
        "--plot", type=Path, nargs="?", const=RESULTS / "shapes.json", help="draw those of a file"
    )
    arguments = parser.parse_args()
    if arguments.plot:
        rows = json.loads(arguments.plot.read_text(encoding="utf-8"))["rows"]
        draw([row for row in rows if "error" not in row], arguments.plot)
        return
    rows = [measured(shape, arguments) for shape in shapes(arguments)]
    print_table("cost a target by shape", COLUMNS, rows)
    write_results(arguments.json, rows)


if __name__ == "__main__" and not child_main({"plant": plant, "train": train, "infer": infer}):
    main()
