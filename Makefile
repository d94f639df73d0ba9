# make setup | demo | test | test-ros | fuzz | check | bench      (demo and test do the set-up themselves)
EPISODES ?= 3
SEED ?= 0
SPEED ?= 1
CHECKPOINT ?=
TASK ?= transfer_cube
CASES ?= 10000
ARGS ?=

.PHONY: setup setup-libero demo test test-ros fuzz check bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a simulated bimanual robot runs under RD-VLA over ROS 2 (EPISODES=$(EPISODES) SEED=$(SEED) SPEED=$(SPEED) CHECKPOINT=$(or $(CHECKPOINT),the task's) TASK=$(TASK))"
	@echo "make test    the whole suite"
	@echo "make test-ros  the tests that need launch, message_filters, cv_bridge or lerobot, where these are on the path (docs/testing.md)"
	@echo "make fuzz    the property tests with cases of their own each time, CASES=$(CASES) of them for the nodes"
	@echo "make check   style and imports"
	@echo "make bench   speed, as ratios against named baselines (ARGS=...)"
	@echo "make setup   .venv/ and install/ only"
	@echo "make setup-libero  .venv-libero/, the simulator of 'rdvla evaluate --suite' (340 MiB of scenes)"

setup:
	@bash scripts/setup.sh

setup-libero:
	@bash scripts/setup_libero.sh

demo: setup
	@exec scripts/run -m rdvla_ros.cli demo --episodes $(EPISODES) --seed $(SEED) --speed $(SPEED) --checkpoint "$(CHECKPOINT)" --task $(TASK) $(ARGS)

test: setup
	@bash scripts/test.sh $(ARGS)

test-ros:
	@bash scripts/test_ros.sh $(ARGS)

fuzz: setup
	@RDVLA_FUZZ=$(CASES) scripts/run -m pytest test -m "hypothesis and not real_time" -n 2 --timeout 3600 $(ARGS)

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@scripts/run -m pytest -q test/test_import_rule.py

bench: setup
	@scripts/run -m rdvla_ros.cli bench head $(ARGS)
	@scripts/run -m rdvla_ros.cli bench seams

clean:
	rm -rf build install log .venv/.rdvla/build
