# `make demo` and `make test` are all that a new machine needs: Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where bytecode may not be written, as in many containers, each of the hundreds of processes that
# the tests start compiles the whole package.
export PYTHONDONTWRITEBYTECODE :=
STAMP := $(VENV)/.installed

.PHONY: install demo test test-fast test-server test-cluster test-browser check check-style check-types check-defs stress bench bench-small clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("embed_assets needs Python 3.11 to 3.13; set PYTHON=") if not (3, 11) <= sys.version_info < (3, 14) else None'
	$(PYTHON) -m venv $(VENV)
	@echo "installing embed_assets into $(VENV): some 6 GB, most of it torch; this takes some minutes"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $(STAMP)

demo: install
	$(BIN)/embed-assets demo

# What has a target of its own.
NOT_HERE := not stress and not bench and not browser and not cluster

# A file is one worker's, so that what its tests share is made once. Five workers on two cores, for
# journeys wait more than they work.
test: install
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder -m "$(NOT_HERE)"

# For every edit: what needs no run of Dagster and no MuQ (embed_assets_tests/tiers.py).
test-fast: install
	$(BIN)/python -m pytest -n 3 --dist worksteal -m fast

# The tests of the index on a real Milvus server too: no containers, a virtual environment of its own.
test-server: install
	$(PYTHON) -m venv .venv-milvus
	.venv-milvus/bin/python -m pip install --quiet 'milvus==2.3.5' 'setuptools<81'
	EMBED_TEST_MILVUS_SERVER=$(CURDIR)/.venv-milvus/bin/milvus-server $(BIN)/python -m pytest -k server -m "$(NOT_HERE)"

# Two hosts of a real Ray cluster, in namespaces of one machine, as root, cut off from its network.
# PostgreSQL must be installed (`apt-get install postgresql`).
test-cluster: install
	$(PYTHON) -m venv .venv-milvus
	.venv-milvus/bin/python -m pip install --quiet 'milvus==2.3.5' 'setuptools<81'
	$(BIN)/python -m pip install --quiet --editable '.[cluster,kubernetes]'
	EMBED_TEST_MILVUS_SERVER=$(CURDIR)/.venv-milvus/bin/milvus-server \
		unshare --net sh -c 'ip link set lo up && exec "$$@"' sh $(BIN)/python -m pytest -m cluster -rs

# The page of serve in a real Chromium: the system's, or Playwright's. Without one they are skipped.
test-browser: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m browser -rs

stress: install
	$(BIN)/python -m pytest -m stress --timeout 7200 -s

check: check-style check-types check-defs

check-style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports setup.cfg

check-types: install
	$(BIN)/mypy

check-defs: install
	$(BIN)/dg check defs

# MUSIC=DIR, a folder of real music: without it tracks are synthesised where that means something.
bench: install
	for b in walk tick history scan similar search serve server_ids index parts vectors muq_memory hand_over stop; do $(BIN)/python benchmarks/$$b.py --json || exit 1; done
	for b in encoder drop bulk; do $(BIN)/python benchmarks/$$b.py $(if $(MUSIC),--music '$(MUSIC)') --json || exit 1; done
	$(if $(MUSIC),$(BIN)/python benchmarks/muq_pipeline.py --music '$(MUSIC)' --json)
	$(if $(MUSIC),$(BIN)/python benchmarks/retrieval.py '$(MUSIC)' --json)
	$(if $(MUSIC),$(BIN)/python benchmarks/fit_acoustic.py '$(MUSIC)' --json)

# Each in seconds, to show that it runs: the figures mean nothing.
bench-small: install
	$(BIN)/python -m pytest -n 3 --dist worksteal -m bench

clean:
	rm -rf $(VENV) .venv-milvus build dist *.egg-info
