"""Each host in an empty environment: its plain job without the wheel, then with it; the same answer is asked for.

What is installed first is what a person would install for the host, the wheel after that, with what it asks for.
Then the host's example anneals. Writes versions, answers and import times as JSON, and ends with status 1 where an
answer differs. ``make test-hosts``
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
JOBS = Path(__file__).parent / "jobs"
# A torch of its own choice would be a CUDA build of several gigabytes.
TORCH = "torch==2.13.0"
LIMIT_S = 900
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCHDYNAMO_DISABLE": "1",
}
# What importing the entry point costs a host that has torch (and, of vLLM's, vLLM) already.
IMPORT = """
import json, sys, time
from importlib.metadata import entry_points
import numpy, torch
{host}
points = entry_points(group="vllm.logits_processors")  # vLLM looks for them in any case
before = set(sys.modules)
start = time.process_time()  # of the processor: a busy machine does not lengthen it
{load}
milliseconds = 1000 * (time.process_time() - start)
print(json.dumps({{"milliseconds": round(milliseconds, 1), "modules": sorted(set(sys.modules) - before)}}))
"""
ENTRY_POINT = "points['ead'].load()"


@dataclass(frozen=True)
class Host:
    """A host: what pip is told, its plain job, the example that anneals, and what it has imported when it meets us."""

    requirements: tuple[str, ...]
    job: str
    model: bool = True
    example: str | None = None
    imports: str = ""
    loads: str = "import ead.schedule"


HOSTS = {
    "alone": Host((), "alone.py", model=False),
    "snakemake": Host(("snakemake==9.27.1",), "plain_snakemake.py", model=False),
    "transformers": Host(
        (TORCH, "transformers==5.23.*"),
        "plain_transformers.py",
        example="transformers_generate.py",
        imports="import transformers, transformers.generation.logits_process",
        loads="import ead.integrations.transformers",
    ),
    "trl": Host((TORCH, "trl==1.16.*"), "plain_trl.py", imports="import trl"),
    "vllm": Host(
        ("--no-deps", "--requirement", str(REPOSITORY / "envs" / "host-engine.txt")),
        "plain_vllm.py",
        example="vllm_offline.py",
        imports="from vllm import LLM, SamplingParams; import vllm.v1.sample.logits_processor",
        loads=ENTRY_POINT,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hosts", nargs="*", choices=list(HOSTS), default=list(HOSTS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    arguments = parser.parse_args()
    record = {"python": platform.python_version(), "wheel": arguments.wheel.name, "hosts": {}}
    if arguments.output.exists():  # hosts that are not visited again keep what was found
        record["hosts"] = json.loads(arguments.output.read_text(encoding="utf-8"))["hosts"]
    for name in arguments.hosts:
        with tempfile.TemporaryDirectory(prefix=f"host-{name}-") as folder:
            record["hosts"][name] = visit(
                HOSTS[name], arguments.wheel.resolve(), Path(folder), arguments.python
            )
        print(name, json.dumps(record["hosts"][name], indent=1), flush=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(found["same"] for found in record["hosts"].values()) else 1


def visit(host: Host, wheel: Path, folder: Path, interpreter: str) -> dict:
    """Install, run, install the wheel, run again; return what the record says of this host."""
    subprocess.run([interpreter, "-m", "venv", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    tools = versions(python).keys()  # pip and setuptools, which torch may move
    (folder / "torch.txt").write_text(f"{TORCH}\n")
    pip = [
        *(str(python), "-m", "pip", "install", "--quiet", "--no-compile"),
        "--constraint",
        str(folder / "torch.txt"),
    ]
    arguments = []
    if host.requirements:
        subprocess.run([*pip, *host.requirements], check=True)
    if host.model:
        code = "import sys, pathlib, tiny_model; tiny_model.write_tiny_model(pathlib.Path(sys.argv[1]))"
        arguments = [str(folder / "model")]
        run([str(python), "-c", code, *arguments], folder, PYTHONPATH=str(TESTS))
    before = {name: version for name, version in versions(python).items() if name not in tools}
    job = [str(python), str(JOBS / host.job), *arguments]
    without = run(job, folder) if host.requirements else None
    subprocess.run([*pip, str(wheel)], check=True)
    (installed,) = (folder / "env" / "lib").glob("python*/site-packages/ead")
    # As pip does, if it is not told otherwise.
    run([str(python), "-m", "compileall", "-q", str(installed)], folder)
    after = versions(python)
    with_it = run(job, folder)
    annealed = (
        run([str(python), str(REPOSITORY / "examples" / host.example), *arguments], folder)
        if host.example
        else None
    )
    code = IMPORT.format(host=host.imports, load=host.loads)
    imported = [json.loads(run([str(python), "-c", code], folder).splitlines()[-1]) for _ in range(3)]
    moved = {name: after.get(name) for name in before if after.get(name) != before[name]}
    return {
        "versions": {name: after[name] for name in sorted(SHOWN & after.keys())},
        "installed_before": len(before),
        "moved_by_the_wheel": moved,
        "added_by_the_wheel": sorted(after.keys() - before.keys() - tools),
        "answer": answer(with_it),
        "same": not moved and (without is None or answer(without) == answer(with_it)),
        "example_printed_characters": None if annealed is None else len(annealed.strip()),
        "import_cpu_ms": sorted(found["milliseconds"] for found in imported),
        "modules_imported": imported[0]["modules"],
    }


SHOWN = {
    "ead",
    "torch",
    "numpy",
    "scipy",
    "transformers",
    "trl",
    "vllm-cpu",
    "snakemake",
    "datasets",
    "accelerate",
}


def versions(python: Path) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({d.name.lower(): d.version for d in distributions()}))"
    )
    return json.loads(
        subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout
    )


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Return what a command prints; raises with the end of its complaints where it fails."""
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **SETTINGS, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}"
        )
    print(
        f"  {time.monotonic() - started:.0f} s: {' '.join(Path(part).name for part in command[:2])}",
        flush=True,
    )
    return done.stdout


def answer(printed: str) -> list[str]:
    """The job's own lines, without a host's words and clocks."""
    return [line for line in printed.splitlines() if line[:1] in "[0123456789-" and "INFO" not in line]


if __name__ == "__main__":
    sys.exit(main())
