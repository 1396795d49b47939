"""Signals at random moments: a bounded part of what `kills.py` tries."""

import random

import kills
import pytest
from kills import make_world, series

SHORT = ("prepare over", "train", "score lists", "export over")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kills.jobs, "_PART_USERS", kills._PART_USERS)
        patch.setattr(kills.jobs, "_PART_ROWS", kills._PART_ROWS)
        yield make_world(tmp_path_factory.mktemp("killed"))


def faults_in(world, names, turns, seed):
    chance = random.Random(seed)
    found = [
        one
        for _ in range(turns)
        for job in world.jobs
        if names is None or job.name in names
        for one in series(world, job, chance, 2)
    ]
    return [one for one in found if one["faults"]]


@pytest.mark.slow
def test_a_signal_at_any_moment_ends_a_command_as_promised_and_it_goes_on(world):
    assert not faults_in(world, SHORT, 1, 1)


@pytest.mark.slow
def test_signals_at_random_moments_end_commands_as_promised(world):
    assert not faults_in(world, None, 3, 2)
