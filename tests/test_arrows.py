"""The arrows of the house point inward, and opening a door does nothing."""

import ast
import builtins
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "eval", "feedback", "training")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MAY_IMPORT = {
    "app": {"app", "eval", "feedback", "training"},
    "eval": {"eval", "feedback"},
    "feedback": {"feedback"},
    "training": {"training", "feedback"},
}
ONLY_IN = {
    "duckdb": ("feedback/store.py", "feedback/schema.py"),
    "gradio": ("app/",),
    "torch": ("training/", "app/engine.py", "app/decoding.py"),
    "transformers": ("training/", "app/engine.py", "app/decoding.py"),
}


def name_of(file: Path) -> str:
    """The path in the repository, with forward slashes."""
    return file.relative_to(ROOT).as_posix()


def imports(file: Path) -> set[str]:
    """The top-level names of all that a file imports, wherever in the file, also by name at run time."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}:{node.lineno} imports relatively"
            found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found.add(ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else "")
    return {module.split(".")[0] for module in found}


def run_when_imported(tree: ast.AST) -> list[ast.AST]:
    """The nodes that an import runs: everything outside function bodies."""
    nodes = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        nodes += [child, *run_when_imported(child)]
    return nodes


def test_there_is_something_to_look_at():
    """The packages are where this test looks."""
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_arrows_point_inward(file):
    """app composes; training and eval never meet; feedback imports nothing of ours."""
    package = file.relative_to(ROOT).parts[0]
    assert imports(file) & {*PACKAGES, "tests"} <= MAY_IMPORT[package]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_library_stays_in_its_room(file):
    """SQL, pages and models are each spoken in one place only."""
    for library, rooms in ONLY_IN.items():
        if library in imports(file):
            assert name_of(file).startswith(rooms), library


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_module_takes_anothers_name(file):
    """No module is called like a builtin, the standard library or a dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    dependencies = {re.match(r"[\w.-]+", entry)[0].lower().replace("-", "_") for entry in wanted}
    taken = (
        sys.stdlib_module_names | set(dir(builtins)) | dependencies | {"numpy", "fastapi", "uvicorn", "peft"}
    )
    inside = {part.removesuffix(".py") for part in file.relative_to(ROOT).parts[1:]}
    assert not (inside - {"__init__", "__main__"}) & taken


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_importing_reads_no_environment(file):
    """The environment is read at the edge, by whoever starts, never by an import."""
    for node in run_when_imported(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call | ast.Subscript | ast.Compare):
            assert not re.search(r"\b(environ|getenv|environb)\b", ast.unparse(node)), ast.unparse(node)


@pytest.mark.parametrize("package", ["feedback", "eval"])
def test_pure_rooms_load_no_heavy_library(package):
    """Importing all of feedback, or of eval, brings neither models nor pages, and starts no thread."""
    modules = [
        name_of(file).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for file in FILES
        if file.relative_to(ROOT).parts[:1] == (package,) and "metrics" not in file.parts
    ]
    program = (
        "import importlib, sys, threading\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'trl', 'gradio', 'fastapi'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert threading.active_count() == 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
