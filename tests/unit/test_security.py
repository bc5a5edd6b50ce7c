"""What the code never does: run code from files of others, start a shell, or listen beyond this machine."""

import ast
import os
import re
import socket
import sys

import psutil
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from ead.verifier import Verifier
from reproduction.config import REPOSITORY, Name, RelativeFile

sys.path.append(str(REPOSITORY / "scripts"))
import browse_runs  # noqa: E402

SOURCES = [
    path
    for folder in ("scripts", "workflow", "examples", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
RULES = [REPOSITORY / "workflow" / "Snakefile", *sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))]
# They load objects, and so run whatever code a file names.
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "yaml.unsafe_load": "makes any object",
    "yaml.full_load": "makes any object",
    "pd.read_pickle": "unpickles",
    "tempfile.mktemp": "names a file that another may make first",
}
# Each is dangerous with this value of this argument; `torch.load` and `yaml.load` are so without one.
ARGUMENTS = {
    "trust_remote_code": True,
    "allow_pickle": True,
    "shell": True,
    "weights_only": False,
    "use_safetensors": False,
    "verify": False,
}
SAFE_LOADERS = {"_StrictLoader", "yaml.CSafeLoader", "yaml.SafeLoader"}
EVERYWHERE = re.compile(r"\b0\.0\.0\.0\b|^::$|\[::\]")


def offences(source: str) -> list[str]:
    """Return what in ``source`` is forbidden, each with its line."""
    found = []
    tree = ast.parse(source)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names=names):
                # To write one runs nothing: only what SGLang is sent is written so.
                modules = [alias.name for alias in names if alias.name != "pickle" or used != {"dumps"}]
            case ast.ImportFrom(module=module):
                modules = [module or ""]
            case _:
                modules = []
        found += [f"{line}: imports {name}" for name in modules if name.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in CALLS:
                found.append(f"{line}: {name} {CALLS[name]}")
            if name == "torch.load" and ast.unparse(given.get("weights_only", ast.Constant(None))) != "True":
                found.append(f"{line}: torch.load without weights_only=True unpickles")
            if (
                name == "yaml.load"
                and ast.unparse(given.get("Loader", ast.Constant(None))) not in SAFE_LOADERS
            ):
                found.append(f"{line}: yaml.load without a safe loader makes any object")
            for argument, value in given.items():
                if argument in ARGUMENTS and ast.unparse(value) == str(ARGUMENTS[argument]):
                    found.append(f"{line}: {argument}={ARGUMENTS[argument]}")
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                text = key.value if isinstance(key, ast.Constant) else None
                if text in ARGUMENTS and ast.unparse(value) == str(ARGUMENTS[text]):
                    found.append(f"{line}: {text}: {ARGUMENTS[text]}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and EVERYWHERE.search(node.value):
            found.append(f"{line}: an address that listens beyond this machine")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(REPOSITORY)) for path in SOURCES])
def test_no_source_runs_the_code_of_others(path):
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "settings = {'trust_remote_code': True}",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "eval(text)",
        "serve(host='0.0.0.0')",
    ],
)
def test_the_scan_finds_it(source):
    assert len(offences(source)) >= 1


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "yaml.load(text, Loader=_StrictLoader)", "model.eval()"],
)
def test_the_scan_lets_the_safe_form_pass(source):
    assert offences(source) == []


def test_every_word_of_a_rule_for_the_shell_is_quoted_or_a_number():
    """A placeholder without ``:q`` may only be what cannot hold more than one word, or is quoted already."""
    plain = {
        *("threads", "params.root_seed", "params.samples", "resources.gpus_per_node", "resources.nodes"),
        *("configuration.scale", "params.partial"),  # one of four names; an option of ours or nothing
        *("TRAIN_MACHINE", "PUBLISHED", "SAMPLE_MACHINE", "TRACKING"),  # made by shlex.join
    }
    for path in RULES:
        for shell in re.findall(
            r"^ +shell:\n((?:^ {8,}.*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            for placeholder in re.findall(r"\{([^{}]+)\}", shell):
                assert placeholder.endswith(":q") or placeholder in plain, f"{path.name}: {{{placeholder}}}"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "../x",
        "/etc",
        "a/b",
        "a b",
        "a\nb",
        "a\n",
        "-rf",
        ".hidden",
        "a'b",
        'a"b',
        "$(x)",
        "a;b",
        "{x}",
        "",
        "é",
    ]
    + ["x" * 81, "a\x00b", "~root", "a\\b", "*"],
)
def test_no_name_leads_out_of_a_folder_or_into_a_shell(name):
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)
    if name != "a/b":
        with pytest.raises(ValidationError):
            TypeAdapter(RelativeFile).validate_python(name.removeprefix("x" * 81) or "..")


@pytest.mark.parametrize("name", ["main/test-00000-of-00001.parquet", "model.safetensors", "a/b/c_1+2.json"])
def test_files_of_a_hub_keep_their_folders(name):
    assert TypeAdapter(RelativeFile).validate_python(name) == name


def test_the_pages_of_mlflow_are_served_to_this_machine_only(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"scale": "mini"}))
    (tmp_path / "results/mlflow").mkdir(parents=True)
    (tmp_path / "results/mlflow/mlflow.db").touch()
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(browse_runs, "pages", lambda *_: {})
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words) or 0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["browse_runs.py", "--port", port])
        assert browse_runs.main() == 1 and not started
        assert f"port {port} is in use" in capsys.readouterr().err
    assert browse_runs.main() == 0
    [words] = started
    assert words[words.index("--host") + 1] == "127.0.0.1" and words[words.index("--port") + 1] == port


def test_the_grading_process_listens_nowhere():
    with Verifier(timeout_s=5.0, workers=2, method="math_verify") as verifier:
        assert verifier.grade(["\\boxed{\\frac{1}{2}}"], ["0.5"])[0].correct
        server = psutil.Process(verifier._server.pid)
        for process in (server, *server.children(recursive=True)):
            assert process.net_connections("inet") == []


def test_what_the_documents_tell_a_user_to_start_listens_to_this_machine_only():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), *SOURCES]
    for path in pages:
        for line in path.read_text(encoding="utf-8").splitlines():
            for command in re.findall(r"(?:vllm serve|mlflow (?:server|ui)) [A-Z-].*", line):
                assert "--host 127.0.0.1" in command, f"{path.name}: {command}"
