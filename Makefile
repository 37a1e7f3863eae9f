# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
RECIPE ?= mini/llava
# What is installed besides the library (extras of pyproject.toml). Models in 4 bits need a GPU, so
# qlora comes only to a machine that has one. More, for example: make demo EXTRAS=test,page
comma := ,
EXTRAS ?= test$(if $(shell command -v nvidia-smi),$(comma)qlora)
# Another build of torch, for example for V100: TORCH_INDEX=https://download.pytorch.org/whl/cu126
TORCH_INDEX ?=
# More flags for JupyterLab, for example: make lab LAB="--no-browser --port=8899"
LAB ?=

BIN := $(VENV)/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
NBSTRIPOUT := $(BIN)/nbstripout --keep-id \
	--extra-keys "metadata.papermill cell.metadata.papermill metadata.language_info.version"

.PHONY: demo quick test test-all test-extras lint style types screenshots strip lab clean

# the whole method on the small synthetic world; ends with the table and the path of its page
demo: $(VENV)/.ok
	$(BIN)/hadpo run $(RECIPE)

# the same in under a minute: every stage, too few updates to learn much
quick: $(VENV)/.ok
	$(BIN)/hadpo run mini/llava-smoke

# style, types, and every test that is not slow
test: lint
	$(BIN)/python -m pytest

# the slow tests too
test-all: lint
	$(BIN)/python -m pytest -m ""

# the tests that need an extra: make test-extras EXTRAS=test,qlora,page,e2e,filters,fused
test-extras: $(VENV)/.ok
	$(BIN)/python -m pytest -m "extra and not slow"

lint: style types

style: $(VENV)/.ok
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(if $(NOTEBOOKS),$(NBSTRIPOUT) --verify $(NOTEBOOKS))

types: $(VENV)/.ok
	$(BIN)/pyright --pythonpath $(BIN)/python

# the pictures of the page and of Lab in README, taken anew by the browser tests (needs chromium)
screenshots: $(VENV)/.ok
	HADPO_SCREENSHOTS=$(CURDIR)/docs/screenshots $(BIN)/python -m pytest -m "" tests/e2e

# takes the outputs out of the notebooks
strip: $(VENV)/.ok
	$(if $(NOTEBOOKS),$(NBSTRIPOUT) $(NOTEBOOKS))

# JupyterLab on the walkthrough, reachable from this machine only
lab: $(VENV)/.ok
	$(BIN)/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=$(CURDIR) \
		$(if $(filter 0,$(shell id -u)),--allow-root) \
		--LabApp.news_url=None --LabApp.app_settings_dir=$(CURDIR)/.lab \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
		--KernelManager.transport_encryption=auto \
		$(LAB) notebooks/00_walkthrough.ipynb

# the environment and the caches; never runs/, data/ or models/
clean:
	rm -rf $(VENV) .ci/fresh build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# The demo and the tests need no network, and a test watches that they use none.
demo quick test test-all test-extras: export HF_HUB_OFFLINE = 1
demo quick test test-all test-extras: export HF_HUB_DISABLE_TELEMETRY = 1
demo quick test test-all test-extras: export GRADIO_ANALYTICS_ENABLED = False

# The mark says what was installed; asked for something else, the environment is brought up to it.
# Another build of a torch that is there already would be no reason for pip to change it.
ASKED := EXTRAS=$(EXTRAS) TORCH_INDEX=$(TORCH_INDEX)
ifneq ($(ASKED),$(shell cat $(VENV)/.ok 2>/dev/null))
.PHONY: $(VENV)/.ok
endif

$(VENV)/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("hadpo needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name another one with PYTHON=")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip uninstall --yes --quiet torch)
	$(BIN)/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e ".[$(EXTRAS)]"
	echo '$(ASKED)' > $@
