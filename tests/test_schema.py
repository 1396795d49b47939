"""The door for ratings, and the rating scale."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.schema import RatingScale, check_ratings

SCALES = st.builds(
    lambda minimum, levels, step: RatingScale(minimum, minimum + (levels - 1) * step, step),
    st.sampled_from([-10.0, 0.0, 0.5, 1.0]),
    st.integers(2, 300),
    st.sampled_from([1.0, 0.5, 0.25, 0.1]),
)


def ratings_table(**columns):
    table = {
        schema.USER_ID: [1, 2, 3],
        schema.ITEM_ID: [10, 20, 30],
        schema.RATING: [1.0, 2.0, 3.0],
    }
    return pa.table(table | columns)


@given(SCALES)
def test_every_level_of_a_scale_survives_encoding(scale):
    codes = np.arange(scale.levels)
    ratings = scale.decode(codes)
    assert ratings.dtype == np.float32
    assert scale.contains(ratings).all()
    assert np.array_equal(scale.encode(ratings), codes)
    assert scale.encode(ratings).dtype == (np.uint8 if scale.levels <= 256 else np.uint16)


@given(SCALES)
def test_a_scale_refuses_what_lies_between_and_beside_its_levels(scale):
    ratings = scale.decode(np.arange(scale.levels)).astype(np.float64)
    assert not scale.contains(ratings + scale.step / 2).any()
    outside = np.array([scale.minimum - scale.step, scale.maximum + scale.step])
    assert not scale.contains(outside).any()
    assert not scale.contains(np.array([np.nan, np.inf, -np.inf])).any()


@given(SCALES)
def test_a_scale_is_inferred_from_its_levels(scale):
    values = scale.decode(np.arange(scale.levels)).astype(np.float64)
    inferred = RatingScale.infer(values, "file")
    assert inferred.minimum == pytest.approx(scale.minimum)
    assert inferred.levels == scale.levels or scale.levels == 2
    assert inferred.contains(values).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 5], RatingScale(1, 5, 1)),
        ([0.5, 3, 5], RatingScale(0.5, 5, 0.5)),
        ([0, 1], RatingScale(0, 1, 1)),
        ([0, 0.25, 1], RatingScale(0, 1, 0.25)),
        ([1, 1.2, 2], RatingScale(1, 2, 0.2)),
    ],
)
def test_known_scales_are_inferred(values, expected):
    assert RatingScale.infer(np.array(values, dtype=float), "file") == expected


def test_no_scale_fits_one_value_or_reals():
    with pytest.raises(DataError, match=r"^file: every rating is 3; there is nothing to learn"):
        RatingScale.infer(np.array([3.0]), "file")
    with pytest.raises(DataError, match=r"^file: ratings are finer .* --scale MIN:MAX:STEP"):
        RatingScale.infer(np.array([1.0, 2.0, np.pi]), "file")


def test_a_scale_is_parsed():
    assert RatingScale.parse("1:10") == RatingScale(1, 10, 1)
    assert RatingScale.parse("0.5:5:0.5") == RatingScale(0.5, 5, 0.5)
    assert str(RatingScale.parse("0.5:5:0.5")) == "0.5 to 5 in steps of 0.5"
    assert RatingScale(**RatingScale(1, 5).to_dict()) == RatingScale(1, 5)


@pytest.mark.parametrize(
    "text", ["", "1", "a:b", "1:2:3:4", "5:1", "1:1", "1:5:0", "1:5:3", "1:nan"]
)
def test_an_impossible_scale_is_a_usage_error(text):
    with pytest.raises(UsageError, match=f"--scale {re.escape(text)}: "):
        RatingScale.parse(text)


def test_good_ratings_pass_with_the_types_that_everything_relies_on():
    table = check_ratings(
        ratings_table(
            user_id=pa.array([1, 2, 3], pa.uint8()),
            item_id=pa.array(["a", "b", "a"]).dictionary_encode(),
            rating=pa.array([1, 2, 3], pa.int8()),
            timestamp=[1.0, 2.0, 3.0],
            extra=["x", "y", "z"],
        ),
        source="file",
        scale=RatingScale(1, 5),
    )
    assert table.schema == pa.schema(
        {
            "user_id": pa.int64(),
            "item_id": pa.string(),
            "rating": pa.float32(),
            "timestamp": pa.int64(),
        }
    )
    assert table.to_pydict() == {
        "user_id": [1, 2, 3],
        "item_id": ["a", "b", "a"],
        "rating": [1.0, 2.0, 3.0],
        "timestamp": [1, 2, 3],
    }


def test_times_become_microseconds():
    seconds = pa.array([0, 1, 2], pa.timestamp("s"))
    table = check_ratings(ratings_table(timestamp=seconds), source="file")
    assert table.column("timestamp").to_pylist() == [0, 1_000_000, 2_000_000]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            ["1970-01-01 00:00:01", "1970-01-01T00:00:02", "1970-01-02"],
            [10**6, 2 * 10**6, 864 * 10**8],
        ),
        (["5", " 7", "6 "], [5, 7, 6]),
    ],
)
def test_timestamps_that_are_text_in_a_frame_are_read(kind, texts, expected):
    table = check_ratings(ratings_table(timestamp=pa.array(texts, kind)), source="file")
    assert table.column("timestamp").to_pylist() == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1, None, 3]}, "file: row 8: user_id is missing"),
        ({"item_id": [1, 2, -3]}, "file: row 9: item_id is negative (-3)"),
        ({"item_id": ["a", "", "c"]}, "file: row 8: item_id is empty"),
        ({"rating": [1.0, 2.0, None]}, "file: row 9: rating is missing"),
        ({"rating": [float("nan"), 2.0, 3.0]}, "file: row 7: rating is not a finite number (nan)"),
        ({"rating": [1.0, float("inf"), 3.0]}, "file: row 8: rating is not a finite number (inf)"),
        (
            {"rating": [1.0, 6.0, 7.0]},
            "file: row 8: rating is off the scale of 1 to 5 in steps of 1 (6.0)",
        ),
        (
            {"rating": [1.0, 2.0, 2.5]},
            "file: row 9: rating is off the scale of 1 to 5 in steps of 1 (2.5)",
        ),
        ({"rating": ["1", "2", "3"]}, "file: column rating holds string; ratings must be numbers"),
        ({"timestamp": [1, None, 3]}, "file: row 8: timestamp is missing"),
        ({"timestamp": ["a", "b", "c"]}, "file: row 7: timestamp 'a' is no time; write whole sec"),
        ({"timestamp": ["1", "b", "3"]}, "file: row 8: timestamp 'b' is no time; write whole sec"),
        ({"timestamp": [[1], [2], [3]]}, "file: column timestamp holds list<item: int64>; give "),
        ({"user_id": [1.0, 2.0, 3.0]}, "file: column user_id holds double; ids must be whole"),
        (
            {"user_id": pa.array([1, 2, 2**64 - 1], pa.uint64())},
            "file: column user_id does not fit int64",
        ),
    ],
)
def test_bad_ratings_are_refused_with_their_row(columns, message):
    with pytest.raises(DataError) as error:
        check_ratings(ratings_table(**columns), source="file", first_row=7, scale=RatingScale(1, 5))
    assert str(error.value).startswith(message)
    assert error.value.exit_code == 3


def test_a_missing_column_is_named_with_those_found():
    with pytest.raises(DataError, match=r"^file: no column rating; found user_id, item_id$"):
        check_ratings(ratings_table().drop_columns(["rating"]), source="file")
    with pytest.raises(DataError, match=r"^file: no column user_id; found no columns$"):
        schema.check_columns([], ("user_id",), "file")
