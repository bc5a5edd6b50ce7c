"""The pages: links lead somewhere, commands are commands, paths and names exist, quoted messages are the code's.

tests/integration/test_commands.py has Snakemake plan every command.
"""

import ast
import importlib.util
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from pages import EXTEND, TUTORIAL, additions, blocks, commands, extensions, pages
from reproduction.cluster.resources import RULES
from reproduction.config import REPOSITORY, WORKFLOW, merge
from reproduction.config.command_line import read_command_line, selected, take_request
from reproduction.plan import SO_FAR, Plan, read_plan

PAGES = pages()
NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]
TROUBLE = REPOSITORY / "docs" / "troubleshooting.md"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_that_a_reader_is_sent_to_is_found():
    assert {"README.md", "docs/extend.md", "docs/running.md", "docs/troubleshooting.md"} <= set(NAMES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_within_the_project_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme():
    ahead, reached = [REPOSITORY / "README.md"], set()
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", prose(page)):
            linked = (page.parent / target).resolve()
            linked = linked / "README.md" if linked.is_dir() else linked
            if linked.suffix == ".md" and linked.is_file():
                ahead.append(linked)
    assert {path.resolve() for path in PAGES} - reached == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_and_module_that_a_page_names_exists(page):
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if re.fullmatch(r"(docs|scripts|tests|workflow|examples|envs|benchmarks)/[\w./-]+", code):
            assert (REPOSITORY / code).exists(), f"{page.name}: {code}"
        if re.fullmatch(r"(ead|reproduction)(\.\w+)+", code):
            assert exists(code), f"{page.name}: {code}"


def exists(dotted: str) -> bool:
    """Whether a module, or a name in one, is defined; nothing of vLLM or verl is imported for that."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = REPOSITORY / "scripts" / Path(*parts[:length])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if source.is_file():
            name = parts[length : length + 1]
            return not name or bool(
                re.search(rf"^(def|class) {name[0]}\b|\b{name[0]}\b", source.read_text(), re.M)
            )
    return False


# --- commands ----------------------------------------------------------------------------------------------


@cache
def make_targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text()
    return {
        name
        for names in re.findall(r"^([\w./ -]+):(?!=)", text, flags=re.MULTILINE)
        for name in names.split()
    }


def test_every_make_target_that_a_page_names_exists():
    for page in PAGES:
        for words in commands(page):
            if words[0] == "make":
                assert set(words[1:]) <= make_targets(), f"{page.name}: {words}"
        for target in re.findall(r"`make ([\w./-]+)`", page.read_text(encoding="utf-8")):
            assert target in make_targets(), f"{page.name}: make {target}"


def test_every_script_that_a_page_runs_has_the_options_it_is_given():
    found = 0
    for page in PAGES:
        for words in commands(page):
            if words[0] == "python" and words[1].endswith(".py"):
                source = (REPOSITORY / words[1]).read_text(encoding="utf-8")
                for option in words[2:]:
                    assert not option.startswith("--") or f'"{option}"' in source, f"{page.name}: {option}"
                found += 1
    assert found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_works_as_it_stands(page):
    """The page has activated the environment before, and Snakemake is told how many cores it may use."""
    activated = False
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            activated |= line.strip() == ". .venv/bin/activate"
            assert activated or not line.startswith("python scripts/"), f"{page.name}: {line}"
            for command in re.findall(r"(?:^|&& )((?:[\w./]*/)?snakemake\s.*?)(?=&&|$)", line.strip()):
                assert activated or command.startswith(".venv/bin/"), f"{page.name}: {command}"
                asked = ("--cores", "--profile", "--unlock", "--list-target-rules")
                assert any(option in command.split() for option in asked), f"{page.name}: {command}"


def snakemake_commands() -> list[tuple[str, list[str]]]:
    return [(page.name, words[1:]) for page in PAGES for words in commands(page) if words[0] == "snakemake"]


def test_every_snakemake_command_names_targets_and_choices_that_exist(tables, tmp_path, monkeypatch):
    """As the Snakefile reads them; what docs/extend.md and docs/tutorial.md add is there."""
    from snakemake.cli import get_argument_parser, parse_config

    for table in ("samplers", "experiments", "models", "datasets"):
        tables.add(table)
    for table, entry in extensions(TUTORIAL).items():
        tables.add(table, entry)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    parser = get_argument_parser()
    edited = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    plans: dict[str, Plan] = {}  # by choices: most commands share theirs
    seen = 0
    for page, words in snakemake_commands():
        where = f"{page}: snakemake {' '.join(words)}"
        arguments = parser.parse_args(words)
        given = read_command_line(parse_config(arguments.config))
        for profile in arguments.profile or []:
            assert (REPOSITORY / profile / "config.yaml").is_file(), where
            given = {**yaml.safe_load((REPOSITORY / profile / "workflow.yaml").read_text()), **given}
        values = merge(edited, given)
        request = take_request(values)
        key = json.dumps(values, sort_keys=True)
        plan = plans[key] = plans.get(key) or read_plan(merge(edited, given), workflow=tables.folder)
        if "runs" in arguments.targets:
            assert selected(plan.runs, request.select), where
        for target in [*arguments.targets, *request.targets]:
            if target.startswith("results/"):
                assert is_result(target, plan), where
            else:
                known = {*RULES} | set(plan.experiments) | set(plan.figures_in_parts) | of_new_kinds()
                assert target.removesuffix(SO_FAR) in known, where
        for rule in arguments.until:
            assert rule in RULES, where
        seen += 1
    assert seen > 30


@cache
def of_new_kinds() -> set[str]:
    """Figures whose kind is code of the page; tests/integration/test_extension_plans.py draws them."""
    added = [yaml.safe_load(text) for path, text in additions(EXTEND) if path == "workflow/experiments.yaml"]
    return {name for entries in added for name in entries}


def is_result(target: str, plan: Plan) -> bool:
    """Whether a file is the manifest of a run or a model, a prepared data set, or a comparison of two."""
    if "/models/" in target:
        return target.partition("/models/")[2].removesuffix("/manifest.json") in plan.scale.models
    if "/runs/" in target:
        return target.partition("/runs/")[2].removesuffix("/manifest.json") in plan.runs
    return set(Path(target).stem.split("~")) <= set(plan.datasets)


# --- code and messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_of_a_page_compiles_and_its_imports_resolve(page):
    for block in blocks(page, "python"):
        assert_imports_resolve(block, str(page))


@pytest.mark.parametrize("example", sorted(REPOSITORY.glob("examples/*.py")), ids=lambda path: path.name)
def test_an_example_compiles_and_its_imports_resolve(example):
    assert_imports_resolve(example.read_text(encoding="utf-8"), str(example))


def assert_imports_resolve(source: str, name: str):
    """Names of this project are there; other packages where they are installed."""
    tree = ast.parse(source, name)
    compile(tree, name, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "ead":
            for alias in node.names:
                assert exists(f"{node.module}.{alias.name}"), f"{name}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if importlib.util.find_spec(alias.name.split(".")[0]):
                    assert importlib.util.find_spec(alias.name), f"{name}: {alias.name}"


@cache
def messages() -> str:
    """Every text of the code, one a line, with … where a value is filled in; adjacent texts are joined."""
    lines = []
    for path in REPOSITORY.glob("scripts/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value.replace("\n", " "))
            elif isinstance(node, ast.JoinedStr):
                lines.append("".join(map(filled_in, node.values)).replace("\n", " "))
    for path in REPOSITORY.glob("workflow/rules/*.smk"):
        for text in re.findall(r'"([^"\n]+)"', path.read_text()):
            lines.append(re.sub(r"\{[^}]*\}", "…", re.sub(r"\{[^}]*!r\}", "'…'", text)))
    return "\n".join(lines)


def filled_in(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return part.value
    return "'…'" if part.conversion == ord("r") else "…"


# Not the project's own, and whose they are.
OTHERS = {
    "Input should be …": "pydantic",
    "Directory cannot be locked": "snakemake/exceptions.py",
    "Available memory on node … is less than desired CPU memory utilization": "vLLM's CPU worker",
    "No package metadata was found for vllm": "importlib.metadata, from vLLM's command",
}


def test_every_quoted_message_is_one_that_the_code_raises():
    quoted = re.findall(r"\*\*`+(.+?)`+\*\*", TROUBLE.read_text(encoding="utf-8"))
    assert len(quoted) > 25
    for message in quoted:
        if message in OTHERS:
            continue
        parts = [re.escape(part) for part in message.split("…")]
        # A value may be filled in between quotes, and may itself be a choice of words.
        pattern = ".*?".join(parts)
        assert re.search(pattern, messages()), message


def test_snakemake_still_says_what_the_page_quotes():
    source = Path(importlib.util.find_spec("snakemake.exceptions").origin).read_text()
    assert "Directory cannot be locked" in source


def test_citation_changelog_and_package_name_one_version():
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "references"} <= set(citation)
    assert citation["version"] == version
    released = re.findall(r"^## (\d\S*)", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert released[0] == version


def test_the_workflow_is_as_the_snakemake_catalogue_wants_it():
    """github.com/snakemake/snakemake-workflow-catalog: its README and scripts/generate-catalog.py."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme
    assert (WORKFLOW / "Snakefile").is_file() and list(WORKFLOW.glob("rules/*.smk"))
    assert (REPOSITORY / "config" / "README.md").is_file()
    usage = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))[
        "usage"
    ]
    assert set(usage) <= {"mandatory-flags", "software-stack-deployment", "report"}
    assert any(usage["software-stack-deployment"].values())
    assert 'include: "workflow/Snakefile"' in (REPOSITORY / "Snakefile").read_text(encoding="utf-8")
