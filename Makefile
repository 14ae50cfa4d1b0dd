# make serve [DEMO=1] [ARGS="--set rtmp.port=1945"]   set up what is missing and run the server
# make test  [ARGS="tests/control -k keys"]            set up what tests need and run them
# make check                                           linters, types, import contracts
# make venv                                            only set up
.PHONY: serve test check venv format docs clean

VENV := .venv
BIN := $(VENV)/bin
SOURCES := media ingest transcode packager edge control tests bench
# Tests mostly wait for real time to pass, so two at once fit even a small machine; a file's tests stay together.
JOBS := 2
DEPENDS := pyproject.toml constraints.txt bootstrap

serve: $(VENV)/.ready-serve
	$(BIN)/headrace serve $(if $(DEMO),--demo) $(ARGS)

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.ready-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(VENV)/.ready-test

format: $(VENV)/.ready-test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/.ready-test
	$(BIN)/python -m control.settings_reference > docs/settings.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.ready-serve: $(DEPENDS)
	./bootstrap serve

$(VENV)/.ready-test: $(DEPENDS)
	./bootstrap test
	touch $(VENV)/.ready-serve
