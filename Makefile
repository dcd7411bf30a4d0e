# Two commands: `make paper` renders the report, `make test` checks the library and the report.

VENV := .venv
PYTHON := $(VENV)/bin/python
# Another model than the testbed has a site of its own.
SITE := _site$(addprefix -,$(notdir $(ANALYSIS_MODEL)))
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: paper test lint clean

paper: $(VENV)/installed
	$(PYTHON) -m analysis run
	if command -v quarto >/dev/null; then quarto render --output-dir $(SITE); else $(PYTHON) -m analysis preview report $(SITE); fi

test: $(VENV)/installed
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	# torch first and alone: its pinned version then satisfies every range that asks for it.
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf _site _site-* .quarto data/results
