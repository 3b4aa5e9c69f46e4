# make demo    set up, then the whole way on scikit-image's photographs (under 5 minutes on 2 cores)
# make test    set up, then the tests; make test-slow runs the slow ones, make lint the linter
# make test-gpu  set up, then the tests that need a GPU
# make clean   remove what these made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# a file's tests in one process; one more than there are processors, as many tests wait
PROCESSES = $(shell $(PYTHON) -c "import os; print(1 + (os.cpu_count() or 1))")
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile \
	--no-loadscope-reorder

.PHONY: demo test test-slow test-gpu lint clean

demo: $(VENV)/installed
	rm -rf demo
	mkdir -p demo/gray
	$(BIN)/python -c "from PIL import Image; from skimage import data; \
		[Image.fromarray(getattr(data, name)()).convert('L').save(f'demo/gray/{name}.png') \
		for name in ('camera', 'chelsea', 'coffee', 'astronaut')]"
	$(BIN)/python generate.py --checkpoint checkpoints/photos-128.pt --images demo/gray \
		--out demo/colored
	$(BIN)/python generate.py --checkpoint checkpoints/photos-128.pt --images demo/gray \
		--vividness 0.4 --out demo/vivid
	$(BIN)/python create_dataset.py --dataset sample --cache demo/cache
	$(BIN)/python train.py --cache demo/cache --out demo/run --loss plain --minutes 1 \
		--init checkpoints/celeba-64.pt --validate-every 100
	$(BIN)/python generate.py --cache demo/cache --checkpoint demo/run/best.pt --out demo/scores
	@echo
	@echo "Look at the photographs of demo/gray, colored: demo/colored, and more vividly demo/vivid."
	@echo "The network of faces, trained further just now on parts of six photographs, colors other"
	@echo "parts of them: demo/scores/grid.png (gray | ours | truth; best, median and worst), and"
	@echo "while it learned, demo/run/samples/. It has learned these six, and nothing about any"
	@echo "seventh: for that it takes thousands, see 'Data' in README.md."

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow" tests

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow tests

test-gpu: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m cuda tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf demo $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
