"""Options that several verbs share, and functions that open a run for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dglrec.errors import UsageError
from dglrec.places import Place, is_uri, local_path, place_of
from dglrec.progress import log

if TYPE_CHECKING:
    from dglrec.infer import Diversity
    from dglrec.run import History, Order, Predictor, TrainedModel

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Opened = TypeVar("_Opened")


class _OfThisMachine(click.Path):
    """A path; a URI is refused, unless it is a `file://` URI."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that an argument names."""
        try:
            if isinstance(value, str) and is_uri(value):
                value = str(local_path(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class _Anywhere(click.ParamType[Place]):
    """A path, or a URI of a store."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The place that an argument names."""
        try:
            return place_of(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


# Not checked for being readable here: what reads the file says so, with exit code 3.
FOLDER_OR_FILE = _OfThisMachine(path_type=Path, readable=False)
PLACE = _Anywhere()
SEED = click.IntRange(0, 2**63 - 1)


def parse_lengths(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """An option's whole number, or several separated by commas: `10`, `5,10,20`."""
    del context
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r}: name whole numbers with commas between, as 5,10,20", param=parameter
        ) from error


def option_json(command: _Command) -> _Command:
    """`--json`: print one JSON object."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
    )(command)


def option_overwrite(command: _Command) -> _Command:
    """`--overwrite`: replace what is there."""
    return click.option(
        "--overwrite", is_flag=True, help="Replace what is there, if it is of the same kind."
    )(command)


def option_device(command: _Command) -> _Command:
    """`--device`: where to compute."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto (a GPU where there is one), cpu, cuda or cuda:N.",
    )(command)


def option_dataset(command: _Command) -> _Command:
    """`--dataset`: where the data set is now."""
    return click.option(
        "--dataset", type=FOLDER_OR_FILE, help="Where the data set is now, if it was moved."
    )(command)


def option_timeout(command: _Command) -> _Command:
    """`--timeout`: how long to wait for other processes."""
    return click.option(
        "--timeout",
        type=float,
        default=600.0,
        show_default=True,
        help="Under torchrun: seconds to wait for another process.",
    )(command)


def option_order(command: _Command) -> _Command:
    """`--order`: what lists are ordered by."""
    return click.option(
        "--order",
        type=click.Choice(["lists", "rating"]),
        default="lists",
        show_default=True,
        help="What orders lists: the list head, or predicted ratings; a model without a list head "
        "uses these in any case.",
    )(command)


def option_diverse(command: _Command) -> _Command:
    """`--diverse`, `--diversity`: lists of items that are unlike each other."""
    by = click.option(
        "--diverse",
        type=click.Choice(["genres", "embedding", "series"]),
        help="Make items of a list unlike each other (maximal marginal relevance): by genres, the "
        "model's embeddings, or the series that titles name; default: off.",
    )
    weight = click.option(
        "--diversity",
        type=float,
        metavar="W",
        help="With --diverse: the weight of likeness, from 0 to 1; the score has the rest; "
        "default: 0.3.",
    )
    return by(weight(command))


def diversity_of(diverse: Any, diversity: float | None) -> "Diversity | None":
    """What `--diverse` and `--diversity` ask for; None without `--diverse`.

    Raises:
        UsageError: the weight is out of range, or `--diverse` is missing.
    """
    from dglrec.infer import WEIGHT, Diversity

    if diverse is None:
        if diversity is not None:
            raise click.UsageError("--diversity goes with --diverse.")
        return None
    return Diversity(diverse, WEIGHT if diversity is None else diversity)


def option_known(default: str) -> Callable[[_Command], _Command]:
    """`--known`: the meaning of new ratings for users who are in the data set."""

    def add(command: _Command) -> _Command:
        return click.option(
            "--known",
            type=click.Choice(["extend", "replace", "error"]),
            default=default,
            show_default=True,
            help="What --ratings mean for a user of the data set: more ratings, which replace "
            "older ratings of the same item; all of the user's ratings; or an error.",
        )(command)

    return add


def option_history(command: _Command) -> _Command:
    """`--history`: the rows that a model reads."""
    return click.option(
        "--history",
        type=click.Choice(["train", "all"]),
        help="What counts as a user's history, and an item's: the rows that the model was trained "
        "on, or all rows of the data set; default: all if the run was refitted, else train.",
    )(command)


@contextmanager
def opened(
    run: Path,
    dataset: Path | None,
    device: str,
    timeout: float = 600.0,
    *,
    order: "Order" = "lists",
    history: "History | None" = None,
) -> Iterator["TrainedModel"]:
    """Open a run's best model, which must have a graph, on all processes of the job."""
    from dglrec.run import open_run

    with _opened(open_run, run, dataset, device, timeout, history) as trained:
        with trained.world.together():
            trained = trained.ordered_by(order)
        yield trained


@contextmanager
def opened_predictor(
    run: Path,
    dataset: Path | None,
    device: str,
    timeout: float = 600.0,
    *,
    order: "Order" = "lists",
    history: "History | None" = None,
) -> Iterator["Predictor"]:
    """Open a run's best model, of any kind, on all processes of the job."""
    from dglrec.run import open_predictor

    with _opened(open_predictor, run, dataset, device, timeout, history) as trained:
        with trained.world.together():
            trained = trained.ordered_by(order)
        yield trained


@contextmanager
def _opened(
    open_: Callable[..., _Opened],
    run: Path,
    dataset: Path | None,
    device: str,
    timeout: float,
    history: "History | None",
) -> Iterator[_Opened]:
    from dglrec.distributed import joined
    from dglrec.run import RESULTS_FILE

    with joined(device, timeout=timeout) as (world, chosen):
        with world.together():
            options: dict[str, Any] = {"device": chosen, "world": world}
            trained = open_(run, dataset=dataset, **options, history=history or "auto")
            if world.is_first and not (run / RESULTS_FILE).is_file():
                log(
                    f"{run}: its training has not finished; this is the best of the epochs that "
                    "it had"
                )
        yield trained
