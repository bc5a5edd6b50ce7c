"""Imports point down: scripts -> reproduction -> integrations -> method. The graph is read from the sources."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

from reproduction.config import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
# What math-verify brings.
BROUGHT = {"latex2sympy2_extended", "mpmath", "sympy"}
LAYERS = ("method", "integrations", "reproduction", "entry points")
# The rooms of scripts/reproduction: each imports those before it. A loose module is a room of its own.
ROOMS = (
    *(
        "files",
        "progress",
        "fields",
        "tasks",
        "algorithms",
        "config",
        "layout",
        "versions",
        "cluster",
        "data",
    ),
    *(
        "models",
        "sampling",
        "evaluation",
        "training",
        "engines",
        "figures",
        "claims",
        "report",
        "tracking",
        "configuration_page",
    ),
    *("plan", "rehearsal", "budget"),
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "ead":
        return "reproduction" if parts[0] == "reproduction" else "entry points"
    return "integrations" if parts[1:2] == ["integrations"] else "method"


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its head or within a function; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


MODULES = {module_name(path): path for path in SCRIPTS.rglob("*.py")}
GRAPH = {name: (imported(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}


def test_the_graph_is_the_projects():
    assert {layer(name) for name in MODULES} == set(LAYERS)
    assert "ead.schedule" in GRAPH["reproduction.config.methods"] and len(MODULES) > 80


def test_no_import_points_up():
    upward = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if LAYERS.index(layer(other)) > LAYERS.index(layer(name))
    ]
    assert not upward, upward


def room(module: str) -> str:
    return module.split(".")[1]


def test_each_room_imports_only_rooms_before_it():
    rooms = {name: others for name, others in GRAPH.items() if name.startswith("reproduction.")}
    assert {room(name) for name in rooms} == set(ROOMS)
    backward = [
        f"{name} imports {other}"
        for name, others in rooms.items()
        for other in others
        if other.startswith("reproduction.") and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not backward, backward


def test_few_modules_stand_outside_the_rooms():
    loose = sorted(
        path.name for path in (SCRIPTS / "reproduction").glob("*.py") if path.name != "__init__.py"
    )
    assert len(loose) <= 8, loose


def test_no_entry_point_imports_another():
    between = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if layer(name) == "entry points" == layer(other) and name.split(".")[0] != other.split(".")[0]
    ]
    assert not between, between


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in GRAPH[name]:
                if not name.startswith(f"{other}."):  # a module's own package is loaded before it
                    visit(other, (*above, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())


def test_the_method_needs_only_what_its_package_asks_for():
    """The package's requirements; the verifier, a part of it, also those of its extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = names(project["dependencies"])
    verifier = names(project["optional-dependencies"]["verifier"]) | BROUGHT
    for name, path in MODULES.items():
        if layer(name) == "method":
            packages = {other.split(".")[0] for other in imported(path)}
            foreign = packages - sys.stdlib_module_names - {"ead"}
            allowed = required | verifier if name.startswith("ead.verifier") else required
            assert foreign <= allowed, f"{name}: {foreign - allowed}"


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in requirements}


def loaded_by(code: str) -> set[str]:
    """Return the modules that a Python has loaded after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_a_plan_loads_nothing_that_computes_or_draws():
    """Every start of Snakemake plans: torch takes two seconds of a processor to import, matplotlib half a second."""
    lines = [line for file in sorted((REPOSITORY / "workflow").rglob("*.smk")) for line in file.open()]
    modules = sorted(
        {line.split()[1] for line in lines if line.startswith(("from reproduction", "import repr"))}
    )
    assert "reproduction.plan" in modules
    found = loaded_by(f"import {', '.join(modules)}") & {
        "torch",
        "matplotlib",
        "scipy",
        "transformers",
        "mlflow",
    }
    assert not found, f"{found}: loaded where the workflow is planned; import them where they compute or draw"


def test_a_training_and_an_evaluation_load_no_more_than_they_use():
    """Hundreds of them take seconds each; torch's compiler alone, which its own AdamW loads, takes another second."""
    code = """
import torch, train, evaluate
from reproduction import figures
from reproduction.engines import inprocess
weight = torch.nn.Parameter(torch.ones(1))
weight.sum().backward()
inprocess.AdamW([weight], betas=(0.9, 0.99), weight_decay=0.0).step(0.1)
assert weight < 1
"""
    unused = {
        "torch._dynamo",
        "sympy",
        "matplotlib",
        "scipy",
        "transformers",
        "mlflow",
        "snakemake",
        "math_verify",
    }
    assert not loaded_by(code) & unused


def test_the_process_beside_a_training_waits_with_the_standard_library_alone():
    head = ast.parse((SCRIPTS / "reproduction" / "tracking" / "follower.py").read_text(encoding="utf-8")).body
    modules = {alias.name for node in head if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module.split(".")[0] for node in head if isinstance(node, ast.ImportFrom)}
    assert "json" in modules and modules <= sys.stdlib_module_names


def test_no_function_is_longer_than_eighty_lines():
    """Docstring, signature and functions within it included."""
    found = [
        f"{path.relative_to(SCRIPTS)}:{node.lineno} {node.name}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno - node.lineno + 1 > 80
    ]
    assert not found, found


def test_a_class_has_a_name_of_its_own():
    """Beside what each task, engine or host names alike because it is the same there."""
    alike = {"Question", "Trainer"}
    modules: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        if layer(name) != "integrations" and not name.startswith("ead.verifier"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    modules.setdefault(node.name, []).append(name)
    shared = {name: where for name, where in modules.items() if len(where) > 1}
    assert shared.keys() <= alike, {name: where for name, where in shared.items() if name not in alike}


def test_what_others_take_from_the_project_is_there():
    """Tests that run rarely, benchmarks and examples name things of the project; a renamed one is found here."""
    missing = []
    for folder in ("tests", "benchmarks", "examples", "scripts"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            modules = {}  # name in this file -> file of the module that it stands for
            for node in ast.walk(tree):
                if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                    continue
                for alias in node.names:
                    whole = module_file(f"{node.module}.{alias.name}")
                    source = module_file(node.module)
                    if whole:
                        modules[alias.asname or alias.name] = whole
                    elif source and alias.name not in defined_in(source):
                        missing.append(f"{path.relative_to(REPOSITORY)}: {node.module}.{alias.name}")
            stored = {
                node.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    source = modules.get(node.value.id) if node.value.id not in stored else None
                    if source and node.attr not in defined_in(source) and not node.attr.startswith("__"):
                        missing.append(f"{path.relative_to(REPOSITORY)}: {node.value.id}.{node.attr}")
    assert not missing


def module_file(name: str) -> Path | None:
    """Return the file of a module of the project; None for what is none."""
    if name.split(".")[0] not in ("ead", "reproduction"):
        return None
    path = SCRIPTS.joinpath(*name.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@cache
def defined_in(file: Path) -> set[str]:
    """Return the names that a module's file gives anywhere, and, of a package, its modules."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.TypeAlias if hasattr(ast, "TypeAlias") else ()):
            names.add(node.name.id)
    if file.name == "__init__.py":
        names |= {each.stem for each in file.parent.iterdir()}
    return names
