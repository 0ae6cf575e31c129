# make demo    build cpu-vllm and see it answer          make test       lint, types, unit and engine tests
# make bench   time the command line and rendering       make test-full  also builds whole CUDA images
# make fuzz    slim 10,000 broken libraries
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-full lint unit bench fuzz clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@scripts/demo.sh $(BIN)/imgbuild

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-full: lint
	$(BIN)/python -m pytest

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint images/*/Dockerfile
	$(BIN)/shellcheck -x scripts/*.sh scripts/lib/*.sh .ci/* tests/golden/deploy/*.sh
	$(BIN)/imgbuild lock --check
	$(BIN)/imgbuild render --check

bench: $(VENV)/.dev
	$(BIN)/python -m bench.cli
	$(BIN)/python -m bench.render

fuzz: $(VENV)/.dev
	$(BIN)/python -m bench.fuzz_slim --count 10000

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# pip and not uv: pip already knows this site's index and CA.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --upgrade pip
	$(BIN)/pip install -qq --editable .
	@$(BIN)/imgbuild --version
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install -qq --group dev
	@touch $@
