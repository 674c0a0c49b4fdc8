# Every target sets up .venv by itself, once; only python3 (3.11 or newer) and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What depends on the processor: bits, and which operations there are.
COMPUTING := tests/core tests/blocks tests/families tests/training tests/sampling tests/evaluation
# Stages are started as `python`, by DVC: let that be ours.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# TORCH_INDEX: an extra package index, such as https://download.pytorch.org/whl/cpu
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: help repro recommend thorough gate baseline verify test test-slow test-faults test-cuda test-browser test-as ui live register docs bench lint check clean setup
.DEFAULT_GOAL := help

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(STAMP) ## install into .venv (TORCH_INDEX=... for a CPU build of torch)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PYTHON) pipeline/orchestration/install.py $(VENV) $(PIP_INDEX)
	@touch $@

repro: $(STAMP) ## run what changed (JOBS=n, MODELS=vae,ddpm, FORCE=1, SCHEDULER=tcp://...), or a folder of yours (IMAGES=~/photos)
	@python -m pipeline repro $(if $(IMAGES),--images "$$IMAGES") $(if $(JOBS),--jobs $(JOBS)) $(if $(MODELS),--models $(MODELS)) $(if $(filter-out 0,$(FORCE)),--force) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

thorough: $(STAMP) ## error bars: more trainings and sample sets, half an hour on 2 cores (JOBS=n)
	@python -m pipeline thorough $(if $(JOBS),--jobs $(JOBS))

gate: $(STAMP) ## fail if a metric is worse than its baseline (BASE=revision)
	@python -m pipeline gate $(if $(BASE),--base $(BASE))

baseline: $(STAMP) ## train with several seeds and write the baseline (SEEDS=3, JOBS=n)
	@python -m pipeline baseline $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

verify: $(STAMP) ## train models again: are the bits the committed ones? (MODEL=vae,ddpm or all, JOBS=n)
	@python -m pipeline verify $(or $(MODEL),$(error say which: make verify MODEL=vae)) $(if $(JOBS),--jobs $(JOBS))

check: $(STAMP) ## validate params.yaml
	@python -m pipeline check

test: $(STAMP) ## the fast tests: no network, no GPU
	python -m pytest -m "not slow and not cuda and not browser"

test-as: $(STAMP) ## the tests that compute, as a processor without AVX512 (or ISA=avx512) runs them
	ONEDNN_MAX_CPU_ISA=$(if $(filter avx512,$(ISA)),AVX512_CORE,AVX2) ATEN_CPU_CAPABILITY=$(or $(ISA),avx2) \
	python -m pytest -m "not slow and not cuda and not browser" $(COMPUTING)

test-slow: $(STAMP) ## the slow tests, fault injection among them
	python -m pytest -m slow

test-faults: $(STAMP) ## fault injection alone: kills, full disks, broken files (10 minutes)
	python -m pytest -m slow tests/faults

test-cuda: $(STAMP) ## the tests that need a GPU
	python -m pytest -m cuda -rs

test-browser: $(STAMP) ## the tests that need Chromium (skipped where there is none)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	python -m pytest -m browser -rs

ui: $(STAMP) ## compare the runs in MLflow (PORT=n)
	@python -m pipeline ui $(if $(PORT),--port $(PORT))

live: $(STAMP) ## follow trainings into MLflow while they run, in a second terminal
	@python -m pipeline live

register: $(STAMP) ## put a model into MLflow's registry (MODEL=ddpm, ALIAS=champion)
	@python -m pipeline register $(or $(MODEL),$(error say which: make register MODEL=ddpm)) $(if $(ALIAS),--alias $(ALIAS))

recommend: $(STAMP) ## say which model to take, and why
	@python -m pipeline recommend

docs: $(STAMP) ## write the tables of README.md and docs/ from metrics/
	@python -m pipeline docs

bench: $(STAMP) ## benchmarks, hours: other libraries, trainers, samplers, sizes, plans, few images (docs/benchmarks.md)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	python -m benchmarks peers
	python -m benchmarks trainers
	python -m benchmarks optimisers
	python -m benchmarks samplers
	python -m benchmarks drawing
	python -m benchmarks scale
	python -m benchmarks growth
	python -m benchmarks planned
	python -m benchmarks small_data
	python -m benchmarks small_data --budget 4 --models dcgan --sizes 250

lint: $(STAMP) ## style, which room imports which, what is unsafe here or in a pinned package
	ruff check .
	ruff format --check .
	lint-imports --no-logo --no-cache
	bandit --quiet --recursive --configfile pyproject.toml pipeline stages
	@python -m pipeline.orchestration.audit

# By name: whatever else lies in data/ and work/ is somebody's own.
clean: ## remove the installation, results that DVC can make again, and work files
	rm -rf $(VENV) generative_families.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -rf $(addprefix data/,inputs.json raw processed domains judge models samples scores)
	rm -rf $(addprefix work/,cluster durations folders locks timings replicas features logs gate verify peers)
	rm -f $(addprefix work/,durations.json paces.json shown.json inputs.json skipped.csv *-????????????????.ckpt .*.tmp.ckpt .*.tmp.json *-????????????????.damaged)
	@rmdir data work 2>/dev/null || true
