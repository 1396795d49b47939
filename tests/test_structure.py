"""The rules that hold across modules: who may import whom, and what nobody may call."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dglrec"

# A module imports only from modules above it.
ORDER = [
    *("errors", "places", "files", "interrupts", "progress", "machine", "kernels"),
    *(
        "schema",
        "registry",
        "ids",
        "synthetic",
        "ingest",
        "features",
        "split",
        "relations",
        "graph",
        "biases",
        "blocks",
        "derived",
        "dataset",
    ),
    *("distributed", "sampling", "nn", "metrics", "checkpoint", "trackers"),
    *(
        "infer",
        "baselines",
        "run",
        "evaluate",
        "compare",
        "train",
        "score",
        "export",
        "config",
        "api",
        "study",
        "tune",
        "report",
        "doctor",
        "verify",
        "quickstart",
        "cli",
        "__main__",
    ),
]

# These serve everyone, and know nothing of ratings.
LEAVES = {"distributed", "checkpoint", "trackers"}
LEAF_IMPORTS = {"errors", "files", "progress"}

WITHOUT_TESTS = {"__main__", "errors"}

# They import DGL within a function. Others ask `graph.import_dgl`, which says what to do without.
MAY_IMPORT_DGL = {"graph", "doctor"}
MAY_PRINT = {"cli", "doctor", "progress"}
CODE_RUNNERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """The module that a file belongs to; a folder counts as one."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(source: str, path: Path) -> set[str]:
    """The modules of dglrec that a file imports; '' stands for the package itself."""
    package = ("dglrec", *path.relative_to(PACKAGE).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            start = ".".join((*base, *([node.module] if node.module else [])))
            # `from dglrec import schema` names a module; `from dglrec.schema import USER` does not.
            names = (
                [f"{start}.{alias.name}" for alias in node.names] if start == "dglrec" else [start]
            )
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "dglrec":
                found.add(rest[0] if rest and rest[0] != "__version__" else "")
    return found


def forbidden_imports(source: str, path: Path) -> list[str]:
    module = module_of(path)
    allowed = LEAF_IMPORTS if module in LEAVES else set(ORDER[: ORDER.index(module)])
    return sorted(imported_modules(source, path) - allowed - {module, ""})


def dangers(source: str) -> list[str]:
    """What in a file could run code out of a data file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            bad = [alias.name for alias in node.names if alias.name.split(".")[0] in CODE_RUNNERS]
        elif isinstance(node, ast.ImportFrom):
            start = (node.module or "").split(".")[0]
            names = {alias.name for alias in node.names}
            bad = [start] if start in CODE_RUNNERS else []
            bad += ["torch.load by another name"] if start == "torch" and "load" in names else []
            bad += ["yaml.load by another name"] if start == "yaml" and "load" in names else []
        elif isinstance(node, ast.Call):
            bad = dangers_of_call(node)
        else:
            continue
        found += [f"line {node.lineno}: {name}" for name in bad]
    return found


def dangers_of_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    bad = []
    if name in {"eval", "exec", "builtins.eval", "builtins.exec", "__import__"}:
        bad.append(name)
    if name == "torch.load" and keywords.get("weights_only") != "True":
        bad.append("torch.load without weights_only=True")
    if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}:
        bad.append(name)
    if keywords.get("allow_pickle", "False") != "False":
        bad.append("allow_pickle")
    if isinstance(call.func, ast.Attribute) and call.func.attr in {"read_pickle", "to_pickle"}:
        bad.append(call.func.attr)
    return bad


def imports_of_dgl(source: str) -> list[str]:
    """Where a file imports DGL: "top" or "function"; what only type checkers see is left out."""
    found: list[str] = []

    def visit(node: ast.AST, place: str) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                visit(other, place)
            return
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            absolute = isinstance(node, ast.ImportFrom) and not node.level
            names = [node.module or ""] if absolute and isinstance(node, ast.ImportFrom) else []
        found.extend(place for name in names if name.split(".")[0] == "dgl")
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, "function" if inner else place)

    visit(ast.parse(source), "top")
    return found


def print_calls(source: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_up_the_order(path: Path) -> None:
    assert module_of(path) in ORDER, "give the new module its place in ORDER and in the design"
    assert forbidden_imports(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", [*SOURCES, *BENCHMARKS], ids=name_of)
def test_nothing_can_run_code_out_of_a_file(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_dgl_is_imported_where_it_is_used(path: Path) -> None:
    found = imports_of_dgl(path.read_text(encoding="utf-8"))
    assert found == [] or (module_of(path) in MAY_IMPORT_DGL and set(found) == {"function"})


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if module_of(path) not in MAY_PRINT:
        assert print_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*SOURCES, *BENCHMARKS], ids=name_of)
def test_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", sorted({module_of(path) for path in SOURCES} - WITHOUT_TESTS))
def test_module_has_its_tests(module: str) -> None:
    assert (ROOT / "tests" / f"test_{module}.py").is_file()


def test_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


# The rules themselves, held against planted violations.


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("nn.py", "from dglrec.train import fit", ["train"]),
        ("nn.py", "from dglrec.graph import RatingGraph", []),
        ("nn.py", "from dglrec import config, schema", ["config"]),
        ("nn.py", "import dglrec.score.shards", ["score"]),
        ("nn.py", "from . import cli", ["cli"]),
        ("nn.py", "from .cli import main", ["cli"]),
        ("nn.py", "from dglrec import __version__", []),
        (
            "nn.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dglrec.cli import main",
            ["cli"],
        ),
        ("nn.py", "def f():\n    from dglrec.cli import main", ["cli"]),
        ("nn/sage.py", "from .layers import A\nfrom dglrec.nn.layers import B", []),
        ("nn/sage.py", "from ..train import fit", ["train"]),
        ("nn/sage.py", "from .. import train", ["train"]),
        ("checkpoint.py", "from dglrec.schema import USER", ["schema"]),
        ("checkpoint.py", "from dglrec.distributed import rank", ["distributed"]),
        ("checkpoint.py", "from dglrec.files import atomic_file", []),
    ],
)
def test_import_rule_sees_violations(file: str, source: str, expected: list[str]) -> None:
    assert forbidden_imports(source, PACKAGE / file) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import dumps",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "table.to_pickle(path)",
    ],
)
def test_danger_rule_sees_violations(source: str) -> None:
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import dgl", ["top"]),
        ("import numpy, dgl.nn", ["top"]),
        ("from dgl.dataloading import DataLoader", ["top"]),
        ("class A:\n    import dgl", ["top"]),
        ("try:\n    import dgl\nexcept ImportError:\n    pass", ["top"]),
        ("def f():\n    import dgl", ["function"]),
        ("if TYPE_CHECKING:\n    import dgl", []),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import dgl", ["top"]),
        ("from dglrec import graph\nimport dglrec", []),
        ("from .dgl import x", []),
    ],
)
def test_dgl_rule_sees_violations(source: str, expected: list[str]) -> None:
    assert imports_of_dgl(source) == expected


def test_rules_let_the_harmless_through() -> None:
    assert dangers("model.eval()\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)") == []
    assert dangers("np.load(p, allow_pickle=False)\nre.compile('x')") == []
    assert print_calls("console.print('x')\nlog('y')") == []
    assert print_calls("x = 1\nprint(x)") == [2]
