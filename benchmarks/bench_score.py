"""Batch scoring: users a second and peak memory against the number of users and of items.

    python benchmarks/bench_score.py --data DATASET --run RUN --json benchmarks/results/score.json

Rows are of four parts. `stage` is choosing each user's best items out of embeddings that are there:
dglrec beside what torch and the library implicit make of it. `embed` is making those embeddings.
`limit` is how fast this machine does the sums when everything lies in a core's first-level cache.
`command` is `dglrec score` from start to files on disk; without --run it is left out. Weights do
not change the work, and but for the command the model is untrained, of the default configuration.
"""

import argparse
import importlib.util
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import (
    Row,
    child_main,
    dglrec_command,
    installed,
    make_dataset,
    make_subset,
    measure_loop,
    open_workload,
    print_table,
    run_child,
    run_measured,
    say,
    write_results,
    write_subset,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from dglrec.graph import RatingGraph
    from dglrec.infer import Scorer
    from dglrec.kernels import ItemLists
    from dglrec.nn import RatingModel

SIDES = ("dglrec", "torch_pairs", "torch_split", "implicit_als")
TOP_K = 10
USERS_A_CALL = 8_192  # of dglrec
FACTORS = 64  # of implicit, as many as dglrec's embeddings have

# Each side's best is looked for among these; torch's besides among what OpenMP's threads do
# between parallel regions. dglrec runs as it is installed.
PAIR_USERS = (1, 4, 16, 64, 256, 1_024)
PAIRS_AT_ONCE = 1 << 20  # more of them take a gigabyte
SCORES_AT_ONCE = (1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24)
ALS_USERS = (100, 1_000, 8_192)
WAITING = {"torch_pairs": ("passive", "active"), "torch_split": ("passive", "active")}

CHECKED_USERS = 20
CLOSE = 1e-4

STAGE = (
    "side",
    "scale",
    "users",
    "catalogue",
    "users_a_call",
    "users_per_second",
    "peak_memory_gb",
    "limit_users_per_second",
    "share_of_limit",
)
EMBED = ("scale", "users", "items", "seconds", "peak_memory_gb")
LIMIT = ("threads", "max_per_second", "fma_per_second")
COMMAND = (
    "command",
    "count",
    "seconds",
    "per_second",
    "stage_per_second",
    "peak_memory_gb",
    "bytes_written",
)


@dataclass(frozen=True)
class Way:
    """One way to run a side.

    Attributes:
        users: how many a call scores.
        score: what a call is; takes the first user and the one behind the last.
        start: what is set before the first call.
        settings: what tells this way from the others.
    """

    users: int
    score: Callable[[int, int], object]
    start: Callable[[], object] = lambda: None
    settings: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Passes:
    """All users, call by call; a `Loop`."""

    way: Way
    users: int

    def steps(self) -> Iterator[int]:
        """One pass."""
        for low in range(0, self.users, self.way.users):
            high = min(low + self.way.users, self.users)
            self.way.score(low, high)
            yield high - low


def rate_of(way: Way, users: int, seconds: float) -> Row:
    """What `measure_loop` says of one way."""
    way.start()
    return measure_loop(Passes(way, users), seconds)


def make_model(num_users: int, item_features: "Tensor") -> "RatingModel":
    """An untrained model, the same in every child, whose scores are not mostly biases."""
    import torch

    from dglrec.nn import ModelConfig, RatingModel

    torch.manual_seed(0)
    model = RatingModel(ModelConfig.model_validate({}), num_users, item_features)
    # A new model starts at the biases' predictions: its last weights are small.
    model.decoder.out.reset_parameters()
    assert model.decoder.factor_of_user is not None
    model.decoder.factor_of_user.reset_parameters()
    return model


NODES = ("users", "items")


def embed(dataset: str, folder: str | None, target: str) -> Row:
    """In a child: write exact embeddings, and what each user has rated, for the sides to map."""
    import numpy as np
    import torch

    from dglrec.infer import embed_all

    workload = open_workload(dataset, folder)
    graph = workload.graph
    model = make_model(graph.num_users, workload.item_features)
    started = time.perf_counter()
    nodes = embed_all(model, graph, workload.biases).nodes
    seconds = time.perf_counter() - started
    Path(target).mkdir(parents=True)
    for name, values in zip(NODES, nodes, strict=True):
        np.save(Path(target) / f"{name}.npy", values.numpy())
    for name, values in graph.by_user.lists._asdict().items():
        np.save(Path(target) / f"rated_{name}.npy", values)
    return {
        "seconds": round(seconds, 3),
        "threads": torch.get_num_threads(),
        "hidden": model.config.decoder_size,
        "factors": model.config.embedding_size,
    }


def mapped(target: str, name: str) -> Any:
    import numpy as np

    return np.asarray(np.load(Path(target) / f"{name}.npy", mmap_mode="c"))


def choose(items: int, count: int, seed: int) -> "npt.NDArray[Any]":
    """A random catalogue, ascending; with a `count` of all items, all of them."""
    import numpy as np

    chosen = np.random.default_rng(seed).choice(items, count, replace=False)
    chosen.sort()
    return chosen


class Scene:
    """What the sides with dglrec's model score.

    Args:
        dataset: a prepared data set.
        folder: of the subset, as for `open_workload`.
        target: where `embed` wrote.
        catalogue: how many items there are to choose from.
        seed: of their choice.
    """

    def __init__(
        self, dataset: str, folder: str | None, target: str, catalogue: int, seed: int
    ) -> None:
        import torch

        from dglrec.nn import NodeValues

        workload = open_workload(dataset, folder)
        self.graph: RatingGraph = workload.graph
        self.biases = workload.biases
        self.model = make_model(self.graph.num_users, workload.item_features)
        users, items = (torch.from_numpy(mapped(target, name)) for name in NODES)
        self.nodes: NodeValues = NodeValues(users, items)
        self.catalogue = torch.from_numpy(choose(len(items), catalogue, seed))
        self.left_out: ItemLists = self.graph.by_user.lists

    def scorer(self) -> "Scorer":
        from dglrec.infer import Scorer

        return Scorer(self.model, self.nodes, self.biases, self.catalogue)


class PairLoop:
    """The model as one writes it in torch: an MLP over the two embeddings of each pair."""

    def __init__(self, scene: Scene) -> None:
        import torch

        decoder = scene.model.decoder
        assert decoder.factor_of_user is not None and decoder.factor_of_item is not None
        self.decoder, self.biases, self.left_out = decoder, scene.biases, scene.left_out
        self.users, self.catalogue = scene.nodes.users, scene.catalogue
        self.items = scene.nodes.items[scene.catalogue]
        self.item_biases = scene.biases.items[scene.catalogue]
        self.positions = torch.full((len(scene.nodes.items),), -1)
        self.positions[scene.catalogue] = torch.arange(len(scene.catalogue))
        with torch.inference_mode():
            self.first = torch.cat([decoder.from_user.weight, decoder.from_item.weight], 1)
            self.item_factors = decoder.factor_of_item(self.items).T.contiguous()
            self.factor_of_user = decoder.factor_of_user

    def best(self, users: "Tensor", k: int) -> tuple["Tensor", "Tensor"]:
        """Scores [n, k] and items [n, k] of n users."""
        import torch
        from torch.nn import functional

        from dglrec.infer import entries_of

        with torch.inference_mode():
            near, items = self.users[users], self.items
            n, m = len(near), len(items)
            pairs = torch.cat([near.repeat_interleave(m, 0), items.repeat(n, 1)], 1)
            hidden = functional.linear(pairs, self.first, self.decoder.from_user.bias).relu_()
            scores = self.decoder.out(hidden).view(n, m)
            scores += self.factor_of_user(near) @ self.item_factors
            scores += (self.biases.mean + self.biases.users[users]).unsqueeze(1)
            scores += self.item_biases
            rows, entries = entries_of(self.left_out.offsets, users)
            places = self.positions[self.left_out.items[entries.numpy()]]
            listed = places >= 0
            scores[rows[listed], places[listed]] = -torch.inf
            found = scores.topk(k)
            return found.values, self.catalogue[found.indices]


class SplitLoop:
    """The first layer taken apart by node and broadcast, as dglrec scores on a GPU."""

    def __init__(self, scene: Scene) -> None:
        self.scorer, self.left_out = scene.scorer(), scene.left_out
        self.catalogue = scene.catalogue

    def best(self, users: "Tensor", k: int) -> tuple["Tensor", "Tensor"]:
        """Scores [n, k] and items [n, k] of n users."""
        return self.scorer.best_of_few(users, self.left_out, k)


def agree(dataset: str, folder: str | None, target: str, catalogue: int, seed: int) -> Row:
    """In a child: hold the three sides with the same model against each other on a few users.

    In a child of its own, as it would add to the memory of the one that is measured.

    Raises:
        RuntimeError: they differ.
    """
    import torch

    scene = Scene(dataset, folder, target, catalogue, seed)
    users = torch.linspace(0, scene.graph.num_users - 1, CHECKED_USERS).long().unique()
    scorer, k = scene.scorer(), min(TOP_K, catalogue)
    expected, _ = scorer.best(users, scene.left_out, k)
    largest = 0.0
    for side, loop in (("torch_pairs", PairLoop(scene)), ("torch_split", SplitLoop(scene))):
        found = [loop.best(some, k) for some in users.split(7)]
        scores, items = (torch.cat(parts) for parts in zip(*found, strict=True))
        there = expected.isfinite()
        of_items = scorer.pairs(users.repeat_interleave(k), items.flatten()).view_as(scores)
        # Items whose scores are about equal may change places, so it is their scores that count.
        for one in (scores, of_items):
            gap = (one - expected)[there].abs()
            largest = max(largest, float(gap.max()) if len(gap) else 0.0)
        if not largest <= CLOSE or not bool((scores.isfinite() == there).all()):
            raise RuntimeError(f"{side} and dglrec differ, by up to {largest:g}")
    return {"largest_difference": largest}


def dglrec_ways(scene: Scene) -> list[Way]:
    import torch

    scorer = scene.scorer()

    def score(low: int, high: int) -> object:
        return scorer.best(torch.arange(low, high), scene.left_out, TOP_K)

    return [Way(USERS_A_CALL, score)]


def _score_with(loop: PairLoop | SplitLoop, low: int, high: int) -> object:
    import torch

    return loop.best(torch.arange(low, high), min(TOP_K, len(loop.catalogue)))


def pairs_ways(scene: Scene) -> list[Way]:
    loop = PairLoop(scene)
    most = max(1, PAIRS_AT_ONCE // len(scene.catalogue))
    return [Way(users, partial(_score_with, loop)) for users in PAIR_USERS if users <= most]


def split_ways(scene: Scene) -> list[Way]:
    from dglrec.infer import predict

    loop = SplitLoop(scene)
    ways: dict[int, Way] = {}
    for scores in SCORES_AT_ONCE:
        users = max(1, scores // len(scene.catalogue))
        start = partial(setattr, predict, "_SCORES_AT_ONCE", scores)
        # A call takes several steps of so many users.
        way = Way(users * max(1, 64 // users), partial(_score_with, loop), start)
        ways.setdefault(users, replace(way, settings={"users_a_step": users}))
    return list(ways.values())


def als_ways(target: str, catalogue: int, seed: int, threads: int) -> tuple[list[Way], int]:
    """Factors of users and items, on as many threads as torch has.

    Imports neither torch nor dglrec, so that the memory is implicit's own.
    """
    import numpy as np
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import ThreadpoolController

    offsets, rated = mapped(target, "rated_offsets"), mapped(target, "rated_items")
    items, users = len(mapped(target, "items")), len(offsets) - 1
    ones = np.ones(len(rated), dtype=np.float32)
    seen = csr_matrix((ones, rated, offsets.astype(np.int32)), shape=(users, items))
    if catalogue < items:
        seen = csr_matrix(seen[:, choose(items, catalogue, seed)])
    blas = ThreadpoolController()
    blas.limit(limits=1, user_api="blas")  # of any other number a new model complains
    generator = np.random.default_rng(0)
    factors = [
        generator.standard_normal((count, FACTORS), dtype=np.float32)
        for count in (users, catalogue)
    ]
    ways = []
    # Its own threads or those of BLAS: both at once get in each other's way.
    for own, of_blas in dict.fromkeys([(threads, 1), (1, threads)]):
        model = AlternatingLeastSquares(factors=FACTORS, num_threads=own)
        model.user_factors, model.item_factors = factors
        start = partial(blas.limit, limits=of_blas, user_api="blas")
        settings = {"own_threads": own, "blas_threads": of_blas}
        for size in ALS_USERS:
            ways.append(Way(size, partial(_recommend, model, seen), start, settings))
    return ways, users


def _recommend(model: Any, seen: Any, low: int, high: int) -> object:
    import numpy as np

    k = min(TOP_K, model.item_factors.shape[0])
    return model.recommend(
        np.arange(low, high), seen[low:high], N=k, filter_already_liked_items=True
    )


WAYS = {"dglrec": dglrec_ways, "torch_pairs": pairs_ways, "torch_split": split_ways}


def ways_of(
    side: str,
    dataset: str,
    folder: str | None,
    target: str,
    catalogue: int,
    seed: int,
    threads: int,
) -> tuple[list[Way], int]:
    """All ways to run a side, and how many users there are."""
    if side == "implicit_als":
        return als_ways(target, catalogue, seed, threads)
    scene = Scene(dataset, folder, target, catalogue, seed)
    return WAYS[side](scene), scene.graph.num_users


def try_ways(seconds: float, **place: Any) -> Row:
    """In a child: users a second of each way, taken briefly."""
    ways, users = ways_of(**place)
    return {"rates": [rate_of(way, users, seconds)["edges_per_second"] for way in ways]}


def measure(number: int, seconds: float, **place: Any) -> Row:
    """In a child: one way to run a side, whose memory is this way's alone."""
    started = time.perf_counter()
    ways, users = ways_of(**place)
    built = time.perf_counter() - started
    found = rate_of(ways[number], users, seconds)
    return {
        "users_a_call": ways[number].users,
        **ways[number].settings,
        "users_per_second": found["edges_per_second"],
        "call_ms": found["step_ms"],
        "calls": found["steps"],
        "measured_seconds": found["measured_seconds"],
        "build_seconds": round(built, 3),
    }


WIDTH = 480  # items of a tile
SHARING = 4  # users that share loaded units, and these units: the fastest of the shapes tried
LINE = 64  # bytes; what crosses a line of the cache takes longer to load


def rates(repeats: int) -> Row:
    """In a child: how many unit-items a second all threads do together on tiles in their caches.

    A unit-item is `w max(c, a)` added to a score, or `p q` added to one.
    """
    import torch

    threads = torch.get_num_threads()
    found = {f"{name}_per_second": _unit_items(name, threads, repeats) for name in ("max", "fma")}
    return {"threads": threads, **found}


def _unit_items(name: str, threads: int, repeats: int) -> int:
    """The most in any of some repeats: a limit is what the machine can do, not what it did once."""
    import numba
    import numpy as np

    fast = numba.njit(nogil=True, fastmath={"contract", "nsz"})

    @fast
    def term(c, a, w):  # type: ignore[no-untyped-def]
        return w * max(c, a) if name == "max" else c * a

    @fast
    def loop(rounds, scores, c, a, w):  # type: ignore[no-untyped-def]
        s0, s1, s2, s3 = scores[0], scores[1], scores[2], scores[3]
        c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
        w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
        d0, d1, d2, d3 = a[0, 0], a[0, 1], a[0, 2], a[0, 3]
        e0, e1, e2, e3 = a[1, 0], a[1, 1], a[1, 2], a[1, 3]
        f0, f1, f2, f3 = a[2, 0], a[2, 1], a[2, 2], a[2, 3]
        g0, g1, g2, g3 = a[3, 0], a[3, 1], a[3, 2], a[3, 3]
        for _ in range(rounds):
            for i in range(len(s0)):
                u0, u1, u2, u3 = c0[i], c1[i], c2[i], c3[i]
                s0[i] += term(u0, d0, w0) + term(u1, d1, w1) + term(u2, d2, w2) + term(u3, d3, w3)
                s1[i] += term(u0, e0, w0) + term(u1, e1, w1) + term(u2, e2, w2) + term(u3, e3, w3)
                s2[i] += term(u0, f0, w0) + term(u1, f1, w1) + term(u2, f2, w2) + term(u3, f3, w3)
                s3[i] += term(u0, g0, w0) + term(u1, g1, w1) + term(u2, g2, w2) + term(u3, g3, w3)

    generator = np.random.default_rng(0)

    def numbers(*shape: int) -> "npt.NDArray[np.float32]":
        count = math.prod(shape)
        room = np.empty(count + LINE // 4, dtype=np.float32)
        start = -room.ctypes.data % LINE // 4
        values = room[start : start + count].reshape(shape)
        values[...] = generator.standard_normal(shape)
        return values

    shapes = ((SHARING, WIDTH), (SHARING, WIDTH), (SHARING, SHARING), (SHARING,))
    inputs = [[numbers(*shape) for shape in shapes] for _ in range(threads)]
    loop(1, *inputs[0])
    rounds = 40_000  # some 10 ms
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            started = time.perf_counter()
            for done in [pool.submit(loop, rounds, *one) for one in inputs]:
                done.result()
            best = min(best, time.perf_counter() - started)
    return round(threads * rounds * SHARING**2 * WIDTH / best)


def users_allowed(limit: Row, items: int, hidden: int, factors: int) -> float:
    """Users a second that the arithmetic alone would allow for."""
    seconds = hidden / limit["max_per_second"] + factors / limit["fma_per_second"]
    return 1 / (items * seconds)


def add_shares(rows: Sequence[Row]) -> None:
    """What share of the limit dglrec reaches; of several limits the largest counts."""
    limits = [row for row in rows if row["part"] == "limit"]
    embedded = [row for row in rows if row["part"] == "embed"]
    if not limits or not embedded:
        return
    best = {key: max(row[key] for row in limits) for key in ("max_per_second", "fma_per_second")}
    for row in rows:
        if row["part"] == "stage" and row["side"] == "dglrec":
            allowed = users_allowed(
                best, row["catalogue"], embedded[0]["hidden"], embedded[0]["factors"]
            )
            row["limit_users_per_second"] = round(allowed)
            row["share_of_limit"] = round(row["users_per_second"] / allowed, 3)


def limit_row(repeats: int) -> Row:
    """How fast the machine is just now."""
    row = run_child(__file__, {"do": "rates", "repeats": repeats})
    del row["peak_memory_gb"]
    return {"part": "limit", **row}


def unusable(side: str) -> str | None:
    """Why a side cannot be measured here, or None."""
    if side != "implicit_als" or importlib.util.find_spec("implicit") is not None:
        return None
    return "implicit is not installed"


def stage(dataset: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """Rows of embedding and of scoring, as they are measured."""
    sides = [SIDES[0]]
    for side in arguments.against:
        if reason := unusable(side):
            say(f"{side} is left out: {reason}")
        else:
            sides.append(side)
    for scale in arguments.scale:
        with tempfile.TemporaryDirectory() as temporary:
            folder, sizes = make_subset(__file__, dataset, scale, arguments.seed, Path(temporary))
            place: Row = {"dataset": str(dataset), "folder": folder}
            place["target"] = str(Path(temporary) / "embedded")
            embedded = run_child(__file__, {"do": "embed", **place})
            yield {"part": "embed", "scale": scale, **sizes, **embedded}
            counts = [sizes["items"]]
            if scale == max(arguments.scale):
                counts = [one for one in arguments.catalogue if one < sizes["items"]] + counts
            for count in counts:
                job = {**place, "catalogue": count, "seed": arguments.seed}
                agreed = {}
                if any(side.startswith("torch") for side in sides):
                    agreed = run_child(__file__, {"do": "agree", **job})
                for side in sides:
                    row = {"part": "stage", "side": side, "scale": scale, **sizes}
                    row |= {"catalogue": count, "threads": embedded["threads"]}
                    row |= one_side(
                        {"side": side, **job, "threads": row["threads"]}, arguments.seconds
                    )
                    row["scores_per_second"] = row["users_per_second"] * count
                    if side.startswith("torch"):
                        row["largest_difference"] = agreed["largest_difference"]
                    say(
                        f"{side} at {scale:g}, {count:,} items: "
                        f"{row['users_per_second']:,} users/s, {row['peak_memory_gb']:.2f} GB"
                    )
                    yield row


def one_side(place: Row, seconds: float) -> Row:
    """Figures of a side's best way, which is looked for briefly."""
    brief = {"do": "try", **place, "seconds": min(1.0, seconds / 8)}
    tried: list[tuple[int, str, int]] = []
    if place["side"] != "dglrec":
        for waiting in WAITING.get(place["side"], ("passive",)):
            found = run_child(__file__, brief, environment={"OMP_WAIT_POLICY": waiting})
            tried += [(rate, waiting, number) for number, rate in enumerate(found["rates"])]
    _, waiting, number = max(tried, default=(0, "passive", 0))
    job = {"do": "measure", **place, "number": number, "seconds": seconds}
    figures = run_child(__file__, job, environment={"OMP_WAIT_POLICY": waiting})
    return {**figures, "omp_wait_policy": waiting, "tried": len(tried)}


def write_pairs(dataset: str, path: str, count: int) -> Row:
    """In a child: random pairs of a data set's users and items as Parquet."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dglrec.dataset import RatingDataset

    opened = RatingDataset.open(Path(dataset))
    sides = {"user_id": opened.users.ids, "item_id": opened.items.ids}
    generator = np.random.default_rng(0)
    schema = pa.schema([(name, ids.type) for name, ids in sides.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for low in range(0, count, 1 << 20):
            rows = min(1 << 20, count - low)
            columns = [ids.take(generator.integers(len(ids), size=rows)) for ids in sides.values()]
            writer.write_table(pa.table(columns, schema=schema))
    return {"bytes": Path(path).stat().st_size}


def commands(dataset: Path, run: Path, millions: Sequence[float]) -> Iterator[Row]:
    """Rows of the whole command, as they are measured."""
    with tempfile.TemporaryDirectory() as temporary:
        out, pairs = Path(temporary) / "out", Path(temporary) / "pairs.parquet"
        yield whole_command(f"top {TOP_K}", run, out, "--top-k", str(TOP_K))
        for count in sorted(max(1, round(1e6 * one)) for one in millions):
            job = {"do": "pairs", "dataset": str(dataset), "path": str(pairs), "count": count}
            written = run_child(__file__, job)
            row = whole_command("pairs", run, out, "--pairs", str(pairs))
            yield {**row, "bytes_read": written["bytes"]}


def whole_command(name: str, run: Path, out: Path, *options: str) -> Row:
    """One row; what the command wrote is removed."""
    done = run_measured(dglrec_command("score", str(run), str(out), *options, "--json"))
    summary = json.loads(done.out)
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    # A pair makes a row, a user makes several.
    count = summary["users"] if "users" in summary else summary["rows"]
    say(f"{name}, {count:,}: {done.seconds:.1f} s, {done.peak_memory_gb:.2f} GB")
    return {
        "part": "command",
        "command": name,
        "count": count,
        "rows": summary["rows"],
        "seconds": round(done.seconds, 2),
        "per_second": round(count / done.seconds),
        "peak_memory_gb": round(done.peak_memory_gb, 3),
        "bytes_written": written,
    }


def add_stage_rates(rows: Sequence[Row]) -> None:
    """Pairs a second without start and embeddings: what each row has beyond the smallest one."""
    pairs = [row for row in rows if row.get("command") == "pairs"]
    for row in pairs:
        more = row["count"] - pairs[0]["count"]
        longer = row["seconds"] - pairs[0]["seconds"]
        row["stage_per_second"] = round(more / longer) if more > 0 and longer > 0 else None


def print_rows(rows: Sequence[Row]) -> None:
    """A table for each part that there is."""
    for part, title, columns in (
        ("limit", "unit-items a second in the first-level cache", LIMIT),
        ("embed", "exact embeddings", EMBED),
        ("stage", f"the best {TOP_K} items of users, unrated ones", STAGE),
        ("command", "dglrec score, from start to files", COMMAND),
    ):
        if of_part := [row for row in rows if row["part"] == part]:
            print_table(title, columns, of_part)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a prepared data set; default: one is generated")
    parser.add_argument("--run", type=Path, help="a run trained on it, for the whole command")
    parser.add_argument("--scale", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument(
        "--catalogue",
        type=int,
        nargs="*",
        default=[1_000, 4_000],
        help="numbers of items to choose from, beside all, at the largest scale",
    )
    parser.add_argument("--against", nargs="*", default=SIDES[1:], choices=SIDES[1:])
    parser.add_argument("--pairs-millions", type=float, nargs="*", default=[1, 10, 50])
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, for each side")
    parser.add_argument("--repeats", type=int, default=51, help="of the limit; the best counts")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of users and items")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        dataset = arguments.data or make_dataset(Path(temporary))
        try:
            # Before and after: on a shared host one moment is not like another.
            rows.append(limit_row(arguments.repeats))
            for row in stage(dataset, arguments):
                rows.append(row)
            rows.append(limit_row(arguments.repeats))
            if arguments.run is None:
                say("the whole command is left out: no --run")
            else:
                for row in commands(dataset, arguments.run, arguments.pairs_millions):
                    rows.append(row)
        finally:
            # An interrupted sweep keeps what it has.
            add_shares(rows)
            add_stage_rates(rows)
            print_rows(rows)
            write_results(arguments.json, rows, implicit=installed("implicit"))


JOBS: dict[str, Callable[..., Row]] = {
    "subset": write_subset,
    "embed": embed,
    "agree": agree,
    "try": try_ways,
    "measure": measure,
    "rates": rates,
    "pairs": write_pairs,
}

if __name__ == "__main__" and not child_main(JOBS):
    main()
