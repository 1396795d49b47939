"""What the ranks of a job do together comes to what one process alone would have done.

How they meet is held in test_distributed. The ranks here are processes, of a job of their own in
each test.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch._dynamo  # as DistributedDataParallel does: here once, there in each rank anew
from batches import LOADERS, Ratings, config_of
from ranks import in_ranks, outcomes_of
from runs import without_times
from test_score import read_all
from test_train import make_settings, planted
from torch import nn

from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.distributed import ALONE
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.evaluate import evaluate
from dglrec.infer import embed_all
from dglrec.nn import ModelConfig, RatingModel
from dglrec.run import LAST, METRICS_FILE, open_run
from dglrec.sampling import NeighborEdgeLoader, UserBatchLoader
from dglrec.score import MANIFEST_FILE, ScoreOptions, TopKOptions, score_pairs, score_top_k
from dglrec.score import jobs as score_module
from dglrec.score.parts import SUCCESS_FILE, PartsFolder
from dglrec.train import RatingObjective, TrainConfig, TrainingStep, train
from dglrec.train import loop as train_module
from dglrec.train import state as state_module
from dglrec.train import step as step_module
from dglrec.train import validation as validation_module
from dglrec.train.objectives import kinds as kinds_module
from dglrec.train.rows import SharedRows

SIZES = [2, 3]


def digest(weights):
    """Of weights, to the bit."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


# --- sums, rows, parts ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_sums_are_the_same_on_all_and_in_float64(size):
    def work(world):
        finish = world.start_sum([world.rank + 1, 2.0**53, 0.1])
        between = world.sum([1])  # another goes on meanwhile
        return [finish(), between, world.sum([]), world.sum([world.rank == 1])]

    found = in_ranks(size, work)
    assert found == [found[0]] * size
    (ranks, large, tenths), ones, nothing, seconds = found[0]
    assert ranks == size * (size + 1) / 2
    assert large == size * 2.0**53
    assert tenths == pytest.approx(size * 0.1, rel=1e-15)
    assert (ones, nothing, seconds) == ([size], [], [1])


@pytest.mark.parametrize("size", SIZES)
def test_what_the_first_makes_all_have(size):
    def work(world):
        made = []

        def make(data):
            made.append(data)
            return data

        whole = [world.from_first(partial(make, data)) for data in (b"", b"\0a\0", b"x" * 70_001)]
        return [[hashlib.sha256(data).hexdigest() for data in whole], len(made)]

    found = in_ranks(size, work)
    expected = [hashlib.sha256(data).hexdigest() for data in (b"", b"\0a\0", b"x" * 70_001)]
    assert found == [[expected, 3], *([[expected, 0]] * (size - 1))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [[1] * 7, [9, 1, 1, 1], [3], [], [0, 0, 5, 0]], ids=str)
def test_rows_that_are_shared_are_those_that_each_has_computed(size, weights):
    def work(world):
        bounds = world.cut(torch.tensor(weights, dtype=torch.int64).cumsum(0))
        found = []
        for shape in ((), (3,)):
            expected = torch.arange(len(weights) * 3 ** len(shape)).reshape(-1, *shape).float()
            rows = torch.full_like(expected, -1)
            first, last = bounds[world.rank], bounds[world.rank + 1]
            rows[first:last] = expected[first:last]
            world.share_rows(rows, bounds)
            found.append(torch.equal(rows, expected))
        return found

    assert in_ranks(size, work) == [[True, True]] * size


@pytest.mark.parametrize(
    "lengths", [[3, 1], [0, 2], [0, 0], [2, 0, 5], [0, 4, 0], [1, 1, 1]], ids=str
)
def test_parts_of_any_length_are_gathered_in_the_order_of_ranks(lengths):
    def work(world):
        found = []
        for dtype, width in ((torch.int64, ()), (torch.float32, (2,))):
            part = torch.full((lengths[world.rank], *width), 10 * world.rank + 1, dtype=dtype)
            parts = world.gather_parts(part)
            assert all(one.dtype == dtype and one.shape[1:] == part.shape[1:] for one in parts)
            found.append([one.tolist() for one in parts])
        return found

    expected = [
        [[10 * rank + 1] * length for rank, length in enumerate(lengths)],
        [[[10 * rank + 1.0] * 2] * length for rank, length in enumerate(lengths)],
    ]
    assert in_ranks(len(lengths), work) == [expected] * len(lengths)


# --- failures ------------------------------------------------------------------------------------


def failing(world, failures):
    """Fail as said for this rank, together with the others."""
    kinds = {
        "data": DataError,
        "usage": UsageError,
        "dglrec": DglrecError,
        "value": ValueError,
        "memory": MemoryError,
        "file": FileNotFoundError,
    }
    try:
        with world.together():
            if str(world.rank) in failures:
                kind, *words = failures[str(world.rank)]
                raise kinds[kind](*words)
    except DglrecError as error:
        return [type(error).__name__, str(error), error.exit_code, error.told]
    except Exception as error:
        return [type(error).__name__, str(error)]
    return world.sum([1])


@pytest.mark.parametrize("size", SIZES)
def test_where_all_goes_well_all_go_on(size):
    assert in_ranks(size, failing, {}) == [[size]] * size


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_a_failure_on_one_rank_stops_all_with_its_words_and_exit_code(failed):
    found = in_ranks(3, failing, {str(failed): ["data", "no such file: ä"]})
    for rank, one in enumerate(found):
        if rank == failed:
            assert one == ["DataError", "no such file: ä", 3, False]
        else:
            words = f"stopped, as rank {failed} failed: no such file: ä"
            assert one == ["PeerError", words, 3, True]


def test_of_ranks_that_fail_with_the_same_words_the_first_says_them():
    found = in_ranks(3, failing, {str(rank): ["usage", "twice"] for rank in range(3)})
    peer = ["PeerError", "stopped, as rank 0 failed: twice", 2, True]
    assert found == [["UsageError", "twice", 2, False], peer, peer]
    found = in_ranks(3, failing, {str(rank): ["usage", "twice"] for rank in (1, 2)})
    peer = ["PeerError", "stopped, as rank 1 failed: twice", 2, True]
    assert found == [peer, ["UsageError", "twice", 2, False], peer]


def test_ranks_that_fail_with_different_words_each_say_their_own():
    found = in_ranks(3, failing, {"0": ["data", "one"], "2": ["usage", "other"]})
    assert found == [
        ["DataError", "one", 3, False],
        ["PeerError", "stopped, as rank 0 failed: one", 3, True],
        ["UsageError", "other", 2, False],
    ]
    # The same words and another exit code are another failure.
    found = in_ranks(2, failing, {"0": ["data", "same"], "1": ["usage", "same"]})
    assert [one[0] for one in found] == ["DataError", "UsageError"]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (["value", "what is this"], "what is this"),
        (["memory"], "MemoryError"),
        (["file", 2, "No such file", "x"], "[Errno 2] No such file: 'x'"),
    ],
    ids=str,
)
def test_other_errors_stop_all_too_with_exit_code_1(failure, words):
    first, second = in_ranks(2, failing, {"1": failure})
    assert first == ["PeerError", f"stopped, as rank 1 failed: {words}", 1, True]
    assert second[0] in ("ValueError", "MemoryError", "FileNotFoundError")


def test_long_words_are_cut_and_still_words():
    words = "ä" * 3_000
    first, second = in_ranks(2, failing, {"0": ["data", words]})
    assert first == ["DataError", words, 3, False]
    assert second[1].startswith("stopped, as rank 0 failed: ää") and second[2] == 3
    assert 400 < len(second[1]) < 1_100


def test_a_rank_on_another_machine_is_told_what_it_cannot_see():
    def work(world):
        apart = dataclasses.replace(world, local_rank=0, local_size=1)
        return failing(apart, {"0": ["data", "no"]})

    found = in_ranks(2, work)
    assert found[1] == ["PeerError", "stopped, as rank 0 failed: no", 3, False]


def test_machines_may_have_different_numbers_of_ranks():
    """The first has rank 0, the second has ranks 1 and 2."""

    def work(world, failed):
        place, count = (0, 1) if world.rank == 0 else (world.rank - 1, 2)
        apart = dataclasses.replace(world, local_rank=place, local_size=count)
        return failing(apart, {str(failed): ["data", "no"]})[3]

    assert in_ranks(3, work, 0) == [False, False, False]
    assert in_ranks(3, work, 1) == [False, False, True]
    assert in_ranks(3, work, 2) == [False, True, False]


def test_ranks_that_stopped_together_may_go_on_together():
    def work(world):
        return [failing(world, {"1": ["data", "no"]})[0], failing(world, {}), world.sum([1])]

    assert in_ranks(2, work) == [["PeerError", [2], [2]], ["DataError", [2], [2]]]


def test_a_failure_of_the_first_to_make_something_stops_all():
    def work(world):
        def make():
            raise DataError("not to be made")

        world.from_first(make)

    found = outcomes_of(3, work)
    assert [one["kind"] for one in found] == ["DataError", "PeerError", "PeerError"]
    assert {one["code"] for one in found} == {3}


def test_what_differs_between_ranks_stops_all():
    def work(world, odd):
        world.check_same("the recipe", "b" if world.rank == odd else "a")
        return "same"

    assert in_ranks(3, work, None) == ["same"] * 3
    found = outcomes_of(3, work, 2)
    assert [one["kind"] for one in found] == ["PeerError", "PeerError", "DglrecError"]
    assert found[2]["message"] == "rank 2: the recipe differs from that of rank 0"
    found = outcomes_of(3, work, 0)
    assert [one["kind"] for one in found] == ["PeerError", "DglrecError", "DglrecError"]


@pytest.mark.parametrize("meeting", ["sum", "together", "from_first", "gather_parts", "share_rows"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_dies_is_missed_by_the_others(meeting, lost):
    def work(world):
        def meet():
            with world.together():
                pass

        world.sum([1])
        if world.rank == lost:
            os._exit(7)
        meetings = {
            "sum": lambda: world.sum([1]),
            "together": meet,
            "from_first": lambda: world.from_first(lambda: b"x"),
            "gather_parts": lambda: world.gather_parts(torch.ones(3)),
            "share_rows": lambda: world.share_rows(torch.ones(4), [0, 2, 3, 4]),
        }
        # One of them may have been under way when the rank was lost.
        for _ in range(3):
            meetings[meeting]()

    started = time.monotonic()
    found = outcomes_of(3, work, timeout=60)
    assert time.monotonic() - started < 20
    assert found[lost] == {"raised": "died"}
    for one in (one for rank, one in enumerate(found) if rank != lost):
        assert one.get("kind") == "LostRankError", one
        assert "lost contact with another rank" in one["message"]
        assert one["code"] == 1


def test_a_rank_that_fails_at_the_very_end_keeps_nobody_waiting():
    def work(world):
        world.sum([1])
        if world.rank == 1:
            raise ValueError("after the last meeting")

    second = outcomes_of(2, work, timeout=5)[1]
    assert second["kind"] == "ValueError"


def test_other_errors_of_a_job_stay_what_they_are(tmp_path):
    def work(world):
        if world.rank:
            (tmp_path / "joined").touch()
            raise RuntimeError("shape mismatch")
        while not (tmp_path / "joined").exists():  # who is lost while another joins is told apart
            time.sleep(0.01)
        raise KeyError("name")

    assert [one["kind"] for one in outcomes_of(2, work)] == ["KeyError", "RuntimeError"]


# --- one step ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ratings():
    return Ratings(num_users=40, num_items=20, edges=300)


def make_model(ratings, **config):
    torch.manual_seed(5)
    config = ModelConfig(
        **{"embedding_size": 4, "decoder_size": 4, "layers": 1, "dropout": 0.0, **config}
    )
    return RatingModel(config, ratings.num_users, torch.zeros(ratings.num_items, 0))


def whole_batches(ratings, kind="neighbor", batch_size=100, world=ALONE, item_fanout=-1):
    """Batches whose targets' predictions do not depend on what else is in the batch."""
    config = config_of(
        kind,
        batch_size=batch_size,
        folds=2,
        user_fanouts=(-1,),
        item_fanouts=(item_fanout,),
        exclude_targets=False,
    )
    make = NeighborEdgeLoader if kind == "neighbor" else UserBatchLoader
    return list(make(ratings.graph, ratings.biases, config, world=world))


def only(batch, chosen):
    """A batch of some of its targets; None where there are none."""
    if not len(chosen):
        return None
    names = ("users", "items", "ratings", "baselines", "edges")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[chosen] for name in names})


def squared(predictions, wanted):
    return (predictions - wanted) ** 2


def make_step(model, world, steps=10, **config):
    config = TrainConfig(**{"learning_rate": 0.01, "warmup_steps": 0, **config})
    return TrainingStep(model, config, RatingObjective(squared), steps, world)


def state_of(step):
    """Weights, and the moments of every weight, which are in proportion to the gradient."""
    found = {name: value.clone() for name, value in step.model.state_dict().items()}
    state = step.state_dict()
    for key, moments in state["optimizer"]["state"].items():
        found[f"first moment {key}"] = moments["exp_avg"].clone()
        found[f"second moment {key}"] = moments["exp_avg_sq"].clone()
    for number, table in enumerate(state["tables"]):
        for name, moment in zip(("first", "second"), table["moments"], strict=True):
            found[f"{name} moment of table {number}"] = moment.clone()
    return found


def listed(state):
    return {name: [list(value.shape), value.flatten().tolist()] for name, value in state.items()}


def assert_close(found, expected):
    """Moments nearly to the last digit; weights as near as Adam keeps tiny gradients apart."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        shape, numbers = found[name]
        one, scale = torch.tensor(numbers).reshape(shape), value.abs().max()
        if "moment" in name:
            torch.testing.assert_close(one, value, rtol=1e-4, atol=float(scale) * 1e-5 + 1e-12)
        else:
            torch.testing.assert_close(one, value, rtol=1e-4, atol=1e-4)


CUTS = {
    2: [[0.5], [0.97], [0.01], [1.0], [0.0]],
    3: [[0.3, 0.6], [0.05, 0.1], [0.0, 1.0], [1.0, 1.0]],
}


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("clip_norm", [1e6, 1e-3])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_of_several_ranks_is_that_of_one_with_all_targets(
    ratings, size, clip_norm, identity
):
    """However the targets are shared out, and though a rank has none."""
    batches = whole_batches(ratings)
    options = {"clip_norm": clip_norm, "weight_decay": 0.1}

    def steps(world):
        found = []
        for cut in CUTS[size]:
            step = make_step(make_model(ratings, user_identity=identity), world, **options)
            for batch in batches[:2]:
                count = len(batch.ratings)
                bounds = [0, *(round(part * count) for part in cut), count]
                first, last = bounds[world.rank], bounds[world.rank + 1]
                outcome = step(only(batch, torch.arange(first, last)), notes=(1, world.rank))
                assert outcome.count == last - first
                assert outcome.notes == (size, size * (size - 1) / 2)
            assert step.number == 2
            found.append([listed(state_of(step)), digest(step.model.state_dict())])
        return found

    alone = make_step(make_model(ratings, user_identity=identity), ALONE, **options)
    before = state_of(alone)
    for batch in batches[:2]:
        alone(batch)
    expected = state_of(alone)
    assert not torch.equal(expected["decoder.out.weight"], before["decoder.out.weight"])
    found = in_ranks(size, steps)
    for number in range(len(CUTS[size])):
        assert len({one[number][1] for one in found}) == 1  # all ranks', to the bit
        assert_close(found[0][number][0], expected)


class ManyBuckets(nn.parallel.DistributedDataParallel):
    """Sums each weight's gradient as soon as it is there, between exchanges of items."""

    def __init__(self, module, **options):
        super().__init__(module, **options, bucket_cap_mb=1e-5)


@pytest.mark.parametrize("buckets", ["one bucket", "many buckets"])
@pytest.mark.parametrize("kind", sorted(LOADERS))
@pytest.mark.parametrize("size", SIZES)
def test_a_step_over_a_loaders_shares_is_that_over_its_whole_batch(
    ratings, size, kind, buckets, monkeypatch
):
    if buckets == "many buckets":
        monkeypatch.setattr(torch.distributed, "_DEFAULT_FIRST_BUCKET_BYTES", 8)
        monkeypatch.setattr(step_module, "DistributedDataParallel", ManyBuckets)

    def steps(world):
        step = make_step(make_model(ratings), world)
        outcomes = [step(batch) for batch in whole_batches(ratings, kind, 60, world)]
        sums = [
            sum(one.count for one in outcomes),
            sum(float(one.costs.squared) for one in outcomes),
        ]
        return [listed(state_of(step)), sums]

    alone = make_step(make_model(ratings), ALONE)
    total = sum(float(alone(batch).costs.squared) for batch in whole_batches(ratings, kind, 60))
    found = in_ranks(size, steps)
    assert sum(sums[0] for _, sums in found) == 300
    assert sum(sums[1] for _, sums in found) == pytest.approx(total, rel=1e-4)
    assert_close(found[0][0], state_of(alone))


@pytest.mark.parametrize(("identity", "clip_norm"), [(False, 1e6), (True, 1e6), (True, 0.01)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_accumulated_batches_are_one_batch_of_all_their_targets(ratings, size, identity, clip_norm):
    """Which differ in number between batches and ranks; a rank may have none of one, or of any."""
    (batch,) = whole_batches(ratings, batch_size=300)
    clip = {"clip_norm": clip_norm}
    bounds = {
        1: [[0, 7, 7, 150, 300]],
        2: [[0, 3, 3, 60, 61], [61, 200, 290, 290, 300]],
        3: [[0, 1, 2, 3, 3], [3, 3, 3, 3, 3], [3, 100, 120, 299, 300]],
    }[size]

    def steps(world):
        step = make_step(make_model(ratings, user_identity=identity), world, **clip)
        for _ in range(2):
            for number, (first, last) in enumerate(itertools.pairwise(bounds[world.rank])):
                part = only(batch, torch.arange(first, last))
                outcome = step(part, update=number == 3, notes=(1,) if number == 3 else ())
                assert outcome.notes == ((size,) if number == 3 else ())
        assert step.number == 2
        return [listed(state_of(step)), digest(step.model.state_dict())]

    alone = make_step(make_model(ratings, user_identity=identity), ALONE, **clip)
    alone(batch)
    alone(batch)
    found = in_ranks(size, steps) if size > 1 else [steps(ALONE)]
    assert len({one[1] for one in found}) == 1
    assert_close(found[0][0], state_of(alone))


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_a_step_without_any_target_changes_no_weight(ratings, size, identity):
    """Not even by decay; the schedule goes on."""
    batch = whole_batches(ratings)[0]

    def steps(world):
        model = make_model(ratings, user_identity=identity)
        step = make_step(model, world, weight_decay=0.5)
        step(batch)
        before, rate = digest(state_of(step)), step.learning_rate
        outcome = step(None)
        step(None, update=False)
        step(None)
        assert outcome.count == 0 and float(outcome.costs.squared) == 0
        return [before == digest(state_of(step)), step.number, step.learning_rate < rate]

    found = in_ranks(size, steps) if size > 1 else [steps(ALONE)]
    assert found == [[True, 3, True]] * size


@pytest.mark.parametrize("size", [1, 2])
def test_a_gradient_that_is_no_number_stops_all_though_every_loss_is_one(ratings, size):
    batch = whole_batches(ratings)[0]

    def steps(world):
        last = world.rank == world.size - 1

        def loss(predictions, wanted):
            steep = (predictions - predictions.detach()).sqrt()  # 0, and rises without end
            return squared(predictions, wanted) + (steep if last else 0)

        model = make_model(ratings)
        objective = RatingObjective(loss)
        step = TrainingStep(model, TrainConfig(learning_rate=0.01), objective, 10, world)
        before = digest(model.state_dict())
        try:
            step(batch)
        except DglrecError as error:
            named = "rank 0, loss" in str(error) if size > 1 else str(error).startswith("loss")
            return [type(error).__name__, named, before == digest(model.state_dict())]

    found = in_ranks(size, steps) if size > 1 else [steps(ALONE)]
    assert found == [["DivergedError", True, True], ["PeerError", True, True]][:size]


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_rank_without_targets_hears_of_a_loss_that_is_no_number(ratings, failing_rank):
    batch = whole_batches(ratings)[0]
    bad = dataclasses.replace(batch, ratings=batch.ratings * math.nan)

    def steps(world):
        step = make_step(make_model(ratings), world)
        before = digest(step.model.state_dict())
        try:
            step(bad if world.rank == failing_rank else None)
        except DglrecError as error:
            same = before == digest(step.model.state_dict())
            return [type(error).__name__, f"rank {failing_rank}, loss nan" in str(error), same]

    expected = [["PeerError", True, True]] * 2
    expected[failing_rank] = ["DivergedError", True, True]
    assert in_ranks(2, steps, timeout=20) == expected


@pytest.mark.parametrize("size", SIZES)
def test_a_gradient_is_clipped_by_the_norm_over_all_ranks(ratings, size):
    """So that the rows of the table and all other weights together have that norm."""
    batch = whole_batches(ratings, batch_size=300)[0]

    def steps(world):
        model = make_model(ratings, user_identity=True)
        step = make_step(model, world, clip_norm=1e-3)
        step(only(batch, torch.arange(300)[world.rank :: world.size]))
        moments = [value for name, value in state_of(step).items() if "first moment" in name]
        return float(torch.cat([one.flatten() for one in moments]).norm()) / (1 - 0.9)

    assert in_ranks(size, steps) == [pytest.approx(1e-3, rel=1e-3)] * size


# --- the users' table ----------------------------------------------------------------------------


def lazy_adam(table, gradients, rates, decay, decoupled):
    """Adam on the rows that a step touches, in float64 and row after row."""
    table = np.array(table, dtype=np.float64)
    first, second = np.zeros_like(table), np.zeros_like(table)
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for row, value in gradient.items():
            value = np.array(value, dtype=np.float64)
            if decoupled:
                table[row] *= 1 - rate * decay
            else:
                value = value + decay * table[row]
            first[row] = 0.9 * first[row] + 0.1 * value
            second[row] = 0.999 * second[row] + 0.001 * value**2
            mean = first[row] / (1 - 0.9**number)
            table[row] -= rate * mean / (np.sqrt(second[row] / (1 - 0.999**number)) + 1e-8)
    return table


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_of_a_table_are_updated_by_lazy_adam_over_all_ranks(size, decay, optimizer):
    generator = np.random.default_rng(0)
    start = generator.normal(size=(9, 2))
    rates = [0.1, 0.05, 0.02, 0.07]
    # (row, value) of each step and rank: rows twice on one rank, on several, on none.
    rows = [
        [[1, 1, 4], [4, 7], []],
        [[0], [], [0, 1]],
        [[], [], [8]],
        [[7, 2, 7], [2, 2, 2], [2]],
    ]
    given = [[[(row, generator.normal(size=2).tolist()) for row in own] for own in s] for s in rows]
    if size < 3:  # the first ranks have what the others would have had
        given = [[[*itertools.chain(*s[rank::size])] for rank in range(size)] for s in given]

    def work(world):
        parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
        config = TrainConfig(optimizer=optimizer, weight_decay=decay)
        table = SharedRows(parameter, config, world)
        for own, rate in zip(given, rates, strict=True):
            mine = own[world.rank]
            parameter.grad = None
            if mine:
                parameter.grad = torch.sparse_coo_tensor(
                    torch.tensor([[row for row, _ in mine]]),
                    torch.tensor([value for _, value in mine]),
                    (9, 2),
                    check_invariants=True,
                )
            table.gather(batches=2)
            assert table.rows.tolist() == sorted({row for part in own for row, _ in part})
            table.values *= world.size  # their sum
            table.step(rate)
        return parameter.tolist()

    sums = []
    for step in given:
        sums.append({})
        for row, value in itertools.chain(*step):
            sums[-1][row] = np.array(value) + sums[-1].get(row, 0)
    expected = lazy_adam(start, sums, rates, decay, optimizer == "adamw")
    found = in_ranks(size, work) if size > 1 else [work(ALONE)]
    assert found == [found[0]] * size
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    untouched = [row for row in range(9) if not any(row in step for step in sums)]
    assert untouched == [3, 5, 6]
    assert np.array_equal(np.float32(found[0])[untouched], np.float32(start)[untouched])


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("size", [1, 2])
def test_a_step_touches_only_the_rows_of_its_users(ratings, size, optimizer):
    def work(world):
        model = make_model(ratings, user_identity=True)
        (table,) = model.sparse_tables()
        step = make_step(model, world, weight_decay=0.5, optimizer=optimizer)
        found = []
        for batch in whole_batches(ratings, "users", 20, world, item_fanout=1)[:4]:
            before = table.detach().clone()
            step(batch)
            moved = (table.detach() != before).any(1).nonzero().squeeze(1)
            read = [] if batch is None else batch.user_nodes.tolist()
            found.append([moved.tolist(), sorted(read)])
        return found

    found = in_ranks(size, work) if size > 1 else [work(ALONE)]
    some = False
    for shares in zip(*found, strict=True):
        read = set().union(*(nodes for _, nodes in shares))
        for moved, _ in shares:
            assert moved == shares[0][0]
            assert set(moved) <= read
        some = some or 0 < len(moved) < 37
    assert some


# --- training ------------------------------------------------------------------------------------


def write_ratings(file, rows):
    lines = [f"{user},{item},{1 + (3 * user + 5 * item) % 5}" for user, item in rows]
    file.write_text("\n".join(["user_id,item_id,rating", *lines]) + "\n")


AWKWARD = {
    "fewer users than ranks": [(user, item) for user in range(2) for item in range(31)],
    "half one user's": [
        *((0, item) for item in range(53)),
        *((user, 7 * user % 53) for user in range(1, 48)),
        *((user, 11 * user % 53) for user in range(1, 7)),
    ],
    "primes": [(n % 17, n * 7 % 23) for n in range(211)],
}


@pytest.fixture(scope="module", params=sorted(AWKWARD))
def awkward(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("awkward")
    write_ratings(folder / "ratings.csv", AWKWARD[request.param])
    return prepare(folder / "ratings.csv", folder / "data", PrepareOptions(text=False))


def trains(world, dataset, run, settings):
    """A run; what all ranks should have come to."""
    heads = []
    original = train_module._end_epoch

    def end_epoch(step, *arguments):
        heads.append(digest(step.model.state_dict()))
        original(step, *arguments)

    train_module._end_epoch = end_epoch
    try:
        results = train(RatingDataset.open(dataset), run, settings, world=world)
    finally:
        train_module._end_epoch = original
    return [heads, results]


def trained_by(size, dataset, run, settings):
    """What each rank came to, times and memory left out."""
    work = partial(trains, dataset=dataset.path, run=run, settings=settings)
    found = in_ranks(size, work) if size > 1 else [trains(ALONE, dataset.path, run, settings)]
    assert len({results["peak_memory_bytes"] for _, results in found}) == 1  # the most of all ranks
    return without_times(found)


def loader_of(kind, **options):
    """The settings of a loader of `LOADERS`, without its defaults."""
    return config_of(kind, **options).model_dump(exclude_unset=True)


@pytest.mark.parametrize("kind", sorted(LOADERS))
def test_training_on_awkward_data_comes_to_an_end_on_any_number_of_ranks(awkward, tmp_path, kind):
    settings = make_settings({"user_identity": True}, loader_of(kind, batch_size=23), epochs=1)
    counts = []
    for size in (1, 2, 3):
        run = tmp_path / str(size)
        found = trained_by(size, awkward, run, settings)
        assert found == [found[0]] * size
        heads, results = found[0]
        assert len(heads) == results["epochs"] == 1
        assert digest(load_checkpoint(run / LAST).weights) == heads[-1]
        counts.append(results["test"]["n"])
        lines = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
        assert len(lines) == 1 and 0 < lines[0]["train_rmse"] < 4
    assert len(set(counts)) == 1


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """240 training ratings with a truth."""
    return planted(tmp_path_factory.mktemp("small"), 40, 20, 300)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("identity", "accumulated", "optimizer", "kind"),
    [
        (True, 1, "adam", "users"),
        (True, 3, "adamw", "users"),
        (False, 3, "adam", "neighbor"),
        (True, 3, "adam", "neighbor"),
        (True, 3, "adamw", "reached"),
        (False, 1, "adam", "reached"),
        (False, 1, "adamw", "users"),
    ],
)
def test_all_ranks_end_with_the_same_weights_to_the_bit(
    dataset, tmp_path, size, identity, accumulated, optimizer, kind
):
    settings = make_settings(
        {"user_identity": identity, "dropout": 0.2},
        loader_of(kind, batch_size=30),
        epochs=1,
        accumulation_steps=accumulated,
        optimizer=optimizer,
        weight_decay=0.1,
    )
    found = trained_by(size, dataset, tmp_path / "one", settings)
    assert found == [found[0]] * size
    if size == 2:  # and another time too
        assert trained_by(size, dataset, tmp_path / "again", settings) == found


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    "model", [{}, {"user_identity": True}, {"aggregator": "pool"}, {"heads": "both"}], ids=str
)
def test_with_complete_neighbourhoods_ranks_train_what_one_process_trains(
    dataset, tmp_path, layers, model
):
    """Shared items, targets kept out of all ranks' messages, sums, clipping: all but rounding."""
    whole = {"user_fanouts": (-1,) * layers, "item_fanouts": (-1,) * layers}
    settings = make_settings({"layers": layers, "dropout": 0.0, **model}, whole, epochs=2)
    train(dataset, tmp_path / "alone", settings)
    alone = load_checkpoint(tmp_path / "alone" / LAST).weights
    for size in (2, 3):
        trained_by(size, dataset, tmp_path / str(size), settings)
        found = load_checkpoint(tmp_path / str(size) / LAST).weights
        for name, value in alone.items():
            # Adam divides a gradient by its size, so that of a small one rounding is a larger part;
            # how much of it is rounding differs between processors. A step moves a weight by 1e-2.
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_ranks_with_other_settings_or_data_stop_before_anything_is_written(dataset, tmp_path):
    def work(world, what):
        settings = make_settings(epochs=1 + (what == "configuration" and world.rank))
        data = RatingDataset.open(dataset.path)
        if what == "data set" and world.rank:
            object.__setattr__(data, "fingerprint", "another")
        train(data, tmp_path / "run", settings, world=world)

    for what in ("configuration", "data set"):
        found = outcomes_of(2, work, what)
        assert [one["kind"] for one in found] == ["PeerError", "DglrecError"], found
        assert f"rank 1: the {what} differs from that of rank 0" in found[1]["message"]
        assert not (tmp_path / "run").exists()


def test_a_run_that_exists_is_refused_by_all(dataset, tmp_path):
    def work(world):
        train(dataset, tmp_path / "run", make_settings(epochs=1), world=world)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    found = outcomes_of(2, work)
    assert [one["kind"] for one in found] == ["UsageError", "PeerError"]
    assert {one["code"] for one in found} == {2}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_checkpoint_that_cannot_be_written_stops_all_with_the_same_words(dataset, tmp_path):
    def work(world):
        def fail(*arguments, **options):
            raise DglrecError("disk full")

        if world.is_first:
            state_module.save_checkpoint = fail
        train(dataset, tmp_path / "run", make_settings(epochs=1), world=world)

    found = outcomes_of(2, work)
    assert [one["kind"] for one in found] == ["DglrecError", "PeerError"]
    assert all("disk full" in one["message"] for one in found)


def test_a_validation_error_that_is_no_number_is_said_once(dataset, tmp_path):
    def work(world):
        measured = validation_module.measure

        def measure(*arguments):
            return dataclasses.replace(measured(*arguments), squared=math.nan)

        validation_module.measure = measure
        train(dataset, tmp_path / "run", make_settings(epochs=1), world=world)

    found = outcomes_of(2, work)
    assert all("validation RMSE nan" in one["message"] for one in found), found
    assert [one["kind"] for one in found] == ["DivergedError", "PeerError"]


@pytest.mark.parametrize(
    ("value", "identity", "failing_rank", "accumulated"),
    [(math.nan, False, 0, 1), (math.inf, True, 1, 1), (math.nan, True, 1, 2)],
)
def test_a_loss_that_is_no_number_on_one_rank_stops_all_before_the_weights(
    dataset, tmp_path, value, identity, failing_rank, accumulated
):
    def work(world):
        make = kinds_module.make_loss
        batches = itertools.count(1)

        def make_failing(name, data):
            loss = make(name, data)

            def bad(predictions, ratings):
                wrong = world.rank == failing_rank and next(batches) == 3
                return loss(predictions, ratings) * (value if wrong else 1)

            return bad

        before = []
        check = TrainingStep._check_finite

        def checking(step, norm):
            before[:] = [digest(step.model.state_dict()), digest(state_of(step)), step]
            check(step, norm)

        kinds_module.make_loss = make_failing
        TrainingStep._check_finite = checking
        try:
            train(dataset, tmp_path / "run", settings, world=world)
        except DglrecError as error:
            weights, moments, step = before
            same = weights == digest(step.model.state_dict()) and moments == digest(state_of(step))
            return [type(error).__name__, str(error), weights, same]

    settings = make_settings(
        {"user_identity": identity}, {"batch_size": 30}, accumulation_steps=accumulated
    )
    found = in_ranks(2, work)
    kind, message, weights, same = found[failing_rank]
    assert kind == "DivergedError" and same
    number = 4 if accumulated == 2 else 3
    assert f"epoch 1 of 4, batch {number} (step {number // accumulated}): " in message
    assert f"rank {failing_rank}, loss {value:g}, gradient norm" in message
    assert "(batch of edges " in message and "learning_rate" in message
    other = found[1 - failing_rank]
    assert other[0] == "PeerError" and other[2:] == [weights, True]
    assert other[1].startswith(f"stopped, as rank {failing_rank} failed: rank {failing_rank}, loss")
    assert not (tmp_path / "run" / LAST).exists()


# --- evaluation, embeddings, scores --------------------------------------------------------------


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    settings = make_settings({"user_identity": True}, epochs=1)
    train(dataset, run, settings)
    return run


@pytest.fixture(scope="module")
def awkward_run(awkward, tmp_path_factory):
    run = tmp_path_factory.mktemp("awkward") / "run"
    train(awkward, run, make_settings(epochs=1))
    return run


def assert_same_figures(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same_figures(found[name], value, tolerance)
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
        else:
            assert found[name] == value and type(found[name]) is type(value), name


@pytest.mark.parametrize("own_embeddings", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_ranks_measure_what_one_measures(run, size, own_embeddings):
    """Of embeddings that each has shares of, the last digits depend on how many rows it has."""
    embeddings = open_run(run).embeddings

    def figures(world):
        trained = open_run(run, world=world)
        if not own_embeddings:
            vars(trained)["embeddings"] = embeddings
        return [
            evaluate(trained, "test"),
            evaluate(trained, "valid", ranking=5),
            evaluate(trained, "test", ranking=3, relevant_from=4.0),
            evaluate(trained, "train"),
        ]

    expected = figures(ALONE)
    assert "gap_closed" in expected[0] and "ndcg@5" in expected[1] and "recall@3" in expected[2]
    found = in_ranks(size, figures)
    assert found == [found[0]] * size
    for one, other in zip(found[0], expected, strict=True):
        assert_same_figures(one, other, 1e-6 if own_embeddings else 1e-9)


def test_ranks_measure_awkward_data_too(awkward_run):
    def figures(world):
        trained = open_run(awkward_run, world=world)
        return [
            evaluate(trained, "test", ranking=2, relevant_from=1.0),
            evaluate(trained, "train"),
        ]

    expected = figures(ALONE)
    for size in SIZES:
        for one, other in zip(in_ranks(size, figures)[-1], expected, strict=True):
            assert_same_figures(one, other, 1e-6)


def test_what_cannot_be_measured_is_refused_by_all(run):
    def work(world):
        evaluate(open_run(run, world=world), "test", ranking=1_000)

    found = outcomes_of(2, work)
    assert [one["kind"] for one in found] == ["UsageError", "PeerError"]
    assert {one["code"] for one in found} == {2}


@pytest.mark.parametrize("size", SIZES)
def test_ranks_come_to_the_embeddings_of_one(run, awkward_run, size):
    def embeddings(world):
        found = []
        for one in (run, awkward_run):
            trained = open_run(one, world=world)
            all_ = embed_all(trained.model, trained.dataset.graph, trained.dataset.biases, world)
            tensors = [all_.nodes.users, all_.nodes.items, *all_.item_layers]
            found.append([tensor.tolist() for tensor in tensors])
        return found

    expected = embeddings(ALONE)
    found = in_ranks(size, embeddings)
    assert found == [found[0]] * size
    for one, other in zip(found[0], expected, strict=True):
        for values, wanted in zip(one, other, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture
def many_parts(monkeypatch):
    monkeypatch.setattr(score_module, "_PART_ROWS", 30)  # lists of five users, of six items each
    monkeypatch.setattr(score_module, "_USERS_AT_ONCE", 4)


def contents(folder):
    read_all(folder)  # nothing else is there, and the manifest is right
    files = sorted(folder.glob("*.parquet"))
    tables = {file.name: pq.read_table(file).to_pydict() for file in files}
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    for part in manifest["parts"]:
        del part["sha256"]  # the last digits of scores may differ
    return tables, manifest


def assert_same_scores(found, expected):
    (tables, manifest), (others, other_manifest) = contents(found), contents(expected)
    assert manifest == other_manifest
    assert len(tables) >= 4 and tables.keys() == others.keys()
    for name, table in tables.items():
        assert table.keys() == others[name].keys()
        for column, values in table.items():
            if column in ("score", "rating"):
                pairs = (np.array(one, dtype=float) for one in (values, others[name][column]))
                np.testing.assert_allclose(*pairs, rtol=1e-5)  # missing ones in the same places
            else:
                assert values == others[name][column]


@pytest.mark.parametrize("size", SIZES)
def test_ranks_write_the_best_items_that_one_writes(run, tmp_path, many_parts, size):
    (tmp_path / "users.csv").write_text("user_id\n" + "\n".join(map(str, users_of(run)[3:22])))
    item = open_run(run).dataset.items.ids[0].as_py()
    (tmp_path / "new.csv").write_text(f"user_id,item_id,rating\n900,{item},5\n901,{item},1\n")
    users, ratings = tmp_path / "users.csv", tmp_path / "new.csv"

    def work(world, out):
        trained = open_run(run, world=world)
        found = [
            score_top_k(trained, out / "whole", 6),
            score_top_k(trained, out / "some", 6, TopKOptions(users=users)),
            score_top_k(trained, out / "new", 6, TopKOptions(ratings=ratings)),
            score_top_k(trained, out / "halves", 6, TopKOptions(shard=(1, 2))),
            score_top_k(trained, out / "halves", 6, TopKOptions(shard=(0, 2))),
            score_top_k(trained, out / "halves", 6),
        ]
        return [{**one, "out": None} for one in found]

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    expected = work(ALONE, alone)
    assert [one["complete"] for one in expected] == [True, True, True, False, True, True]
    assert expected[-1]["kept"] == expected[-1]["parts"] == expected[0]["parts"]
    assert in_ranks(size, work, shared) == [expected] * size
    for name in ("whole", "some", "new", "halves"):
        assert_same_scores(shared / name, alone / name)


@pytest.mark.parametrize("size", SIZES)
def test_ranks_go_on_with_what_others_left_and_make_no_part_twice(run, tmp_path, many_parts, size):
    """The first, in a world of its own, made some parts; of theirs one is damaged."""
    score_top_k(open_run(run), tmp_path / "whole", 6)
    out = tmp_path / "out"
    score_top_k(open_run(run), out, 6, TopKOptions(shard=(0, 3)))
    (out / "part-00003.parquet").write_bytes(b"PAR1")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}

    def work(world):
        made, original = [], PartsFolder.write

        def noting(self, number, *arguments):
            made.append(number)
            return original(self, number, *arguments)

        PartsFolder.write = noting
        summary = score_top_k(open_run(run, world=world), out, 6)
        return [made, summary["kept"], summary["parts"]]

    found = in_ranks(size, work)
    count = found[0][2]
    made = [number for one in found for number in one[0]]
    assert sorted(made) == [part for part in range(count) if part % 3 or part == 3]
    assert all(one[0] for one in found)
    assert [one[1:] for one in found] == [[len(before) - 1, count]] * size
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert [name for name in before if before[name] != after[name]] == ["part-00003.parquet"]
    assert_same_scores(out, tmp_path / "whole")


def users_of(run):
    return open_run(run).dataset.users.ids.to_pylist()


def write_pairs(file, run, count, last=None):
    dataset = open_run(run).dataset
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    pairs = [(users[n * 7 % len(users)], items[n * 3 % len(items)]) for n in range(count)]
    pairs += [last] if last else []
    lines = ["user_id,item_id", *(f"{user},{item}" for user, item in pairs)]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def short_stretches(monkeypatch):
    """Files are read some rows at a time."""
    original = score_module.stream_columns

    def stretches(*arguments):
        for stretch in original(*arguments):
            for start in range(0, len(stretch.table), 11):
                yield dataclasses.replace(stretch, table=stretch.table.slice(start, 11))

    for name in ("jobs", "listed"):
        monkeypatch.setattr(f"dglrec.score.{name}.stream_columns", stretches)


@pytest.mark.parametrize("size", SIZES)
def test_ranks_write_the_scores_of_pairs_that_one_writes(
    run, tmp_path, many_parts, short_stretches, size
):
    write_pairs(tmp_path / "pairs.csv", run, 199, last=("987654", "1"))

    def work(world, folder, **options):
        trained = open_run(run, world=world)
        options = ScoreOptions(unknown="null", **options)
        found = score_pairs(trained, tmp_path / folder, tmp_path / "pairs.csv", options)
        return [found["rows"], found["unknown_rows"], found["parts"], found["kept"]]

    assert work(ALONE, "alone") == [200, 1, 7, 0]
    assert in_ranks(size, work, "shared") == [[200, 1, 7, 0]] * size
    assert_same_scores(tmp_path / "shared", tmp_path / "alone")
    assert in_ranks(size, work, "shared") == [[200, 1, 7, 7]] * size
    # Over scores that are there, and over fewer parts than ranks.
    write_pairs(tmp_path / "pairs.csv", run, 4, last=("987654", "1"))

    def again(world):
        return work(world, "shared", overwrite=True)

    assert in_ranks(size, again) == [[5, 1, 1, 0]] * size
    assert len(read_all(tmp_path / "shared")) == 5


@pytest.mark.parametrize("before", [0, 40, 80, 120])
def test_an_unknown_id_far_down_stops_all_and_finishes_nothing(
    run, tmp_path, many_parts, short_stretches, before
):
    """Whosever part it is in; what came before it may be there and is kept."""
    write_pairs(tmp_path / "pairs.csv", run, before, last=("987654", "1"))
    out = tmp_path / "out"

    def work(world, **options):
        trained = open_run(run, world=world)
        return score_pairs(trained, out, tmp_path / "pairs.csv", ScoreOptions(**options))

    found = outcomes_of(3, work)
    assert sorted(one["kind"] for one in found) == ["PeerError", "PeerError", "UnknownIdsError"]
    assert {one["code"] for one in found} == {3}
    assert all("user_id 987654 unknown" in one["message"] for one in found)
    assert not (out / SUCCESS_FILE).exists() and not (out / MANIFEST_FILE).exists()
    bad = before // 30
    parts = {path.name for path in out.glob("part-*")}
    assert parts <= {f"part-{number:05d}.parquet" for number in range(bad)}
    assert work(ALONE, unknown="skip")["kept"] == len(parts)
    assert len(read_all(out)) == before


def test_a_folder_that_not_all_ranks_see_is_refused(run, tmp_path, many_parts):
    def work(world):
        out = tmp_path / ("elsewhere" if world.rank == 1 else "out")
        score_top_k(open_run(run, world=world), out, 3)

    found = outcomes_of(2, work)
    assert [one["kind"] for one in found] == ["PeerError", "DataError"]
    assert "rank 1 does not see the folder that rank 0 writes" in found[1]["message"]
    assert not (tmp_path / "elsewhere").exists()
    assert not list(tmp_path.rglob("*.parquet"))


def test_scores_of_another_kind_are_refused_by_all(run, tmp_path, many_parts):
    def work(world, k):
        score_top_k(open_run(run, world=world), tmp_path / "out", k)

    for _ in range(2):  # the second finds all done
        assert [one.get("kind") for one in outcomes_of(2, work, 3)] == [None, None]
    before = read_all(tmp_path / "out")
    found = outcomes_of(2, work, 4)
    assert [one["kind"] for one in found] == ["UsageError", "PeerError"]
    assert all("begun with top_k 3, now 4" in one["message"] for one in found)
    assert read_all(tmp_path / "out").equals(before)
