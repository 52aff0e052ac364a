# make demo: which rank is enough on real sentences? From nothing to an answer and a report. make test: the test suite.
# make claims: what papers and folklore say of LoRA, put to the test here in about 45 minutes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo claims claims-full test test-slurm test-trackio test-next fetch lint types constraints clean

demo: $(STAMP)
	$(BIN)/rankwise find experiment=demo method.rank=4,16,64 --rates default --seeds 5 --budget 15m --reference 'full method.lr=3e-4'
	$(BIN)/rankwise report outputs/demo

# The studies behind the claims, one after the other, a run per core. What has finished is skipped: after an
# interruption the same command goes on, and the full tier goes on from the quick one.
QUICK := core low_data quant forgetting lm
FULL := $(QUICK) targets scale variants lr lr_laws lookup

claims: fetch
	for study in $(QUICK); do $(BIN)/rankwise train experiment=claims/$$study || exit; done
	$(BIN)/rankwise claims $(QUICK:%=outputs/claims_%) --measure

claims-full: fetch
	for study in $(FULL); do $(BIN)/rankwise train experiment=claims/full/$$study || exit; done
	$(BIN)/rankwise claims $(FULL:%=outputs/claims_%) --tier full --measure --markdown outputs/claims_full.md

test: fetch
	OMP_NUM_THREADS=1 WANDB_MODE=offline $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST)

# On the Slurm that takes jobs from here; where there is none, on one of two nodes that the tests start.
test-slurm: fetch
	SLURM=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/study/test_slurm.py

# Trackio wants an older Pillow than the pinned one: an environment of its own.
test-trackio:
	test -x .venv-trackio/bin/python || $(PYTHON) -m venv .venv-trackio
	grep -v '^pillow=' constraints.txt > .venv-trackio/constraints.txt
	.venv-trackio/bin/python -m pip install --quiet --constraint .venv-trackio/constraints.txt \
	  --editable '.[trackio]' pytest hypothesis
	OMP_NUM_THREADS=1 .venv-trackio/bin/python -m pytest -rs tests/tracking/test_fields.py -k trackio

# The newest versions that the bounds allow, pre-releases too: an environment of its own. It uses what `make fetch` fetched.
test-next:
	test -x .venv-next/bin/python || $(PYTHON) -m venv .venv-next
	.venv-next/bin/python -m pip install --quiet --upgrade --pre --editable '.[dev]'
	OMP_NUM_THREADS=1 WANDB_MODE=offline .venv-next/bin/python -m pytest -n auto --dist worksteal $(PYTEST)

fetch: $(STAMP)
	$(BIN)/rankwise fetch
	$(BIN)/rankwise fetch model=smollm2_instruct task=define_words

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@# On all cores; it saves every process seconds. Some packages hold files for a later Python.
	$(BIN)/python -W ignore -m compileall -q -j 0 -x '/(tests|test)/' src $(VENV)/lib > /dev/null || true
	touch $@

# New versions for everyone: needs uv (in the dev extra).
constraints: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-header \
	  --no-annotate pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) build dist
