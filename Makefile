# What a person types. Rules longer than a few lines are scripts in tests/scripts/.
#
#   CARGO_TARGET_DIR   where cargo builds (default: target/)
#   PG_MAJOR           which Postgres to build for and test on, 14 to 18 (default: the newest installed)
#   MAJORS             which majors `make test-majors` runs, e.g. "17 18" (default: all)
#   DESTDIR            `make dist` also installs below this root
#   KEEP=1             `make demo` leaves everything running and says how to connect

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

scripts := tests/scripts
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))

# The crates whose tests need no service. pg_sync only links inside a server, so it is tested in SQL.
unit_crates := -p shared-format -p schema-mapping -p sqlite_sync -p hub
tidy := cargo test --package tests --test tidy

.PHONY: help demo test check test-unit test-postgres test-majors test-store test-e2e test-memory fuzz generate bench bench-sqlite bench-postgres bench-hub dist
.PHONY: build-tools test-tools

help: ## Lists these targets.
	@awk -F':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: dist ## Shows the main job end to end, on private servers (KEEP=1 leaves it running).
	cargo run --quiet --package tests --bin demo

test: check test-unit dist test-postgres test-e2e ## Runs everything.

check: build-tools ## Format, lints, tidy.
	cargo fmt --all --check
	cargo clippy --workspace --exclude pg_sync --exclude generate --all-targets -- -D warnings
	source $(scripts)/environment.sh && cargo clippy --package pg_sync \
		--no-default-features --features "pg$$PG_MAJOR" -- -D warnings
	$(tidy)

test-unit: build-tools ## Tests of the crates, without any service.
	cargo test $(unit_crates) --no-fail-fast

test-postgres: dist ## Regression tests of the Postgres extension, in SQL on a private server.
	pg_sync/tests/run.sh

test-majors: build-tools ## Those tests on the other majors of Postgres, as far as they can be had (minutes; no part of `make test`).
	pg_sync/run_majors.sh $(MAJORS)

test-store: build-tools test-tools ## The hub's object stores against the S3 API.
	cargo test --package tests --test object_stores

test-e2e: dist test-tools ## The scenarios and the object stores: every part real, on private servers.
	cargo test --package tests --no-fail-fast

test-memory: build-tools ## Tests of the SQLite side under AddressSanitizer (minutes; needs nightly; no part of `make test`).
	$(scripts)/memcheck.sh

fuzz: build-tools ## Fuzzes every reader of foreign bytes, FUZZ_SECONDS each (default 1800); needs nightly.
	$(scripts)/fuzz.sh

generate: build-tools ## Writes the payload code from its schema again.
	cargo run --package generate

bench: dist ## Prints figures of the whole stack from one run.
	cargo run --quiet --release --package bench

bench-sqlite: build-tools ## Prints figures of the SQLite side beside plain SQLite and peers (ROWS, LARGE, RUNS).
	$(scripts)/dist_sqlite.sh
	$(scripts)/peers.sh
	cargo run --quiet --release --package bench --bin sqlite -- \
		rows=$(or $(ROWS),100000) large=$(or $(LARGE),1000000) runs=$(or $(RUNS),5)

bench-postgres: dist ## Prints figures of the Postgres side beside plain Postgres (ROWS, DECODED, FILLED, RUNS, ONLY).
	cargo run --quiet --release --package bench --bin postgres -- \
		rows=$(or $(ROWS),100000) decoded=$(or $(DECODED),1000000) filled=$(or $(FILLED),10000000) \
		runs=$(or $(RUNS),5) $(addprefix only=,$(ONLY))

bench-hub: dist ## Prints figures of the hub (ROWS, WAITING, COMMITS, SECONDS, ONLY).
	cargo run --quiet --release --package bench --bin hub-bench -- \
		rows=$(or $(ROWS),1000000) waiting=$(or $(WAITING),10000) commits=$(or $(COMMITS),500) \
		seconds=$(or $(SECONDS),10) $(addprefix only=,$(ONLY))

dist: build-tools ## Builds the artefacts in dist/; DESTDIR=... installs them.
	$(scripts)/dist.sh

build-tools:
	@$(scripts)/prepare.sh

test-tools: build-tools
	@$(scripts)/object_stores.sh
	@$(scripts)/schemathesis.sh
	@$(scripts)/hosts.sh
