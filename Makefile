# `make test` and `make study` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One runtime extra exactly: onnxruntime and onnxruntime-gpu share an import name.
RUNTIME ?= cpu

.PHONY: test lint types types-tensorrt tests slow study reference clean

test: lint types tests

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

# Against the real bindings of TensorRT, which pip downloads; no GPU and no TensorRT, but a C compiler.
types-tensorrt: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow tests/export/test_tensorrt_bindings.py

# Files in their order, not those of many tests first: commands come first then, which take longest.
tests: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# docs/reference.md, from what the commands say of themselves.
reference: $(VENV)/.installed
	$(BIN)/python tests/reference.py

# On a CPU through one runtime: OpenVINO, which the tests bring, would double its time.
study: $(VENV)/.installed
	$(BIN)/effvit study $(if $(filter cpu,$(RUNTIME)),--backend ort-cpu)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("effvit needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(RUNTIME),dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
