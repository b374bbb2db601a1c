# Both targets start from nothing: Python >= 3.10 with venv, and a network for pip.
PYTHON ?= python3
PIP_ARGS ?=
# On a machine without NVIDIA GPU the CPU build saves some gigabytes:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
BIN := .venv/bin

.PHONY: demo demo-hospital test check site clean

demo: .venv/installed
	$(BIN)/nnUNetv2_ext_demo -o .demo

demo-hospital: .venv/installed
	$(BIN)/nnUNetv2_ext_demo --hospital -o .demo-hospital

test: .venv/installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

site: .venv/installed
	$(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -c "import sys; sys.exit('needs Python >= 3.10, this is ' + sys.version if sys.version_info < (3, 10) else 0)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(PIP_ARGS) -e ".[dev]"
	$(BIN)/nnUNetv2_ext_doctor --enable
	touch $@

clean:
	rm -rf .venv .demo .demo-hospital build *.egg-info
