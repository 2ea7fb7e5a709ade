# Everything runs in one environment outside the clone, made once per set of pins.
PYTHON ?= python3
pins = $(shell $(PYTHON) -c "import hashlib,pathlib,sys; \
	print(hashlib.sha256(b''.join(pathlib.Path(p).read_bytes() for p in sys.argv[1:])) \
	.hexdigest()[:12])" $(1))
ENV ?= $(HOME)/.cache/taidscale/env-$(call pins,constraints.txt)

# With TRANSFORMERS=5 a second one in front of it, which holds only what differs; see
# docs/transformers-5.md.
TRANSFORMERS ?= 4
IN_FRONT := constraints-transformers5.txt
ENV5 ?= $(HOME)/.cache/taidscale/transformers5-$(call pins,constraints.txt $(IN_FRONT))
TESTS5 := $(addprefix tests/,models teachers engine checkpoint corpus publishing)

# What GPU machines often have, outside CI: make test-gpu-pins PYTHON312=...
PYTHON312 ?= python3.12
GPU_PINS := constraints-gpu.txt
ENV_GPU ?= $(HOME)/.cache/taidscale/gpu-$(call pins,constraints.txt $(GPU_PINS))
TESTS_GPU := $(addprefix tests/,models losses teachers)

export PYTHONPATH := $(CURDIR)
export OMP_NUM_THREADS := 1
ifeq ($(TRANSFORMERS),5)
export PATH := $(ENV5)/bin:$(ENV)/bin:$(PATH)
export OTHER_PYTHON := $(ENV)/bin/python
ARGS ?= $(TESTS5)
else ifeq ($(TRANSFORMERS),4)
export PATH := $(ENV)/bin:$(PATH)
export OTHER_PYTHON := $(ENV5)/bin/python
else
$(error TRANSFORMERS is $(TRANSFORMERS); it must be 4 or 5)
endif

.PHONY: quickstart test test-fast test-cluster test-gpu-pins check format environment \
	install install-5 install-gpu

quickstart: environment  ## distil a real model on two CPU cores and print a table
	python -m taidscale quickstart runs/quickstart

test: environment  ## run the tests
	python -m pytest $(ARGS)

test-fast: environment  ## those that train nothing and start no commands, in two minutes
	python -m pytest -m "not cluster and not slow" -n 2 --dist loadfile $(ARGS)

test-cluster: environment  ## jobs on a real Slurm and over ssh, on hosts of this machine; takes root
	-tests/cluster/install.sh
	python -m pytest -m cluster tests/cluster $(ARGS)

test-gpu-pins: $(ENV_GPU)/.complete  ## with Python 3.12 and torch 2.11; outside CI
	$(ENV_GPU)/bin/python -m pytest $(or $(ARGS),$(TESTS_GPU))

check: environment  ## formatting, lint, types, import floors
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: environment  ## format, and fix what lint can fix
	ruff format .
	ruff check --fix .

environment: $(ENV)/.complete $(ENV5)/.complete

# The marker comes last: an installation that was interrupted starts again. It does not depend on
# constraints.txt, whose hash is in the path: a new clone has a newer file with the same pins.
# Of two that are asked for it at once, one installs.
$(ENV)/.complete:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older; set PYTHON="; exit 2; }
	@mkdir -p $(ENV)
	@flock $(ENV).lock $(MAKE) --no-print-directory install

$(ENV5)/.complete: $(ENV)/.complete
	@mkdir -p $(ENV5)
	@flock $(ENV5).lock $(MAKE) --no-print-directory install-5

$(ENV_GPU)/.complete:
	@$(PYTHON312) -c "import sys; sys.exit(sys.version_info[:2] != (3, 12))" \
		|| { echo "error: $(PYTHON312) is no Python 3.12; set PYTHON312="; exit 2; }
	@mkdir -p $(ENV_GPU)
	@flock $(ENV_GPU).lock $(MAKE) --no-print-directory install-gpu

# $(call requirements,PYTHON,FILE): what pyproject.toml asks for.
requirements = $(1) -c "import tomllib; \
	p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	print(*p['dependencies'], *sum(p['optional-dependencies'].values(), []), sep='\n')" > $(2)

install:
	@test -e $(ENV)/.complete || { \
		echo "installing into $(ENV), once: about 3 GB to download, a few minutes" \
		&& $(PYTHON) -m venv --clear $(ENV) \
		&& $(call requirements,$(ENV)/bin/python,$(ENV)/requirements.txt) \
		&& $(ENV)/bin/python -m pip install --quiet --constraint constraints.txt \
			--requirement $(ENV)/requirements.txt \
		&& touch $(ENV)/.complete; }

# A .pth file adds the first environment's packages behind its own.
install-5:
	@test -e $(ENV5)/.complete || { \
		echo "installing into $(ENV5), once: about 20 MB to download" \
		&& $(ENV)/bin/python -m venv --clear --without-pip $(ENV5) \
		&& site="import sysconfig; print(sysconfig.get_path('purelib'))" \
		&& $(ENV)/bin/python -c "$$site" > "$$($(ENV5)/bin/python -c "$$site")/behind.pth" \
		&& $(ENV5)/bin/python -m pip install --quiet --no-deps --requirement $(IN_FRONT) \
		&& touch $(ENV5)/.complete; }

install-gpu:
	@test -e $(ENV_GPU)/.complete || { \
		echo "installing into $(ENV_GPU), once: about 3 GB to download, a few minutes" \
		&& $(PYTHON312) -m venv --clear $(ENV_GPU) \
		&& $(call requirements,$(ENV_GPU)/bin/python,$(ENV_GPU)/requirements.txt) \
		&& grep -vE "^($$(sed -n 's/==.*//p' $(GPU_PINS) | paste -sd '|'))==" constraints.txt \
			| cat - $(GPU_PINS) > $(ENV_GPU)/constraints.txt \
		&& $(ENV_GPU)/bin/python -m pip install --quiet \
			--constraint $(ENV_GPU)/constraints.txt --requirement $(ENV_GPU)/requirements.txt \
		&& touch $(ENV_GPU)/.complete; }
