# Everything runs in one environment outside the clone, made once per set of pins.
PYTHON ?= python3
PINS := $(shell $(PYTHON) -c "import hashlib,pathlib; \
	print(hashlib.sha256(pathlib.Path('constraints.txt').read_bytes()).hexdigest()[:12])")
ENV ?= $(HOME)/.cache/taidscale/env-$(PINS)

export PYTHONPATH := $(CURDIR)
export OMP_NUM_THREADS := 1
export PATH := $(ENV)/bin:$(PATH)

.PHONY: quickstart test test-fast test-cluster check format environment install

quickstart: environment  ## distil a real model on two CPU cores and print a table
	python -m taidscale quickstart runs/quickstart

test: environment  ## run the tests
	python -m pytest $(ARGS)

test-fast: environment  ## those that train nothing and start no commands, in two minutes
	python -m pytest -m "not cluster and not slow" -n 2 --dist loadfile $(ARGS)

test-cluster: environment  ## jobs on a real Slurm and over ssh, on hosts of this machine; takes root
	-tests/cluster/install.sh
	python -m pytest -m cluster tests/cluster $(ARGS)

check: environment  ## formatting, lint, types, import floors
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: environment  ## format, and fix what lint can fix
	ruff format .
	ruff check --fix .

environment: $(ENV)/.complete

# The marker comes last: an installation that was interrupted starts again. It does not depend on
# constraints.txt, whose hash is in the path: a new clone has a newer file with the same pins.
# Of two that are asked for it at once, one installs.
$(ENV)/.complete:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older; set PYTHON="; exit 2; }
	@mkdir -p $(ENV)
	@flock $(ENV).lock $(MAKE) --no-print-directory install

install:
	@test -e $(ENV)/.complete || { \
		echo "installing into $(ENV), once: about 3 GB to download, a few minutes" \
		&& $(PYTHON) -m venv --clear $(ENV) \
		&& $(ENV)/bin/python -c "import tomllib; \
			p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
			print(*p['dependencies'], *sum(p['optional-dependencies'].values(), []), sep='\n')" \
			> $(ENV)/requirements.txt \
		&& $(ENV)/bin/python -m pip install --quiet --constraint constraints.txt \
			--requirement $(ENV)/requirements.txt \
		&& touch $(ENV)/.complete; }
