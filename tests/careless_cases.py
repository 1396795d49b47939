"""Careless and hostile uses of the commands, and the exit code that each is promised.

Each is a command line; what stands in braces is a source, a data set or a run of `careless.World`. The
line is given in a folder of its own, where the files lie that come with the case.
"""
# ruff: noqa: E501, PTH101, PTH102, PTH106, PTH211, RUF001

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field

TABLE = "user_id,item_id,rating\n"
SMALL = "--set train.epochs=1 --set model.embedding_size=4 --set model.decoder_size=4"


def rows(users=12, items=10, *, names=str, header=TABLE) -> str:
    """A good table: some ratings of each user, 1 to 5."""
    lines = [
        f"{names(u)},{i},{1 + (u * i) % 5}"
        for u in range(1, users + 1)
        for i in range(1, items + 1)
        if (u + i) % 3
    ]
    return header + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Case:
    """A use and its promised answer.

    Attributes:
        name: what is tried.
        line: the command; {place} is a folder of its own, in which it is given, and names of
            `World` stand for what there is.
        codes: of these one.
        says: what stderr, or stdout where all is well, has to hold.
        files: that lie in the folder, by name; None makes a folder of that name.
        before: what the process does first.
        shell: whether the line is a shell's, with dglrec for the command.
        environment: variables, of a shell's.
        leaves: whether something may be left behind.
    """

    name: str
    line: str
    codes: tuple[int, ...]
    says: tuple[str, ...] = ()
    files: dict[str, str | bytes | None] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    shell: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    leaves: bool = False


CASES: list[Case] = []


def case(name: str, line: str, codes: int | tuple[int, ...], *says: str, **more) -> None:
    """Add one."""
    CASES.append(Case(name, line, (codes,) if isinstance(codes, int) else codes, says, **more))


def table(name: str, content: str | bytes, codes, *says: str, line="", **more) -> None:
    """Add one that prepares a table."""
    prepared = line or "prepare t.csv out"
    case(f"prepare: {name}", prepared, codes, *says, files={"t.csv": content}, **more)


# fmt: off
# --- tables ---------------------------------------------------------------------------------------

table("an empty file", "", 3, "t.csv")
table("a header and no rows", TABLE, 3, "t.csv")
table("one row", TABLE + "1,1,5\n", (0, 2, 3))
table("a blank line at the end", rows() + "\n\n", 0)
table("CRLF", rows().replace("\n", "\r\n"), 0)
table("a byte order mark", "\ufeff" + rows(), 0)
table("UTF-16", rows().encode("utf-16"), 3, "t.csv")
table("NUL bytes", rows().encode() + b"\0\0,\0,3\n", 3, "t.csv")
table("Latin-1 text ids", rows(names=lambda u: f"ü{u}").encode("latin-1"), 3, "t.csv")
table("semicolons", rows().replace(",", ";"), 0)
table("tabs in .csv", rows().replace(",", "\t"), (0, 3))
table("no column of items", rows().replace("item_id", "thing"), 3, "item_id")
table("two columns of one name", "user_id,item_id,item_id,rating\n1,1,2,3\n", 3, "t.csv")
table("a column too many in a row", rows() + "1,2,3,4,5\n", 3, "t.csv")
table("a column too few in a row", rows() + "1,2\n", 3, "t.csv")
table("007 among whole numbers, which makes them text", rows() + "007,1,5\n", 0, "users 13")
table("0x5 among whole numbers", rows() + "0x5,1,5\n", 3, "0x5")
table("1e3 among whole numbers", rows() + "1e3,1,5\n", 3, "1e3")
table("1.0 among whole numbers", rows() + "1.0,1,5\n", 3, "t.csv")
table("nan for a user", rows() + "nan,1,5\n", 3, "t.csv")
table("an empty user", rows() + ",1,5\n", 3, "t.csv")
table("2^63 for a user", rows() + "9223372036854775808,1,5\n", 3, "t.csv")
table("a negative user", rows() + "-5,1,5\n", (0, 3))
table("a space before a user", rows() + " 7,1,5\n", (0, 3))
table("full-width digits", rows() + "５,1,5\n", 3, "t.csv")
table("text ids with quotes and commas", TABLE + '"a,""b",1,5\n"c",2,4\nd,1,3\n', (0, 3))
table("an escape sequence for a user", TABLE + "\x1b[31mred,1,5\nb,2,4\nc,1,3\na,2,2\n", (0, 3))
table("an open quote", TABLE + '1,1,5\n"2,1,4\n3,1,3\n', 3, "t.csv")
table("a rating that is no number", rows() + "1,99,good\n", 3, "good")
table("nan for a rating", rows() + "1,99,nan\n", 3, "t.csv")
table("inf for a rating", rows() + "1,99,inf\n", 3, "t.csv")
table("an empty rating", rows() + "1,99,\n", 3, "t.csv")
table("1e400 for a rating", rows() + "1,99,1e400\n", 3, "t.csv")
table("a rating of 1000 alone", rows() + "1,99,1000\n", 0, "1000")
table("one rating everywhere", TABLE + "".join(f"{u},{i},3\n" for u in range(9) for i in range(9)), 3)
table("times that are texts", rows(header=TABLE[:-1] + ",timestamp\n").replace("\n1,", "\n1,"), 3)
case(
    "prepare: times by words",
    "prepare t.csv out --split time",
    3,
    "t.csv",
    files={"t.csv": "user_id,item_id,rating,timestamp\n1,1,5,yesterday\n2,2,4,today\n"},
)
table("split by time without times", rows(), 3, "timestamp", line="prepare t.csv out --split time")
table("a scale the wrong way round", rows(), 2, "--scale", line="prepare t.csv out --scale 5:1")
table("a scale of nan", rows(), 2, line="prepare t.csv out --scale nan:5")
table("a scale with a step of 0", rows(), 2, line="prepare t.csv out --scale 1:5:0")
table("a scale of four parts", rows(), 2, line="prepare t.csv out --scale 1:5:1:1")
table("a scale that does not fit", rows(), 3, "t.csv", line="prepare t.csv out --scale 1:3")
table("a scale with a million levels", rows(), (2, 3), line="prepare t.csv out --scale 1:5:0.000004")
table("half held back, and half more", rows(), 2, line="prepare t.csv out --valid 0.6 --test 0.6")
table("nan held back", rows(), 2, line="prepare t.csv out --valid nan")
table("less than nothing held back", rows(), 2, line="prepare t.csv out --test=-0.1")
table("a tiny share held back", rows(), (0, 2, 3), line="prepare t.csv out --valid 1e-9")
table("no users", rows(), 2, line="prepare t.csv out --users 0")
table("more users than there are", rows(), 3, line="prepare t.csv out --users 1000000000")
table("a seed of 1e3", rows(), 2, line="prepare t.csv out --seed 1e3")
table("another format", rows(), 3, line="prepare t.csv out --format movielens")
table("a column of numbers that is not there", rows(), (2, 3), line="prepare t.csv out --numeric no")
table("interactions from nan", rows(), 2, line="prepare t.csv out --interactions-from nan")
table("interactions from 99", rows(), 3, line="prepare t.csv out --interactions-from 99")
table("a relation without a file", rows(), 2, line="prepare t.csv out --relation trusts")
table("a relation without a name", rows(), 2, line="prepare t.csv out --relation =t.csv")
table("a relation that is a path", rows(), 2, line="prepare t.csv out --relation ../x=t.csv")
table("a relation named rates", rows(), 2, line="prepare t.csv out --relation rates=t.csv")
table("a relation of a missing file", rows(), 3, "no.csv", line="prepare t.csv out --relation a=no.csv")
table("an attribute of no kind", rows(), 2, line="prepare t.csv out --attribute x=colour")
table("an item table that is missing", rows(), 3, "no.csv", line="prepare t.csv out --item-table no.csv")
table("an item table of ratings", rows(), (0, 3), line="prepare t.csv out --item-table t.csv")
table("a training file alone", rows(), 2, line="prepare t.csv out --train-file t.csv")
table("training and test file the same", rows(), (0, 2, 3), line="prepare t.csv out --train-file t.csv --test-file t.csv")
table("a text model that is missing", rows(), 0, line="prepare t.csv out --text-model /no/model")
case("prepare: gzip cut short", "prepare t.csv.gz out", 3, "t.csv.gz", files={"t.csv.gz": b"\x1f\x8b\x08\0\0\0\0\0"})
case("prepare: gzip that is none", "prepare t.csv.gz out", 3, "t.csv.gz", files={"t.csv.gz": rows()})
case("prepare: CSV called Parquet", "prepare t.parquet out", 3, "t.parquet", files={"t.parquet": rows()})
case("prepare: Parquet called CSV", "prepare t.csv out", 3, "t.csv", files={"t.csv": b"PAR1" + bytes(90) + b"PAR1"})
case("prepare: an archive called CSV", "prepare t.csv out", 3, "t.csv", files={"t.csv": b"PK\x03\x04" + bytes(range(256))})
case("prepare: nothing there", "prepare no.csv out", 3, "no.csv")
case("prepare: an empty folder", "prepare empty out", 3, "empty", files={"empty": None})
case("prepare: an empty name", 'prepare "" out', 3)
case("prepare: a device", "prepare /dev/null out", 3, "/dev/null")
case("prepare: into an empty name", 'prepare t.csv ""', 2, files={"t.csv": rows()})
case("prepare: onto its own source", "prepare t.csv t.csv", 2, "t.csv", files={"t.csv": rows()})
case("prepare: onto its own source, over", "prepare t.csv t.csv --overwrite", 2, "t.csv", files={"t.csv": rows()})
case("prepare: below a file", "prepare t.csv t.csv/out", 2, "t.csv", files={"t.csv": rows()})
case("prepare: a name too long", f"prepare t.csv {'x' * 300}", 2, files={"t.csv": rows()})
case("prepare: over other files", "prepare t.csv mine --overwrite", 2, "mine", files={"t.csv": rows(), "mine/letter": "dear"})
case("prepare: over a run", "prepare t.csv run --overwrite", 2, files={"t.csv": rows(), "run/config.toml": ""})
case("prepare: names with spaces and lines", "prepare 'my t\n.csv' ' out \n'", 0, files={"my t\n.csv": rows()}, leaves=True)
case("prepare: a name that begins with a dash", "prepare t.csv -- -out", 0, files={"t.csv": rows()}, leaves=True)
case("prepare: a name of other letters", "prepare 'täble 東.csv' 東", 0, files={"täble 東.csv": rows()}, leaves=True)
case("prepare: by a link", "prepare link.csv out", 0, files={"t.csv": rows()}, before=lambda: os.symlink("t.csv", "link.csv"), leaves=True)
case("prepare: a link to itself", "prepare loop.csv out", 3, "loop.csv", before=lambda: os.symlink("loop.csv", "loop.csv"))
case("prepare: into a link to nowhere", "prepare t.csv link", (0, 2), files={"t.csv": rows()}, before=lambda: os.symlink("nowhere", "link"), leaves=True)
case("prepare: a pipe", "prepare pipe.csv out", 3, "pipe.csv", before=lambda: os.mkfifo("pipe.csv"))

# --- limits ---------------------------------------------------------------------------------------


def limited(what: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (most, most))


def nobody() -> None:
    """Be somebody who may write nothing here."""
    os.chmod("t.csv", 0o600)
    os.chmod(".", 0o555)
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


case("prepare: a folder that cannot be written", "prepare open.csv out", 1, "out", files={"t.csv": "", "open.csv": rows()}, before=nobody)
case("prepare: a file that cannot be read", "prepare t.csv out", 3, "t.csv", files={"t.csv": rows()}, before=nobody)
case("prepare: files of 4 kB at most", "prepare t.csv out", 1, "out", files={"t.csv": rows(80, 60)}, before=limited(resource.RLIMIT_FSIZE, 4096))
case("train: files of 4 kB at most", "train {data} out " + SMALL, 1, "out", before=limited(resource.RLIMIT_FSIZE, 4096), leaves=True)
case("score: files of 500 bytes at most", "score {run} out --top-k 5", 1, "out", before=limited(resource.RLIMIT_FSIZE, 500), leaves=True)
case("export: files of 500 bytes at most", "export {run} out", 1, "out", before=limited(resource.RLIMIT_FSIZE, 500))
case("evaluate: 12 open files at most", "evaluate {run}", 4, before=limited(resource.RLIMIT_NOFILE, 12))
case("prepare: 6 open files at most", "prepare t.csv out", (1, 4), files={"t.csv": rows()}, before=limited(resource.RLIMIT_NOFILE, 6))
case("recommend: a current folder that is gone", "recommend {run} --user 1", 0, before=lambda: (os.mkdir("x"), os.chdir("x"), os.rmdir("../x")))
case("prepare: into a current folder that is gone", "prepare {source} out --no-text", 4, before=lambda: (os.mkdir("x"), os.chdir("x"), os.rmdir("../x")))

# --- settings -------------------------------------------------------------------------------------

for assignment, codes in (
    ("epochs=3", 2),
    ("train.epochs", 2),
    ("train.epochs=", 2),
    ("train.epochs=0", 2),
    ("train.epochs=-1", 2),
    ("train.epochs=1e3", 2),
    ("train.epochs=1.0", 2),
    ("train.epochs=true", 2),
    ("train.epochs='1'", 2),
    ("train.epochs=[1]", 2),
    ("train.epochs={a=1}", 2),
    ("train.epochs=2026-01-01", 2),
    ("train.epochs=99999999999999999999", 0),
    ("TRAIN.EPOCHS=1", 2),
    ("train..epochs=1", 2),
    ("=1", 2),
    ("train.learning_rate=nan", 2),
    ("train.learning_rate=inf", 2),
    ("train.learning_rate=0", 2),
    ("train.clip_norm=nan", 2),
    ("train.checkpoint_seconds=inf", 2),
    ("train.seed=9223372036854775808", 2),
    ("train.begin_with=", 0),
    ("model.layers=-1", 2),
    ("model.layers=65", 2),
    ("model.embedding_size=0", 2),
    ("model.embedding_size=1048576", (2, 4)),
    ("model.heads=ratings", 2),
    ("model.dropout=1", 2),
    ("model.dropout=nan", 2),
    ("model.relations=nothere", 2),
    ("model.relations=similar,similar", 2),
    ("model.item_features=nothere", 2),
    ("model.convolution=GCN", 2),
    ("loader.batch_size=0", 2),
    ("loader.batch_size=999999999999999", (0, 2, 4)),
    ("loader.user_fanouts=abc", 2),
    ("loader.user_fanouts=0,0", 2),
    ("loader.unseen_items=1.5", 2),
    ("loader.folds=1", (0, 2)),
    ("ranking.at=0", 2),
    ("derived.nothing=1", 2),
):
    case(f"train: --set {assignment}", f"train {{data}} out {SMALL} --set \"{assignment}\"", codes, leaves=codes != 2)

for name, content, codes in (
    ("no TOML", "epochs = = 3", 3),
    ("UTF-16", "[train]\nepochs=1".encode("utf-16"), 3),
    ("a byte order mark", "\ufeff[train]\nepochs=1\n", (0, 3)),
    ("a section twice", "[train]\nepochs=1\n[train]\npatience=1\n", 3),
    ("a key twice", "[train]\nepochs=1\nepochs=2\n", 3),
    ("an array of tables", "[[train]]\nepochs=1\n", 2),
    ("a key without a section", "epochs=1\n", 2),
    ("an unknown section", "[trane]\nepochs=1\n", 2),
    ("a table for a number", "[train.epochs]\na=1\n", 2),
    ("nested a thousand times", "[train]\nepochs=" + "[" * 1000 + "]" * 1000, (2, 3)),
    ("nothing", "", 0),
):
    case(f"train: a configuration with {name}", f"train {{data}} out --config c.toml {SMALL if codes == 0 else ''}", codes, *(["c.toml"] if codes == 3 else []), files={"c.toml": content}, leaves=codes in (0, (0, 3)))
case("train: a configuration that is missing", "train {data} out --config no.toml", 3, "no.toml")
case("train: a configuration that nobody ships", "train {data} out --config best", 3, "best")
case("train: a configuration that is a folder", "train {data} out --config {data}", 3)
case("train: a variable of no setting", "dglrec train {data} out", 2, "DGLREC_TRAIN_EPOCH", shell=True, environment={"DGLREC_TRAIN_EPOCH": "3"})
case("train: a variable that is no number", "dglrec train {data} out", 2, "train.epochs", shell=True, environment={"DGLREC_TRAIN_EPOCHS": "many"})
case("train: prints its configuration whatever else", "train --print-config --set train.epochs=7", 0, "epochs = 7")
case("train: prints no bad configuration", "train --print-config --set train.epochs=0", 2)

# --- train ----------------------------------------------------------------------------------------

case("train: no data", "train no out", 3, "no")
case("train: data that is a run", "train {run} out", 3)
case("train: data that is a file", "train t.csv out", 3, "t.csv", files={"t.csv": rows()})
case("train: no folder", "train {data}", 2)
case("train: into its data set", "train {data} {data}", 2)
case("train: into its data set, over", "train {data} {data} --overwrite", 2)
case("train: a run that is there", "train {data} {run}", 2, "--overwrite")
case("train: over other files", "train {data} mine --overwrite", 2, files={"mine/letter": "dear"})
case("train: resumes nothing", "train {data} no --resume", 3, "no")
case("train: resumes and replaces", "train {data} {run} --resume --overwrite", 2)
case("train: resumes with another width", "train {data} {run} --resume --set model.embedding_size=8", 2, "embedding_size")
case("train: resumes on other data", "train {other} {run} --resume", 3)
case("train: resumes as a refit", "train {data} {run} --resume --refit all", 2, "refit")
case("train: refits nothing known", "train {data} out --refit test", 2)
case("train: refits without validation", "train {unvalidated} out --refit all --set train.epochs=1", 2, "validation")
case("train: refits until an epoch", f"train {{data}} out --refit all --set train.stop_after=1 {SMALL}", 2, "stop_after")
case("train: no epochs where nothing chooses them", "train {unvalidated} out", 2, "train.epochs")
case("train: begins with nothing", "train {data} out --from no", 3, "no")
case("train: begins with itself", "train {data} out --from out", (2, 3), "out")
case("train: begins with a baseline", f"train {{data}} out --from {{knn}} {SMALL}", 2, "item_knn")
case("train: begins with a data set", "train {data} out --from {data}", 3)
case("train: begins with another architecture", "train {data} out --from {run} --set model.embedding_size=8", 2, "embedding_size")
case("train: ratings of clicks", "train {clickdata} out --set model.heads=rating", 2, "interactions")
case("train: a device that is not there", "train {data} out --device cuda:7", (2, 4))
case("train: a device of no kind", "train {data} out --device gpu", 2)
case("train: an empty device", 'train {data} out --device ""', 2)
case("train: a time that is none", "train {data} out --timeout soon", 2)
case("train: DGL's loader for lists", "train {data} out --set loader.kind=neighbor --set model.heads=both", 2, "heads")
case("train: times that there are none of", "train {data} out --set model.time_decay=true", 2, "timestamps")
case("train: sessions without times", "train {data} out --config session", (2, 3))
case("train: one of two processes alone", "dglrec train {data} out", 2, "torchrun", shell=True, environment={"WORLD_SIZE": "2"})
case("train: twice at once", f"dglrec train {{data}} out {SMALL} & dglrec train {{data}} out {SMALL}; a=$?; wait $!; echo $a $? >codes; grep -Eq '^(0 2|2 0)$' codes", 0, shell=True, leaves=True)

# --- evaluate -------------------------------------------------------------------------------------

for options, codes in (
    ("--ranking 0", 2),
    ("--ranking=-1", 2),
    ("--ranking abc", 2),
    ("--ranking 5,,10", 2),
    ("--ranking 3.5", 2),
    ("--ranking 99999999999999999999", 2),
    ("--ranking 31", 2),
    ("--candidates 0 --ranking 5", 2),
    ("--candidates 99999999 --ranking 5", 2),
    ("--candidates 5", 2),
    ("--given 0", 2),
    ("--given 3", (2, 3)),
    ("--split all", 2),
    ("--relevant-from nan --ranking 5", 2),
    ("--relevant-from 99 --ranking 5", 2),
    ("--relevant-from 7", 2),
    ("--seed 3", 2),
    ("--history all", 2),
    ("--split valid --history valid", 2),
    ("--diverse genres", 2),
    ("--diversity 0.5", 2),
    ("--diverse genres --diversity 2 --ranking 5", 2),
    ("--diverse genres --diversity nan --ranking 5", 2),
    ("--diverse colours --ranking 5", 2),
    ("--dataset no", 3),
    ("--dataset {other}", 3),
    ("--order stars", 2),
    ("--jsn", 2),
):
    case(f"evaluate: {options}", f"evaluate {{run}} {options}", codes)
case("evaluate: a name too long", f"evaluate {'x' * 300}", 2)
case("recommend: a file's name too long", f"recommend {{run}} --ratings {'x' * 300}", 2)
case("train: a run's name too long", f"train {{data}} {'x' * 300}", 2)
case("evaluate: no run", "evaluate no", 3, "no")
case("evaluate: a data set", "evaluate {data}", 3, "data")
case("evaluate: scores", "evaluate {scores}", 3)
case("evaluate: a file", "evaluate t.csv", 3, files={"t.csv": ""})
case("evaluate: an empty name", 'evaluate ""', 3)
case("evaluate: what was learned from", "evaluate {final}", 2, "learned from test")
case("evaluate: a baseline with another history", "evaluate {knn} --history valid", 2, "item_knn")

# --- recommend ------------------------------------------------------------------------------------

for user, codes in (
    ("999999", (2, 3)), ("nan", (2, 3)), ("''", (2, 3)), ("042", (2, 3)), ("0x1", (2, 3)), ("1e0", (2, 3)),
    ("' 1'", (0, 3)), ("$'1\\n'", (0, 3)), ("５", (2, 3)), ("True", (2, 3)), ("1.0", (2, 3)), ("+1", (2, 3)),
    ("99999999999999999999999", (2, 3)),
):
    case(f"recommend: user {user}", f"recommend {{run}} --user {user}", codes)
for options, codes in (
    ("", 2),
    ("--user 1 -k 0", 2),
    ("--user 1 -k=-3", 2),
    ("--user 1 -k 3.5", 2),
    ("--user 1 -k 99999999999999999999", (0, 2)),
    ("--user 1 --known perhaps", 2),
    ("--user 1 --history none", 2),
    ("--user 1 --diversity 0.3", 2),
    ("--user 1 --diverse genres --diversity=-1", 2),
    ("--ratings no.csv", 3),
    ("--ratings empty.csv", 3),
    ("--ratings header.csv", (0, 3)),
    ("--ratings high.csv", 3),
    ("--ratings strange.csv", (0, 3)),
    ("--ratings zeros.csv", 3),
    ("--user-table header.csv", (2, 3)),
):
    case(f"recommend: {options}", f"recommend {{run}} {options}", codes, files={
        "empty.csv": "", "header.csv": "item_id,rating\n", "high.csv": "item_id,rating\n1,99\n",
        "strange.csv": "item_id,rating\n123456,5\n", "zeros.csv": "item_id,rating\n01,5\n"})
case("recommend: a text user of numbers", "recommend {textrun} --user 1", (2, 3))
case("recommend: a text user", "recommend {textrun} --user ü1", 0)
case("recommend: reasons of a baseline", "recommend {popular} --user 1 --explain", 2)
case("recommend: a history of a baseline", "recommend {popular} --user 1 --history all", 2)
case("recommend: unlike items of a baseline", "recommend {popular} --user 1 --diverse genres", 2)
case("recommend: a user of no text", "recommend {textrun} --user $'\\xff'", 3)

# --- score and export -----------------------------------------------------------------------------

FILES = {
    "u.csv": "user_id\n1\n999999\n", "none.csv": "user_id\n", "i.csv": "item_id\n999999\n",
    "p.csv": "user_id,item_id\n1,2\n1,999999\n", "q.csv": "a,b\n1,2\n", "z.csv": "user_id,item_id\n01,2\n",
    "known.csv": "user_id,item_id,rating\n1,2,5\n", "items.csv": "item_id,genres\n1,Action\n",
    "bad.csv": "genres\nAction\n", "mine/letter": "dear", "file": "",
}
for options, codes in (
    ("out", 2),
    ("out --top-k 3 --pairs p.csv", 2),
    ("out --top-k 0", 2),
    ("out --top-k=-1", 2),
    ("out --top-k 31", 2),
    ("out --top-k many", 2),
    ("out --top-k 3 --shard 1/1", 2),
    ("out --top-k 3 --shard 0/0", 2),
    ("out --top-k 3 --shard a/b", 2),
    ("out --top-k 3 --shard=-1/2", 2),
    ("out --top-k 3 --shard 1", 2),
    ("out --top-k 3 --shard 0/1/2", 2),
    ("out --top-k 3 --users u.csv", 3),
    ("out --top-k 3 --users u.csv --unknown null", 2),
    ("out --top-k 3 --items i.csv", 3),
    ("out --top-k 3 --items i.csv --unknown skip", 3),
    ("out --pairs q.csv", 3),
    ("out --pairs z.csv", 3),
    ("out --pairs no.csv", 3),
    ("out --pairs /dev/null", 3),
    ("out --pairs p.csv --explain", 2),
    ("out --pairs p.csv --diverse genres", 2),
    ("out --top-k 3 --ratings known.csv", 3),
    ("out --top-k 3 --ratings known.csv --known maybe", 2),
    ("out --top-k 3 --new-items items.csv", 0),
    ("out --top-k 3 --new-items bad.csv", 3),
    ("out --top-k 3 --overwrite --shard 0/2", 2),
    ("{data} --top-k 3", 2),
    ("{run} --top-k 3", 2),
    ("mine --top-k 3 --overwrite", 2),
    ("file --top-k 3", 2),
    ("file/out --top-k 3", 2),
    ("{scores} --top-k 4", 2),
    ('"" --top-k 3', 2),
):
    case(f"score: {options}", f"score {{run}} {options}", codes, files=FILES, leaves=codes == 0)
case("score: unknown pairs, after which the same command with --unknown goes on", "score {run} out --pairs p.csv", 3, "p.csv", files=FILES, leaves=True)
for options in (
    "out --top-k 3 --users none.csv",
    "out --top-k 3 --users u.csv --unknown skip",
    "out --pairs p.csv --unknown null",
    "out --top-k 3 --ratings known.csv --known extend --history all",
    "'a b/c\n/東' --top-k 3 --diverse genres",
    "{scores} --top-k 3",
):
    case(f"score: {options}", f"score {{run}} {options} --json", 0, files=FILES, leaves=True)
case("score: pairs by a pipe", "dglrec score {run} out --pairs <(cat p.csv) --unknown skip", 3, shell=True, files=FILES, leaves=True)
case("score: reasons of a baseline", "score {popular} out --top-k 3 --explain", 2)
case("score: twice at once", "dglrec score {run} out --top-k 3 & dglrec score {run} out --top-k 3; a=$?; wait $!; echo $a $? >codes; grep -Eq '^(0 0|0 2|2 0)$' codes", 0, shell=True, leaves=True)
for options, codes in (
    ("out", 2),
    ("out --top-k 0", 2),
    ("out --top-k 3 --items i.csv", 3),
    ("out --top-k 3 --items i.csv --unknown skip", 3),
    ("out --top-k 3 --items none.csv", 3),
    ("out --top-k 3 --items q.csv", 3),
    ("items.csv --top-k 3 --overwrite", 2),
    ("{run} --top-k 3 --overwrite", 2),
    ("file/out --top-k 3", 2),
):
    case(f"similar: {options}", f"similar {{run}} {options}", codes, files=FILES)
case("similar: a baseline", "similar {knn} out --top-k 3", 2, "item_knn")
case("export: a baseline", "export {knn} out", 2, "item_knn")
case("export: a folder that is there", "export {run} {exported}", 2)
case("export: over other files", "export {run} mine --overwrite", 2, files=FILES)
case("export: all that is known", "export {run} out --history all", 0, leaves=True)

# --- compare, study, doctor, synth, quickstart ----------------------------------------------------

for options, codes in (
    ("", 2), ("{run}", 2), ("{run} {run}", 2), ("{run} no", 3), ("a= {run}", 2), ("a={run},no {knn}", 3),
    ("{run} {knn} --bootstrap 0", 2), ("{run} {knn} --bootstrap=-5", 2), ("{run} {knn} --level 2", 2),
    ("{run} {knn} --level nan", 2), ("{run} {knn} --ranking 0", 2), ("{run} {knn} --split train", 2),
    ("{run} {textrun}", (2, 3)), ("{final} {run}", 2), ("{run} {knn} --relevant-from 7", 2),
):
    case(f"compare: {options}", f"compare {options}", codes)
for options, codes in (
    ("", 2), ("nothing {data} out", (2, 3)), ("ablation no out", 3), ("ablation {data} out --only nothing", 2),
    ("ablation {data} out --seeds a", 2), ("ablation {data} out --seeds=-1", 2), ("ablation {data} out --ranking 0", 2),
    ("ablation {data} {run}", 2), ("ablation --list", 0),
):
    case(f"study: {options}", f"study {options}", codes)
for options, codes in (("no", 3), ("t.csv", 3), ("{source}", 3), ("{run}", 0), ("{scores} --json", 0), ('""', 3)):
    case(f"doctor: {options}", f"doctor {options}", codes, files={"t.csv": ""})
for options, codes in (
    ("--users 0", 2), ("--items 1", (0, 2)), ("--ratings 0", 2), ("--users=-5", 2), ("--ratings 99999999999999", 2),
    ("--homophily 2 --trust 10", 2), ("--homophily 0.5", 2), ("--trust=-1", 2), ("--drift nan --timestamps", 2),
    ("--seed 9223372036854775808", 2), ("--transitions 0.5", 2), ("--users many", 2),
):
    case(f"synth: {options}", f"synth out {options}", codes)
case("quickstart: into a file", "quickstart file", 2, files=FILES)

# --- every verb -----------------------------------------------------------------------------------

case("no verb", "", 2, leaves=True)
case("no such verb", "trane {data} out", 2)
case("a verb in capitals", "TRAIN {data} out", 2)
case("an empty verb", '""', 2)
case("an option that is a flag with a value", "--quiet=1 doctor {run}", 2)
case("a log file in a folder that is not there", "doctor {run} --log-file no/log", 2, "--log-file")
case("a log file that is a folder", "doctor {run} --log-file {run}", 2, "--log-file")
case("a log format of no kind", "doctor {run} --log-format xml", 2, "--log-format")
case("a log file without a name", "doctor {run} --log-file", 2, "--log-file")
case("an argument of a megabyte", f"recommend {{run}} --user {'9' * 100_000}", (2, 3))
case("stdout that is closed", "dglrec evaluate {run} --json >&-", 1, "stdout", shell=True)
case("stdout that is full", "dglrec evaluate {run} --json >/dev/full", 1, "stdout", shell=True)
case("stderr that is closed", "dglrec evaluate {run} --json 2>&-", 0, shell=True)
case("stdin that is closed", "dglrec evaluate {run} --json <&-", 0, shell=True)
case("a reader that goes away", "dglrec evaluate {run} --details | true", (0, 1), shell=True)
case("a terminal of ASCII", "dglrec recommend {textrun} --user ü1", 0, shell=True, environment={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
case("a name in ASCII's locale", "dglrec doctor ü", 3, shell=True, environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
case("a home that is not there", "dglrec recommend {run} --user 1", 0, shell=True, environment={"HOME": "/no/home"})
case("torchrun around one process", "torchrun --nproc-per-node 1 --standalone -m dglrec recommend {run} --user 1", 0, shell=True)
case("torchrun around what is for one", "torchrun --nproc-per-node 2 --standalone -m dglrec prepare {source} out", (1, 2), "not shared", shell=True)
