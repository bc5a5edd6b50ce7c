# `make reproduce` and `make test` are all a newcomer needs; both build .venv first.

PYTHON ?= python3
CORES ?= all
BIN := .venv/bin
# Jobs are many and short, and a job whose imports were compiled before starts in a third of the time.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

.PHONY: help reproduce real-lm mlflow test env-gpu test-env-gpu verl-smoke test-seams test-vllm test-hosts test-paper test-tutorial test-slurm test-rehearsal test-smoke bench speed-page gallery evidence judge lint format config pins licences audit clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  One figure, the claims, the cost of a plan and more: '$(BIN)/snakemake --cores all fig04', for instance."
	@echo "  '$(BIN)/snakemake --list-target-rules' names them all."

.venv/ready: envs/cpu.txt pyproject.toml
	@$(PYTHON) scripts/check_machine.py
	$(PYTHON) -m venv .venv
	@# The list is complete, so the first call need not resolve it; the second adds what a torch for GPUs wants.
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --requirement envs/cpu.txt
	$(BIN)/python -m pip install --quiet --no-compile --requirement envs/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

reproduce: .venv/ready  ## what config.yaml asks for, from data to report; run it again to continue
	@$(BIN)/python scripts/check_machine.py
	$(BIN)/python scripts/reproduce.py --cores $(CORES)

real-lm: .venv/ready  ## a published language model on real problems, then the report
	$(BIN)/python scripts/reproduce.py --cores $(CORES) real_lm all

mlflow: .venv/ready  ## browse the runs at http://127.0.0.1:5000
	$(BIN)/python scripts/browse_runs.py

test: .venv/ready lint  ## the quick tests: units and the mini workflow
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/integration tests/unit \
		--ignore tests/integration/test_mlflow.py --ignore tests/integration/test_resume.py \
		--ignore tests/integration/test_inference_figures.py --ignore tests/integration/test_paper.py \
		--ignore tests/integration/test_commands.py --ignore tests/integration/test_tutorial.py

.venv-verl-cpu/ready: envs/verl-cpu.txt pyproject.toml
	@$(PYTHON) scripts/check_machine.py verl
	$(PYTHON) -m venv .venv-verl-cpu
	.venv-verl-cpu/bin/python -m pip install --quiet --no-deps --no-compile --requirement envs/verl-cpu.txt
	.venv-verl-cpu/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

env-gpu: .venv-gpu/ready  ## verl and vLLM on NVIDIA GPUs, in .venv-gpu: the gpu1 and paper scales

.venv-gpu/ready: envs/gpu.txt pyproject.toml
	@$(PYTHON) scripts/check_machine.py verl
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --no-deps --no-compile --requirement envs/gpu.txt
	.venv-gpu/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

test-env-gpu: .venv-gpu/ready  ## check that this environment is complete and imports; needs no GPU
	.venv-gpu/bin/python tests/gpu/check_environment.py --record docs/records/env_gpu.json

verl-smoke: .venv/ready .venv-verl-cpu/ready  ## the real verl, Ray and vLLM on this CPU: train, stop, resume, evaluate
	$(BIN)/snakemake --cores $(CORES) verl_smoke

.venv-checks/ready: envs/checks.txt
	$(PYTHON) -m venv .venv-checks
	.venv-checks/bin/python -m pip install --quiet --no-deps --no-compile --requirement envs/checks.txt
	@touch $@

# Hosts of the package: an environment each from a pinned list, and into it the wheel as people install it.
.PRECIOUS: .venv-host-%/ready
.venv-host-%/ready: envs/host-%.txt
	$(PYTHON) -m venv .venv-host-$*
	.venv-host-$*/bin/python -m pip install --quiet --no-deps --no-compile --requirement $<
	@touch $@

dist/ready: pyproject.toml LICENSE $(shell find scripts/ead -name '*.py') scripts/ead/README.md
	rm -rf dist build
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build
	@touch $@

.venv-host-%/wheel: .venv-host-%/ready dist/ready
	.venv-host-$*/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@touch $@

test-seams: .venv/ready .venv-verl-cpu/ready .venv-checks/ready .venv-host-training/wheel  ## MLflow, kill and resume, real Slurm, verl and vLLM on CPUs, the wheel beside its hosts, the report in a browser
	@# MLflow's stream gives way to everything else on the machine, so its tests get the machine to themselves.
	$(BIN)/python -m pytest tests/integration/test_mlflow.py
	tests/slurm/install_slurm.sh
	tests/browser/install_chromium.sh
	@# The tests with Slurm wait for it most of the time, so the others run beside them.
	$(BIN)/python -m pytest tests/slurm > .slurm-tests.log 2>&1 & slurm=$$!; failed=0; \
	$(BIN)/python -m pytest --numprocesses 2 tests/integration/test_resume.py \
		tests/integration/test_inference_figures.py tests/integration/test_commands.py || failed=1; \
	.venv-verl-cpu/bin/python -m pytest --numprocesses 2 --dist loadfile tests/verl \
		--ignore tests/verl/test_rehearsal.py || failed=1; \
	.venv-host-training/bin/python -m pytest tests/hosts/training || failed=1; \
	.venv-checks/bin/python -m pytest tests/browser tests/hosts/package || failed=1; \
	wait $$slurm || failed=1; cat .slurm-tests.log; exit $$failed

# Too slow to run with every change: about ten minutes on two idle cores, and longer on busy ones.
test-paper: .venv/ready  ## every run and figure at the mini scale
	$(BIN)/python -m pytest tests/integration/test_paper.py

test-tutorial: .venv/ready  ## every command of the tutorial but those of its last block, at the mini scale
	$(BIN)/python -m pytest tests/integration/test_tutorial.py

test-slurm: .venv/ready  ## the workflow on a real Slurm, interrupted in every way (as root)
	tests/slurm/install_slurm.sh
	$(BIN)/python -m pytest tests/slurm

test-rehearsal: .venv/ready .venv-verl-cpu/ready  ## one cell of a scale with GPUs, rehearsed on this CPU (needs npm)
	.venv-verl-cpu/bin/python -m pytest tests/verl/test_rehearsal.py

test-smoke: .venv/ready .venv-verl-cpu/ready  ## the real verl, Ray and vLLM: train, stop, resume, evaluate
	.venv-verl-cpu/bin/python -m pytest tests/verl/test_verl_smoke.py

# It takes a few minutes for the environment (3 GB) and about ten for the tests. The second runner runs in Triton's interpreter.
ENGINE := tests/verl/test_vllm_engine.py tests/verl/test_vllm_server.py tests/verl/test_examples.py
test-vllm: .venv-host-engine/wheel  ## the newest vLLM with a CPU build, beside the wheel, with either of its model runners
	.venv-host-engine/bin/python -m pytest tests/hosts/engine tests/verl/test_vllm_processor.py $(ENGINE)
	PYTHONPATH=tests/hosts/interpreter .venv-host-engine/bin/python -m pytest \
		tests/verl/test_vllm_second_runner.py tests/verl/test_vllm_speculation.py $(ENGINE)

# It takes about ten minutes. The environments, 15 GB in all, start empty and are removed after use.
test-hosts: dist/ready  ## each host without and with the wheel, in empty environments: docs/records/hosts.json
	$(PYTHON) tests/hosts/matrix.py --wheel dist/*.whl --output docs/records/hosts.json

.venv-bench/ready: envs/bench.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --no-deps --no-compile --requirement envs/bench.txt
	.venv-bench/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

# It takes about an hour on an idle machine. Each command can be run alone. docs/speed.md has the results.
BENCH := .venv-bench/bin/python benchmarks
SPEED := docs/records/speed
bench: .venv/ready .venv-bench/ready .venv-verl-cpu/ready  ## measure speed, memory and cost against TRL, transformers, vLLM and verl
	$(BENCH)/rl_step.py --trl-python .venv-bench/bin/python --threads 1 --cases 115k "default task" 6M --output $(SPEED)/step_one_thread.json
	$(BENCH)/rl_step.py --trl-python .venv-bench/bin/python --threads 2 --cases 6M 29M --output $(SPEED)/step_two_threads.json
	$(BENCH)/sampling.py --peer-python .venv-bench/bin/python --output $(SPEED)/sampling.json
	$(BENCH)/split.py --output $(SPEED)/split.json
	$(BENCH)/against_vllm.py --threads 1 --vllm-python .venv-verl-cpu/bin/python --output $(SPEED)/vllm.json
	$(BENCH)/against_verl.py --verl-python .venv-verl-cpu/bin/python --output $(SPEED)/verl.json
	$(BENCH)/analysis.py --output $(SPEED)/analysis.json
	$(BENCH)/memory.py --output $(SPEED)/memory.json
	$(BENCH)/dag.py --output $(SPEED)/dag.json
	$(MAKE) speed-page
	@echo "Grading needs the data sets: $(BENCH)/grading.py --data FOLDER --output $(SPEED)/grading.json"

speed-page: .venv/ready  ## the tables of docs/speed.md, from the records of `make bench`
	$(BIN)/python benchmarks/speed_page.py --page docs/speed.md

gallery: .venv/ready  ## copy the pictures and verdicts of a full run at the cpu scale to reports/gallery and README.md
	$(BIN)/python scripts/make_gallery.py --reports reports/cpu --gallery reports/gallery --readme README.md

evidence: .venv/ready  ## what the verdicts of a full run at the cpu scale rest on, to reports/evidence/cpu
	$(BIN)/python scripts/export_evidence.py --results results/cpu --reports reports/cpu --evidence reports/evidence/cpu

judge: .venv/ready  ## the claims again from that evidence; CHANGES='{margins: ...}' judges them otherwise
	$(BIN)/python scripts/judge_evidence.py --evidence reports/evidence/cpu --changes '$(CHANGES)'

lint: .venv/ready  ## style of Python and Snakemake files
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/snakefmt --check workflow

format: .venv/ready  ## apply that style
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .
	$(BIN)/snakefmt workflow

config: .venv/ready  ## rewrite config.yaml, workflow/schemas and docs/configuration.md from the typed model
	$(BIN)/python scripts/write_schemas.py

pins:  ## resolve envs/cpu.in anew and export the pinned list
	$(PYTHON) -m venv --clear .venv-pins
	.venv-pins/bin/python -m pip install --quiet --requirement envs/cpu.in
	echo '# Pinned export of cpu.in for Python 3.11: `make pins` writes it.' > envs/cpu.txt
	.venv-pins/bin/python -m pip freeze | sed 's/^torch==\([0-9.]*\).*/torch==\1/' >> envs/cpu.txt
	rm -rf .venv-pins

licences: .venv/ready .venv-verl-cpu/ready  ## rewrite docs/licences.md from the installed environments
	$(BIN)/python scripts/list_licences.py

# pip-audit asks a service that lists known vulnerabilities. With --strict, a package that the service does not know is an error.
audit: .venv/ready  ## compare the pinned packages with the known vulnerabilities (needs a connection)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	for environment in cpu verl-cpu gpu checks bench host-training host-engine; do \
		.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement envs/$$environment.txt || exit 1; \
	done

clean:  ## remove the environments (results stay)
	rm -rf .venv .venv-verl-cpu .venv-checks .venv-bench .venv-gpu .venv-pins .venv-audit .venv-host-* dist
