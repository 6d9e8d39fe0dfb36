# `make run` and `make test` are all that a fresh machine needs: each makes .venv from the locked requirements when it is
# missing or older than its lock. Nothing is compiled and nothing is installed outside of this folder.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help run test lint bench pictures soak wheel guests lock clean

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## open the console on the demo guests (ARGS="FILE.cfg ..." opens it with others)
	@exec $(PY) -m xenconsole $(ARGS)

test: $(VENV)/.dev  ## all tests, with the style, type and import checks among them (ARGS="-k name" picks)
	@exec $(PY) -m pytest $(ARGS)

lint: $(VENV)/.dev  ## style, types and import contracts alone
	@$(VENV)/bin/ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.dev  ## the benchmarks (ARGS="boot speed" picks, ARGS="--write" keeps the table in docs/PERFORMANCE.md)
	@exec $(PY) -m tests.benchmarks $(ARGS)

pictures: $(VENV)/.dev  ## draw docs/pictures anew, with the real app on real guests (takes a minute)
	@test -e guests/linux-initramfs.cpio.gz || $(PY) guests/mkinitramfs.py -o guests/linux-initramfs.cpio.gz
	@exec $(PY) -m tests.pictures

soak: $(VENV)/.dev  ## ten minutes of seeded random keys on the whole app (ARGS="--seed N" repeats a run)
	@exec $(PY) -m tests.soak.random_keys $(ARGS)

wheel: $(VENV)/.dev  ## build dist/xenconsole-*.whl
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . && ls dist/*.whl

guests:  ## rebuild our own guests' images (needs gcc); the bytes stay the same
	@$(MAKE) --no-print-directory -C guests

lock: $(VENV)/.dev  ## resolve requirements*.txt anew from pyproject.toml
	@$(PY) -m venv build/lock && build/lock/bin/pip install --quiet 'pip-tools>=7.4,<8'
	@export PIP_CONFIG_FILE=/dev/null; flags="--quiet --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header --no-annotate --strip-extras"; \
	build/lock/bin/pip-compile $$flags -o requirements.txt pyproject.toml >/dev/null; \
	build/lock/bin/pip-compile $$flags --extra dev -o requirements-dev.txt pyproject.toml >/dev/null

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: requirements.txt
	@$(call install,$<)

$(VENV)/.dev: requirements-dev.txt
	@$(call install,$<)
	@touch $(VENV)/.run

# The checkout itself is put on the environment's path by a .pth file: no build step, and every change is seen at once.
define install
tell() { if [ -t 2 ]; then echo "xenconsole: $$*" >&2; fi; }; \
quiet=--quiet; if [ -t 2 ]; then quiet=; fi; \
if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	python=$$(sh .ci/python); \
	tell "making $(VENV) with $$python (this happens once)"; \
	$$python -m venv --clear $(VENV) || { rm -rf $(VENV); echo "xenconsole: $$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
fi; \
tell "installing what $(1) locks"; \
$(PY) -m pip install $$quiet --require-hashes --only-binary :all: -r $(1) >&2; \
pwd > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/xenconsole.pth"; \
touch $@
endef
