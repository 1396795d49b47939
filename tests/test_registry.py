"""Names that a configuration takes, and who may add to them."""

import pytest
from pydantic_core import PydanticCustomError

from dglrec.errors import UsageError
from dglrec.registry import Registry


@pytest.fixture
def registry():
    made = Registry("loss", "train.loss", "register_loss", taken=["elsewhere"])
    made.update(mse=1)
    return made


def test_what_was_added_stands_beside_what_was_there(registry):
    registry.add("mine", 2)
    assert dict(registry) == {"mse": 1, "mine": 2} and registry.added == {"mine"}
    assert [registry.known(name) for name in ("mse", "mine", "elsewhere")] == [
        *("mse", "mine", "elsewhere"),
    ]
    registry.remove("mine")
    assert dict(registry) == {"mse": 1} and not registry.added


def test_a_name_that_is_taken_stays_what_it_was(registry):
    for name in ("mse", "elsewhere"):
        with pytest.raises(UsageError, match=f"loss {name}: this name comes with dglrec"):
            registry.add(name, 3, replace=True)
    registry.add("mine", 2)
    with pytest.raises(UsageError, match="loss mine: is registered already"):
        registry.add("mine", 3)
    registry.add("mine", 3, replace=True)
    assert registry["mine"] == 3 and registry["mse"] == 1


@pytest.mark.parametrize("name", ["", "Mine", "a-b", "../x", "2nd", None])
def test_what_is_no_name_is_refused(registry, name):
    with pytest.raises(UsageError, match="is no name"):
        registry.add(name, 2)


def test_an_unknown_name_is_refused_with_those_that_are_known(registry):
    with pytest.raises(PydanticCustomError) as raised:
        registry.known("huber")
    said = "Input should be 'mse', 'elsewhere' or what register_loss adds"
    assert str(raised.value.message()) == said
