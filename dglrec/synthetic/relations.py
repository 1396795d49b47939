"""What is planted beside ratings: drawing it, writing it, and measuring what it is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.synthetic.attributes import (
    STUDIOS_FILE,
    USERS_FILE,
    Studios,
    UserTable,
    draw_studios,
    draw_user_table,
)
from dglrec.synthetic.circles import TRUST_FILE, Circles, draw_circles
from dglrec.synthetic.drift import PERIOD, START
from dglrec.synthetic.next_items import next_item_worth
from dglrec.synthetic.planted import RANK, PlantedModel
from dglrec.synthetic.planting import Part, Planting
from dglrec.synthetic.sequence import SESSION_GAP, Transitions, draw_transitions
from dglrec.synthetic.streams import Stream, generator
from dglrec.synthetic.worth import (
    Drawn,
    Estimate,
    Group,
    ItemSide,
    UserSide,
    pairs_around,
    pairs_of_labels,
    sample_targets,
    worth_of,
)

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Relations:
    """What is planted beside ratings of U users and I items; None for what is not planted.

    Attributes:
        planting: what was asked for.
        circles: who trusts whom.
        user_table: attributes of users.
        studios: attributes of items.
        transitions: which items follow which in sessions.
        of_circles, of_user_table, of_studios: the parts of tastes and biases that follow from each.
    """

    planting: Planting
    circles: Circles | None
    user_table: UserTable | None
    studios: Studios | None
    transitions: Transitions | None
    of_circles: Part | None
    of_user_table: Part | None
    of_studios: Part | None

    @classmethod
    def draw(
        cls, planting: Planting, users: int, items: int, popularity: F64, seed: int
    ) -> "Relations":
        """Draw what `planting` asks for, each from a separate stream of random numbers."""
        circles = user_table = studios = transitions = None
        of_circles = of_user_table = of_studios = None
        if planting.trust is not None:
            rng = generator(seed, Stream.TRUST)
            circles = draw_circles(users, planting.trust, rng)
            of_circles = circles.part(planting.homophily_share, RANK, rng)
        if planting.user_attributes:
            rng = generator(seed, Stream.USER_TABLE)
            user_table = draw_user_table(users, rng)
            of_user_table = user_table.part(planting.attribute_share, RANK, rng)
        if planting.studios:
            rng = generator(seed, Stream.STUDIOS)
            studios = draw_studios(items, rng)
            of_studios = studios.part(planting.studio_share, RANK, rng)
        if planting.sessions:
            rng = generator(seed, Stream.TRANSITIONS)
            transitions = draw_transitions(planting.transition_chance, popularity, rng)
        return cls(
            planting=planting,
            circles=circles,
            user_table=user_table,
            studios=studios,
            transitions=transitions,
            of_circles=of_circles,
            of_user_table=of_user_table,
            of_studios=of_studios,
        )

    @property
    def user_parts(self) -> Sequence[Part]:
        """Parts of users' biases and tastes."""
        return [part for part in (self.of_circles, self.of_user_table) if part is not None]

    @property
    def item_parts(self) -> Sequence[Part]:
        """Parts of items' biases and tastes, beside genres and themes."""
        return [] if self.of_studios is None else [self.of_studios]

    @property
    def change_exposure(self) -> bool:
        """Whether the probability of who rates what has no closed form any more."""
        return self.planting.turns > 0 or self.planting.transition_chance > 0

    def write(self, folder: Path, item_ids: npt.NDArray[np.int64]) -> None:
        """Write the files that come beside the ratings."""
        if self.circles is not None:
            self.circles.write(folder / TRUST_FILE)
        if self.user_table is not None:
            self.user_table.write(folder / USERS_FILE)
        if self.studios is not None:
            self.studios.write(folder / STUDIOS_FILE, item_ids)

    def figures(
        self,
        model: PlantedModel,
        drawn: Drawn,
        *,
        content: F64,
        popularity: F64,
        exposure_strength: float,
        seed: int,
    ) -> dict[str, Any] | None:
        """What is planted, and what each relation is worth; None if nothing is planted.

        Args:
            model: the planted model.
            drawn: all ratings.
            content: [I, K] the part of items' tastes that follows from genres and themes.
            popularity: [I], by which items were drawn.
            exposure_strength: the weight of taste in who rates what, in units of the model's taste.
            seed: of the data set.
        """
        planting = self.planting
        found: dict[str, Any] = {}
        if self.circles is not None or self.user_table is not None:
            estimate = self._of_users(model, drawn, seed)
            if self.circles is not None:
                found["trust"] = {
                    "file": TRUST_FILE,
                    "edges": len(self.circles.sources),
                    "homophily": planting.homophily_share,
                    "worth": worth_of(estimate, group=False),
                }
            if self.user_table is not None:
                found["user_attributes"] = {
                    "file": USERS_FILE,
                    "effect": planting.attribute_share,
                    "worth": worth_of(estimate, part=False),
                }
        if self.studios is not None:
            found["studios"] = {
                "file": STUDIOS_FILE,
                "labels": len(self.studios.names),
                "effect": planting.studio_share,
                "worth": worth_of(self._of_items(model, drawn, content, seed), group=False),
            }
        if planting.timed:
            found["timestamps"] = {"start": START, "end": START + PERIOD}
        if planting.drift is not None:
            estimate = self._of_users(model, drawn, seed, latest=True)
            found["drift"] = {
                "quarter_turns": planting.turns,
                "worth": worth_of(estimate, timed=False),
            }
        if self.transitions is not None:
            chosen = sample_targets(len(drawn.offsets) - 1, generator(seed, Stream.WORTH, 3))
            found["sessions"] = {
                "transitions": planting.transition_chance,
                "gap_seconds": SESSION_GAP,
                "next_item": next_item_worth(
                    model, self.transitions, drawn, popularity, exposure_strength, chosen
                ),
            }
        return found or None

    def _of_users(
        self, model: PlantedModel, drawn: Drawn, seed: int, *, latest: bool = False
    ) -> Estimate:
        rng = generator(seed, Stream.WORTH, 1 if latest else 0)
        targets = sample_targets(len(model.user_bias), rng)
        group = None
        if self.circles is not None and self.planting.homophily_share:
            group = Group(self.circles.sources, self.circles.targets)
        part = self.of_user_table if self.planting.attribute_share else None
        return Estimate(
            model,
            drawn,
            UserSide(model, drawn),
            part=None if part is None else (part.bias, part.taste),
            group=group,
            targets=targets,
            rng=rng,
            latest=latest,
        )

    def _of_items(self, model: PlantedModel, drawn: Drawn, content: F64, seed: int) -> Estimate:
        assert self.studios is not None
        rng = generator(seed, Stream.WORTH, 2)
        targets = sample_targets(len(model.item_bias), rng)
        group = pairs_of_labels(self.studios.of_item) if self.planting.studio_share else None
        wanted = targets
        if group is not None:
            around = pairs_around(group, targets, len(model.item_bias))
            wanted = np.unique(np.r_[targets, around.left, around.right])
        return Estimate(
            model,
            drawn,
            ItemSide(model, drawn, wanted),
            part=(np.zeros(len(content)), content),
            group=group,
            targets=targets,
            rng=rng,
        )
