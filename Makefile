# Every target sets up what it needs: a virtual environment in .venv, installed from pyproject.toml at the
# versions of constraints.txt, and again when either changes. The machine provides Python >= 3.11,
# pip and make. Another interpreter: make PYTHON=python3.12 … (remove .venv to change it later).
PYTHON ?= python3
ARGS ?=

# Sources are compiled once, not by each of the many processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
RUNTIME := .venv/runtime.stamp
DEV := .venv/dev.stamp
PEERS := .venv/peers.stamp
PIP := $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -c constraints.txt

# Stops with a sentence if Python or pip is too old.
define check_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python " \
	+ sys.version.split()[0] + "; Takhin needs 3.11 or newer: make PYTHON=python3.11 ...")'
@$(PYTHON) -c 'import pip' 2>/dev/null || { echo '$(PYTHON) has no pip (Debian: python3-pip)' >&2; exit 1; }
@$(PYTHON) -c 'import pip, sys; sys.exit([int(n) for n in pip.__version__.split(".")[:2]] < [22, 3] \
	and "the pip of $(PYTHON) is " + pip.__version__ + "; 22.3 is the first that can install into .venv")'
endef

# $(call run_tests,MARKS) runs the tests with these marks: first those that compare times, alone, then the others
# in four processes, because most wait for disks and brokers. pytest exits with 5 if no test was selected.
# Alone, only the files that have such tests are collected, which is a matter of seconds.
define run_tests
@$(BIN)/python -m pytest -m '$(1) and timed' \
	$(or $(ARGS),$$(grep -rl --include='*.py' mark.timed tests | sort)); alone=$$?; \
	$(BIN)/python -m pytest -m '$(1) and not timed' -n 4 --dist worksteal $(ARGS); beside=$$?; \
	case "$$alone $$beside" in '0 0' | '0 5' | '5 0') ;; *) exit 1 ;; esac
endef

# Each target prints the line that `make help` shows for it.
say = @sed -n 's/^$@:.*\#\# /$@: /p' Makefile

.DEFAULT_GOAL := help
.PHONY: help serve test check proto docs bench bench-peers soak
.DELETE_ON_ERROR:

help: ## show the targets
	@echo 'make TARGET [ARGS="passed on to the program"] [PYTHON=python3.12]'
	@sed -n 's/^\([a-z-]*\):.*## /  \1: /p' Makefile

serve: $(RUNTIME) ## run a broker on 127.0.0.1:9092 with its data in ./data; Ctrl-C stops it
	$(say)
	@exec $(BIN)/takhin serve $(ARGS)

test: $(DEV) ## run all tests except the long ones of `make soak`
	$(say)
	$(call run_tests,not soak)

check: $(DEV) ## check lint, formatting, types, the compatibility of the .proto, and the code's own rules
	$(say)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/released.binpb
	$(BIN)/python -m pytest -q tests/test_tidy.py $(ARGS)

proto: $(DEV) ## generate the code in takhin/v1 from proto/takhin/v1/takhin.proto
	$(say)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=. \
		--grpc_python_out=. --mypy_out=. --mypy_grpc_out=. proto/takhin/v1/takhin.proto

docs: $(DEV) ## write a reference of the Python API into docs/api, from the docstrings
	$(say)
	@$(BIN)/python -W ignore -m pdoc --no-show-source --docformat restructuredtext -o docs/api takhin.client takhin.client.sync takhin.errors takhin.testing

bench: $(DEV) ## time the pieces (append, read, convert), then the service in process and over loopback
	$(say)
	@$(BIN)/python -m pytest bench --benchmark-columns=min,median,max,rounds --benchmark-sort=name
	@$(BIN)/python -m bench.shapes
	@$(BIN)/python -m bench.produce $(ARGS)

bench-peers: $(PEERS) ## measure Takhin beside Kafka, NATS JetStream and Redis Streams in one run, and draw it
	$(say)
	@$(BIN)/python -m bench.peers $(ARGS)

# Brokers and commands are really started here, not forked: see tests/forked.py.
soak: export REAL_PROCESSES = 1
soak: $(DEV) ## run the long tests with full counts and the controls, and print a table of their figures
	$(say)
	$(call run_tests,(soak or control))

# venv --without-pip, because Debian packages ensurepip separately; the machine's pip installs into it.
$(BIN)/python:
	$(check_python)
	@$(PYTHON) -m venv --clear --without-pip .venv

# The native library is built with the installation, where there is a C compiler: see setup.py.
NATIVE := setup.py $(wildcard native/*.c native/*.h native/client/*.c native/client/*.h)

$(RUNTIME): pyproject.toml constraints.txt $(NATIVE) $(BIN)/python
	@echo 'installing into .venv what the broker needs (now, and when the pinned versions change)'
	@$(PIP) -e '.[server]'
	@touch $@

$(DEV): pyproject.toml constraints.txt $(NATIVE) $(BIN)/python
	@echo 'installing into .venv what development needs (now, and when the pinned versions change)'
	@$(PIP) -e '.[server,otel,dev]'
	@touch $(RUNTIME) $@

$(PEERS): $(DEV) bench/kafka/pom.xml scripts/fetch-kafka scripts/fetch-nats
	@echo 'installing into .venv the clients of the systems that are compared'
	@$(PIP) -e '.[bench]'
	@scripts/fetch-kafka || echo 'Kafka is left out of the comparisons' >&2
	@scripts/fetch-nats || echo 'a NATS that syncs is left out of the comparisons' >&2
	@touch $@
