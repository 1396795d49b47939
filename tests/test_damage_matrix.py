"""Damaged runs, scores and exports under each verb: a part of what `damage_matrix.py` tries."""

import damage_matrix
import pytest
from damage_matrix import AS_PROMISED, damaged_everywhere, make_world

KINDS = ["run", "refitted", "stopped", "baseline", "lists", "pairs", "export"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(damage_matrix.jobs, "_PART_USERS", 25)
        yield make_world(tmp_path_factory.mktemp("damaged"))


def wrong_of(world, kind, place, every):
    found = list(damaged_everywhere(world, kind, place, every))
    assert found
    return [one for one in found if one["verdict"] not in AS_PROMISED]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_by_all_that_read_it(world, kind, tmp_path):
    assert not wrong_of(world, kind, tmp_path, 150)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_in_more_cases(world, kind, tmp_path):
    assert not wrong_of(world, kind, tmp_path, 20)
