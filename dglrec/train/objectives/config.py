"""The configuration of training lists."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dglrec.train.objectives.list_losses import LIST_LOSSES, SOFTMAX

# Chosen by validation on two real data sets, with 48 and 11 ratings an item.
_L2 = 700.0

# The largest numbers of scores an epoch for which `auto` takes the whole catalogue: up to
# _FEW_SCORES in any case; up to _CATALOGUE_SCORES, some minutes on two cores, only if they are at
# most _SCORES_A_RATING for each training rating, so that scores cost no more than the rest of a
# step.
_FEW_SCORES, _CATALOGUE_SCORES, _SCORES_A_RATING = 2_000_000_000, 20_000_000_000, 200


class RankingConfig(BaseModel):
    """How the list head is trained, and what decides which epoch is the best."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    loss: Annotated[str, AfterValidator(LIST_LOSSES.known)] = Field(
        SOFTMAX,
        description="softmax: the positive among all negatives; bpr: each positive above its "
        "negatives; bce: positives and negatives told apart; cosine: cosine contrastive; or what "
        "register_list_loss adds",
    )
    negatives: Literal["auto", "catalogue", "uniform", "popularity", "in_batch", "hard"] = Field(
        "auto",
        description="catalogue: every item that the user has not rated (softmax alone); or a pool "
        "that a step draws: uniform, by popularity to the power of alpha, in_batch (the other "
        "targets' items), hard (of a uniform pool those with the highest scores); auto: catalogue "
        "with softmax where steps encode all items and an epoch has up to 2 billion scores, or up "
        "to 20 billion and 200 a training rating; else uniform",
    )
    pool: int = Field(2048, ge=1, description="items that a step draws for all of its users")
    negatives_a_target: int = Field(
        16, ge=1, description="of the pool, those that a target has, but with softmax"
    )
    related_negatives: int = Field(
        0,
        ge=0,
        description="with other losses than softmax, the most negatives a target has beside those "
        "of the pool among items that the user is somewhat related to: PinSage's hard negatives; "
        "none in the first epochs, and in each later one another of them",
    )
    related_from_epoch: int = Field(
        2, ge=1, description="the epoch in which a target has the first of related_negatives"
    )
    related_places: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)
    ] = Field(
        (51, 250),
        description="the first and the last place among the items that random walks from a user "
        "visit (personalised PageRank), and the user has not rated, that related_negatives are "
        "drawn from",
    )
    related_hops: int = Field(
        1000,
        ge=1,
        le=1 << 24,
        description="items that each user's walks visit for that, one after the other",
    )
    alpha: float = Field(
        0.75, ge=0, allow_inf_nan=False, description="popularity's power where it draws the pool"
    )
    correction: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="with softmax over a pool: how much of log(probability of being drawn) is "
        "taken off a score; 1 estimates the softmax over the catalogue",
    )
    normalised: bool = Field(
        False, description="whether the loss takes cosines; lists are made with plain products"
    )
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="what scores are divided by in the loss"
    )
    margin: float = Field(
        0.4, ge=0, le=1, allow_inf_nan=False, description="of cosine: what a negative may have"
    )
    negative_weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="of cosine: the negatives' share of a target"
    )
    l2: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto",
        description="penalty on the squared list vectors of items, over the training ratings; "
        "auto: 700 over the training ratings an item",
    )
    vector_l2: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="penalty on the squared vectors of each target's user and item",
    )
    positives_from: Annotated[float, Field(allow_inf_nan=False)] | Literal["auto", "all"] = Field(
        "auto",
        description="least rating of a positive target; all: every rating; auto: the mean rating, "
        "rounded up to the scale",
    )
    positive_weights: Literal["equal", "rating"] = Field(
        "equal",
        description="what a positive target counts: equal; or rating, which grows evenly from the "
        "least positive rating to the highest, and is 1 on average",
    )
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="of the lists' loss beside the ratings', where both are trained",
    )
    metric: Literal["ndcg", "recall"] = Field(
        "ndcg", description="what validation lists are judged by, the more the better"
    )
    at: int = Field(10, ge=1, description="length of the validation lists")

    def model_post_init(self, context: Any) -> None:
        """Refuse negatives that do not go with the loss."""
        if self.negatives == "catalogue" and self.loss != SOFTMAX:
            raise ValueError(
                f"negatives catalogue go with loss softmax; take a pool with {self.loss}: uniform, "
                "popularity, in_batch or hard"
            )
        if self.negatives == "hard" and self.loss == SOFTMAX:
            raise ValueError(
                "negatives hard go with loss bpr, bce or cosine; the softmax weighs hard ones by "
                "itself"
            )
        if self.related_negatives and self.loss == SOFTMAX:
            raise ValueError(
                "related_negatives go with loss bpr, bce or cosine, which take a few negatives a "
                "target; the softmax takes all of its pool; leave them out, or take one of these"
            )
        if self.related_places[0] > self.related_places[1]:
            first, last = self.related_places
            raise ValueError(
                f"related_places {first}, {last}: the first place comes first; take [{last}, "
                f"{first}]"
            )
        if self.loss == "cosine" and not self.normalised:
            raise ValueError("loss cosine takes cosines: set normalised = true")

    def related_in(self, epoch: int) -> int:
        """The number of `related_negatives` of a target in an epoch, counted from 0."""
        return min(max(epoch + 2 - self.related_from_epoch, 0), self.related_negatives)

    def penalty(self, num_edges: int, num_items: int) -> float:
        """The factor of the squared list vectors of items that is added to a target's loss."""
        l2 = _L2 * num_items / num_edges if self.l2 == "auto" else self.l2
        return l2 / num_edges

    def resolved(
        self, num_users: int, num_items: int, num_edges: int, *, every_item: bool
    ) -> "RankingConfig":
        """The configuration with `auto` negatives resolved.

        Args:
            num_users: U.
            num_items: I.
            num_edges: E.
            every_item: whether a step encodes all items, so that they can all be negatives.
        """
        if self.negatives != "auto":
            return self
        scores = num_users * num_items
        few = scores <= max(_FEW_SCORES, min(_CATALOGUE_SCORES, _SCORES_A_RATING * num_edges))
        kind = "catalogue" if self.loss == SOFTMAX and few and every_item else "uniform"
        return self.model_copy(update={"negatives": kind})
