# make reproduce   every table and figure on the simulated cohort, from nothing
# make verify      hold the tables of that run against the committed ones
# make test        everything that CI runs: the tests, and the checks of .pre-commit-config.yaml
# make lab         JupyterLab on notebooks/
# make book        all of it as pages for a browser, with the notebooks as executed: book/_build/html
# make clean       forget prepared windows and runs;  make clean-venv  forget the installation
#
# Each of them first makes .venv and installs into it. Needed: python3 (3.11 or newer) and make.

VENV := .venv
# What it was made with, so that a choice of LOCK or TORCH holds until another one is made.
-include $(VENV)/choice.mk

# Settings of `make reproduce`.
PROFILE ?= quick
DATASET ?= simulated
MIRROR ?=
SEEDS ?= 0
JOBS ?=

# Options of JupyterLab, for `make lab`: on a remote machine LAB='--no-browser --port 8899'.
LAB ?=

# Settings of the installation. LOCK: exact versions; empty (make LOCK= reproduce): the newest that pyproject.toml allows.
# TORCH: another version of torch, for example one for this machine's GPU driver (make TORCH=2.11.0 reproduce). Where
# pip looks for packages is set with pip's own variables and configuration.
PYTHON ?= python3
LOCK ?= requirements-lock.txt
TORCH ?=

PY := $(VENV)/bin/python
# The stamp is named after what was installed: another lock file, dependency or choice has another stamp.
STAMP := $(VENV)/.installed-$(shell { cat pyproject.toml $(LOCK); echo '$(LOCK) $(TORCH)'; } | cksum | cut -d' ' -f1)
# Waiting threads must not take a core from another process.
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifneq ($(LOCK),)
ifeq ($(wildcard $(LOCK)),)
$(error LOCK=$(LOCK): no such file; give LOCK=requirements-lock.txt, or LOCK= for unpinned versions)
endif
endif

.PHONY: help install reproduce verify test lab book lock clean clean-venv
MAKEFLAGS += --no-builtin-rules

help:
	@sed -n '1,8s/^# \{0,1\}//p' Makefile

install: $(STAMP)

# exec, here and below: the command is then make's own child, and ends when make is killed.
reproduce: $(STAMP)
	@exec $(PY) -m p2es_lib.cli reproduce --stop-with-parent --profile '$(PROFILE)' --dataset '$(DATASET)' \
	  --seeds '$(SEEDS)' $(if $(MIRROR),--mirror '$(MIRROR)') $(if $(JOBS),--jobs '$(JOBS)')

verify: $(STAMP)
	@exec $(PY) -m p2es_lib.cli verify --profile '$(PROFILE)' --dataset '$(DATASET)'

# One worker per core, at most eight: each loads torch. JOBS sets another number.
test: $(STAMP)
	@workers='$(JOBS)'; [ -n "$$workers" ] || workers=$$($(PY) -c 'from p2es_lib.companion.workflow import check_jobs; print(min(8, check_jobs(None)))'); \
	OMP_NUM_THREADS=1 exec $(PY) -m pytest -n "$$workers" --dist worksteal --durations 15

# Not "jupyter lab", which takes the first jupyter-lab on PATH: another installation's may come before this one. JUPYTER_PATH
# for the same reason: the notebooks ask for the kernel python3, and a user or a system may have one of that name. The
# root is this folder, so that the library can be read beside the notebooks; kernels start in notebooks/, hence the
# absolute P2ES_HOME.
lab: $(STAMP)
	@export JUPYTER_PATH="$$(cd '$(VENV)' && pwd)/share/jupyter$${JUPYTER_PATH:+:$$JUPYTER_PATH}"; \
	case "$$P2ES_HOME" in ''|/*|'~'*) ;; *) export P2ES_HOME="$$PWD/$$P2ES_HOME";; esac; \
	exec $(PY) -m jupyterlab --ServerApp.root_dir="$$PWD" --LabApp.default_url=/lab/tree/notebooks $(LAB)

# From finished runs: nothing is executed, and nothing fetched. The notebooks of PROFILE and DATASET come first.
book: $(STAMP)
	@exec $(PY) book/build.py --profile '$(PROFILE)' --dataset '$(DATASET)'

# Renew requirements-lock.txt from what is installed (after: make clean-venv && make LOCK= test).
lock: $(STAMP)
	@{ sed -n '/^#/p' requirements-lock.txt; $(PY) -m pip freeze --exclude-editable | sed 's/+.*//'; } > .lock.tmp
	@mv .lock.tmp requirements-lock.txt
	@echo "requirements-lock.txt: $$(grep -c == requirements-lock.txt) packages"

# Raw recordings stay: fetching them again may take hours; so do figures, and the shards in data/prepared, of which a
# preparation keeps what did not change. What killed processes left half-written goes.
clean:
	@home="$${P2ES_HOME:-.}"; rm -rf "$$home/runs" "$$home/data/windows" "$$home/.snakemake"; \
	[ ! -d "$$home/data" ] || find "$$home/data" -path "$$home/data/raw" -prune -o -name '.*.tmp[0-9a-f]*' -prune -exec rm -rf {} +; \
	echo "removed runs, data/windows, .snakemake and unfinished files in $$home (data/raw, data/prepared and figures were kept)"

clean-venv:
	rm -rf $(VENV)

# The file .installing stands in a new environment until its first installation has ended: a killed one starts over.
$(STAMP):
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) not found; Python 3.11 or newer is needed (make PYTHON=/path/to/python3 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version 2>&1) is too old; Python 3.11 or newer is needed (make PYTHON=python3.12 ...)" >&2; exit 1; }
	@if [ -e $(VENV)/.installing ]; then echo "an earlier installation was interrupted; starting it again"; rm -rf $(VENV); fi
	@if ! $(PY) -c 'import pip' 2> /dev/null; then \
	  echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  mkdir -p $(VENV) && : > $(VENV)/.installing && $(PYTHON) -m venv $(VENV) || { \
	    echo "error: no virtual environment could be made in $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; fi
	@echo "installing into $(VENV): about 200 packages, some minutes the first time (log: $(VENV)/install.log)"
	@rm -f $(VENV)/.installed-*
	@{ $(if $(LOCK),grep -v '^#' $(LOCK),$(PY) -c \
	  'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = project["optional-dependencies"]; \
  print(*project["dependencies"], *(name for key in extras if key != "all" for name in extras[key]), sep="\n")') \
	  $(if $(TORCH),| grep -v -E '^torch(==.*)?$$'; echo 'torch==$(TORCH)'); } > $(VENV)/requirements.txt
	@$(PY) -m pip install -r $(VENV)/requirements.txt > $(VENV)/install.log 2>&1 & pid=$$!; \
	trap 'kill $$pid 2> /dev/null; wait $$pid; exit 130' INT TERM HUP; seconds=0; \
	while kill -0 $$pid 2> /dev/null; do \
	  sleep 1; seconds=$$((seconds + 1)); \
	  if [ $$((seconds % 15)) -eq 0 ]; then \
	    echo "  $$seconds s: $$(grep -c -E '^(Collecting|Processing) ' $(VENV)/install.log) packages chosen," \
	      "$$(ls -d $(VENV)/lib/python3*/site-packages/*.dist-info 2> /dev/null | wc -l | tr -d ' ') installed"; fi; done; \
	wait $$pid || { grep -v '^ *WARNING' $(VENV)/install.log | tail -n 15 >&2; \
	  echo "error: the installation failed, see above; the same command tries again" >&2; exit 1; }
	@$(PY) -m pip install --no-deps -e . >> $(VENV)/install.log 2>&1 || { grep -v '^ *WARNING' $(VENV)/install.log | tail -n 15 >&2; exit 1; }
	@printf 'LOCK := %s\nTORCH := %s\n' '$(LOCK)' '$(TORCH)' > $(VENV)/choice.mk
	@rm -f $(VENV)/.installing; touch $@
	@echo "installed"
