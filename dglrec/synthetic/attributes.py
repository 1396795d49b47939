"""Tables of users and items with columns that are related to their tastes."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as pa_csv

from dglrec.synthetic.planting import Part, standardised
from dglrec.synthetic.vocabulary import OCCUPATIONS, made_up_names

I64 = npt.NDArray[np.int64]

USERS_FILE = "users.csv"
STUDIOS_FILE = "items.csv"

_YOUNGEST, _OLDEST = 13, 80
_AGE_PARTS = (1.0, 0.6, 0.3)  # of Legendre polynomials of degree 1, 2, 3: smooth, mostly linear
_ITEMS_PER_STUDIO = 6
_STUDIO_OFFSET, _STUDIO_EXPONENT = 5.0, 0.7


@dataclass(frozen=True, eq=False)
class UserTable:
    """The attributes of U users. Gender is not related to taste.

    Attributes:
        ages: int64 [U], 13 to 80.
        genders: int64 [U], 0 or 1.
        occupations: int64 [U], indices in `OCCUPATIONS`.
    """

    ages: I64
    genders: I64
    occupations: I64

    def part(self, share: float, rank: int, rng: np.random.Generator) -> Part:
        """The part of a user that follows from age, along a smooth curve, and from occupation."""
        scaled = 2.0 * (self.ages - _YOUNGEST) / (_OLDEST - _YOUNGEST) - 1.0
        curve = np.polynomial.legendre.legvander(scaled, len(_AGE_PARTS))[:, 1:]
        curve = (curve - curve.mean(axis=0)) / np.maximum(curve.std(axis=0), 1e-6)
        curve = curve * np.array(_AGE_PARTS)
        both = []
        for width in (rank, 1):
            of_age = standardised(curve @ rng.standard_normal((len(_AGE_PARTS), width)))
            of_occupation = rng.standard_normal((len(OCCUPATIONS), width))[self.occupations]
            both.append(standardised(of_age + standardised(of_occupation)))
        taste, bias = both
        return Part(share, taste, bias[:, 0])

    def write(self, path: Path) -> None:
        """Write the table as CSV."""
        names = ["female", "male"], list(OCCUPATIONS)
        genders, occupations = (
            pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(labels)).cast(
                pa.string()
            )
            for codes, labels in zip((self.genders, self.occupations), names, strict=True)
        )
        columns = [pa.array(np.arange(len(self.ages))), pa.array(self.ages), genders, occupations]
        table = pa.table(columns, names=["user_id", "age", "gender", "occupation"])
        options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
        with path.open("wb") as file:
            file.write((",".join(table.column_names) + "\n").encode("ascii"))
            pa_csv.write_csv(table, file, options)


def draw_user_table(users: int, rng: np.random.Generator) -> UserTable:
    """Draw ages from 13, with a mean of 29, and genders and occupations independent of them."""
    shares = np.array(list(OCCUPATIONS.values()))
    ages = np.clip(np.round(15.0 + rng.gamma(2.0, 7.0, users)), _YOUNGEST, _OLDEST)
    return UserTable(
        ages=ages.astype(np.int64),
        genders=rng.integers(2, size=users),
        occupations=rng.choice(len(shares), users, p=shares / shares.sum()),
    )


@dataclass(frozen=True, eq=False)
class Studios:
    """The studio of each of I items: many labels of a few items each.

    Attributes:
        names: of all studios.
        of_item: int64 [I] indices in `names`.
    """

    names: list[str]
    of_item: I64

    def part(self, share: float, rank: int, rng: np.random.Generator) -> Part:
        """The part that each item has in common with all items of its studio."""
        taste = rng.standard_normal((len(self.names), rank))[self.of_item]
        bias = rng.standard_normal(len(self.names))[self.of_item]
        return Part(share, standardised(taste), standardised(bias))

    def write(self, path: Path, item_ids: I64) -> None:
        """Write the table as CSV."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["item_id", "studio"])
            writer.writerows(
                (item_id, self.names[studio])
                for item_id, studio in zip(item_ids.tolist(), self.of_item.tolist(), strict=True)
            )


def draw_studios(items: int, rng: np.random.Generator) -> Studios:
    """Draw a studio for each item, six items for each in the mean: a few large, many small."""
    count = max(items // _ITEMS_PER_STUDIO, 1)
    weights = (np.arange(count) + _STUDIO_OFFSET) ** -_STUDIO_EXPONENT
    of_item = rng.choice(count, items, p=weights / weights.sum())
    return Studios([f"Studio {name}" for name in made_up_names(count, rng)], of_item)
