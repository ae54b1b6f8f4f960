# make help lists the targets. Each prints its minutes; .cache/timings.tsv keeps them.
ENV      ?= local
ARGS     ?=
HOST     ?= compute1
FROM     ?= 2013-01-01
TO       ?= 2014-01-01
PIPELINE ?= flights

SHELL    := bash
BIN      := .venv/bin
STAMP    := .venv/.lock-$(shell sha256sum requirements.txt | cut -c1-12)
INVENTORY = inventories/$(ENV)/hosts.yml
PLAYBOOK  = $(BIN)/ansible-playbook -i $(INVENTORY)
SCRIPTS   = $(shell git ls-files -co --exclude-standard ':!*.j2' | xargs grep -lE '^\#!.*(ba|/)sh$$')
timed     = @.ci/timed $@
system    = $(BIN)/pytest -m "not slow"
tests     = $(1:%=tests/system/test_%.py)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo lab deploy run destroy plan apply lint test-unit test-platform test-upgrade test-system test-terraform test-cloud test test-all test-chaos bench psql credentials ssh lock dashboards pictures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-15s\033[0m %s\n", $$1, $$2 }' Makefile
	@echo; echo "  ENV=$(ENV) chooses the inventory, ARGS adds arguments of ansible-playbook (deploy), psql or pytest."

setup: $(STAMP) ## system packages (as root on Debian/Ubuntu) and the virtual environment

$(STAMP): requirements.txt .ci/prerequisites .ci/venv
	@.ci/prerequisites
	@.ci/timed setup .ci/venv .venv requirements.txt
	@rm -f .venv/.lock-*; touch $@

demo: setup ## everything: lab hosts, platform, the flights pipeline over 2013, a summary
	$(timed) $(MAKE) --no-print-directory lab deploy run

lab: setup ## boot the lab hosts of inventories/local (root)
	$(timed) $(PLAYBOOK) playbooks/lab.yml $(ARGS)

deploy: setup ## ansible-playbook site.yml on ENV
	$(timed) $(PLAYBOOK) site.yml $(ARGS)

run: setup ## run PIPELINE over [FROM, TO) and print its summary
	$(timed) $(PLAYBOOK) playbooks/run_pipeline.yml -e pipeline=$(PIPELINE) -e from=$(FROM) -e to=$(TO) $(ARGS)

destroy: setup ## remove the lab: hosts, bridge, firewall rules (the caches stay)
	$(timed) $(PLAYBOOK) playbooks/lab.yml -e lab_state=absent

plan: setup ## what `make apply` would do to the cloud of ENV=dev|staging|prod
	$(timed) $(BIN)/python ansible/bin/cloud.py plan $(ENV) $(ARGS)

apply: setup ## make the machines of ENV=dev|staging|prod with Terraform and write their inventory
	$(timed) $(BIN)/python ansible/bin/cloud.py apply $(ENV) $(ARGS)

lint: setup ## ansible-lint, yamllint, ruff, sqlfluff, shellcheck, tflint
	$(timed) .ci/lint $(SCRIPTS)

test-unit: setup ## tests that need no hosts
	$(timed) $(BIN)/pytest tests/unit $(ARGS)

test-platform: setup ## molecule: deploy once, drift is found, a second run changes nothing else, hosts verified
	@$(BIN)/molecule reset --scenario-name platform >/dev/null
	$(timed) $(BIN)/molecule test --scenario-name platform --destroy never --no-command-borders

test-upgrade: setup ## molecule: the release before (ETL_UPGRADE_FROM, default HEAD~1), upgraded to this one, and taken back
	$(timed) $(BIN)/molecule test --scenario-name upgrade --no-command-borders

test-pipeline: setup ## on that deployment: the pipelines, against the oracles
	$(timed) $(system) $(call tests,flights sources orders ledger) $(ARGS)

test-observe: setup ## on that deployment: metrics, alerts, dashboards, logs
	$(timed) $(system) $(call tests,observe alerts dashboards log_lines snapshots runbooks upstream outages) $(ARGS)

test-rollback: setup ## on that deployment: restore, rollback, undo, drills
	$(timed) $(system) $(call tests,restore rollback rollback_notifier drills) $(ARGS)

test-terraform: setup ## Terraform modules and profiles over a mocked cloud
	$(timed) $(BIN)/pytest tests/cloud -m "not slow" $(ARGS)

test-cloud: setup ## the profile prod at full size on a real OpenStack whose hypervisor is nova's fake driver (root)
	$(timed) $(BIN)/pytest tests/cloud -m slow $(ARGS)

test: setup ## the landing gate: all of the above, with a table of minutes
	$(timed) .ci/suite lint test-unit test-terraform -- test-platform test-pipeline test-observe test-rollback

test-all: setup ## the gate, the slow system tests and the workflow check
	$(timed) env BUDGET_MINUTES=240 .ci/suite lint lint-workflows test-unit test-terraform -- test-platform test-pipeline test-observe test-rollback test-slow

test-slow: setup
	$(timed) $(BIN)/pytest tests/system -m slow $(ARGS)

test-chaos: setup ## on that deployment: everything that takes part in a run, killed at each of its steps (hours)
	$(timed) $(BIN)/pytest $(call tests,chaos) $(ARGS)

lint-workflows: setup
	$(timed) go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 -color

bench: setup ## print timings and memory (asserts nothing)
	$(timed) $(BIN)/python benchmarks/report.py -i $(INVENTORY) --deploy $(ARGS)
	$(timed) $(BIN)/python benchmarks/restore.py -i $(INVENTORY)
	$(timed) $(BIN)/python benchmarks/rollback.py

psql: $(STAMP) ## the published warehouse, read-only: make psql ARGS="-c 'table etl.run'"
	@$(BIN)/python ansible/bin/environment.py -i $(INVENTORY) psql -- $(ARGS)

credentials: $(STAMP) ## print URLs, users and passwords of ENV
	@$(BIN)/python ansible/bin/environment.py -i $(INVENTORY) credentials

ssh: $(STAMP) ## a shell on HOST
	@$(BIN)/python ansible/bin/environment.py -i $(INVENTORY) ssh $(HOST) -- $(ARGS)

LOCKS := requirements.txt $(patsubst %.in,%.txt,$(wildcard ansible/artifacts/python/*.in))
lock: setup ## recompile every Python lock file
	@for lock in $(LOCKS); do \
	  python=$$([ $$lock = requirements.txt ] && echo "--universal --python-version 3.11" || echo "--python-version 3.13 --python-platform x86_64-unknown-linux-gnu"); \
	  echo $$lock; UV_SYSTEM_CERTS=1 $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" $$python $(ARGS) $${lock%.txt}.in -o $$lock || exit 1; \
	done

dashboards: $(STAMP) ## regenerate Grafana's dashboards
	@$(BIN)/python -m roles.grafana.dashboards

pictures: $(STAMP) ## draw the dashboards into docs/pictures from what their queries return on ENV
	@PYTHONPATH=ansible/bin ETL_INVENTORY=$(INVENTORY) $(BIN)/python -m tests.pictures

clean: ## remove the virtual environment and the checkout's caches
	rm -rf .venv .cache .ansible .pytest_cache .ruff_cache
