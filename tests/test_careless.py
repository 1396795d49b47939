"""Careless and hostile uses of the commands; those of a shell are tried by `careless.py` alone."""

import pytest
from careless import answer, contents_of, faults_of, make_world
from careless_cases import CASES


@pytest.mark.slow
def test_careless_uses_are_answered_as_promised_and_harm_nothing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("careless")
    for one in (folder, *folder.parents[:2]):
        one.chmod(0o755)  # some cases are somebody else's
    world = make_world(folder)
    before = contents_of(world)
    wrong = {}
    for one in CASES:
        if not one.shell:
            found = answer(one, world)
            if faults := faults_of(one, found):
                wrong[one.name] = (faults, found.code, found.err[-300:])
    assert not wrong
    assert contents_of(world) == before


def test_there_are_enough_of_them_and_no_two_have_one_name():
    names = [one.name for one in CASES]
    assert len(names) == len(set(names)) >= 200
