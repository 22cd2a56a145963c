# make demo: five devices on this machine. make test: the whole check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SWEEP_SECONDS ?= 0
FUZZ_SECONDS ?= 300
BENCHMARKS := chain fleet overhead heal slow idle placement durability broker tags attacks infer models

.PHONY: help install demo bench fuzz test sweep check clean

help:
	@echo "make demo      five devices on this machine; Ctrl-C ends them"
	@echo "make bench     flockmq beside what one would pick instead; takes half an hour"
	@echo "make fuzz      100,000 malformed MQTT packets, then coverage-guided bytes into the mesh, for FUZZ_SECONDS (300)"
	@echo "make test      lint, types and all tests"
	@echo "make sweep     simulated fleets under faults, seed after seed, until Ctrl-C or SWEEP_SECONDS"
	@echo "make check     lint and types only"
	@echo "make install   prepare $(VENV); the others call it"
	@echo "make clean     remove $(VENV) and caches"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "flockmq needs Python 3.11 to 3.13; call make PYTHON=python3.13, say"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/flockmq demo

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	mkdir -p bench-results
	for name in $(BENCHMARKS); do \
	  echo "$$name"; $(BIN)/python -m bench $$name --json > bench-results/$$name.json || echo "$$name: see its problems"; \
	done
	$(BIN)/python -m bench.page bench-results/*.json

fuzz: install
	$(BIN)/python -m tools.fuzz_mqtt
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: -c constraints.txt -e '.[fuzz]' \
	  && $(BIN)/python -c 'import atheris' \
	  || { echo "atheris has no wheel for this Python and machine; it is known to have one for CPython 3.11 on x86_64 Linux"; exit 1; }
	mkdir -p .fuzz && cd .fuzz && PYTHONPATH=.. ../$(BIN)/python ../tools/fuzz.py -max_total_time=$(FUZZ_SECONDS) \
	  -max_len=4096 -timeout=20 -rss_limit_mb=1024 corpus

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n auto

sweep: install
	$(BIN)/python -m sim --sweep $(SWEEP_SECONDS) --seed $$(date +%s)

clean:
	rm -rf $(VENV) .venv-tflite .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
