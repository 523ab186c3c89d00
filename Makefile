# `make` formats, lints and tests. `make help` lists the targets.
#
# golangci-lint runs by pinned version from the module proxy, so that it is no
# part of go.mod. It is built the first time, which takes two minutes or more;
# after that it comes from the build cache. It formats too, so that what `make
# fmt` writes is what `make lint` wants.

GO            ?= go
GOLANGCI_LINT := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

PKG          ?= ./...
TESTFLAGS    ?=
RAPID_CHECKS ?= 30
SOAK_CHECKS  ?= 5000
SOAK_TIMEOUT ?= 4h
BENCH        ?= .
BENCHTIME    ?= 1s
BENCHCOUNT   ?= 1
BENCHFLAGS   ?=
BENCHREAL    ?= checkout,hot,hot-256,lifecycle,order,history,seller,mixed,flash,own-writes,writers
AXES         ?= orders,holds,entries,buyer,seller,events
WITHIN       ?= 2h
SERVICES_DIR ?= data/services
INTEGRATION_DIR ?= data/integration
REAL         ?= ./infra/services ./infra/kafkabus ./infra/elasticviews ./infra/redisviews

.PHONY: all fmt lint vet test integration services-up services-down soak bench bench-real growth gobench build clean help
.DEFAULT_GOAL := all

all: fmt lint test ## format, lint and test (what `make` alone does)

fmt: ## format all Go files: gofumpt, and imports in three groups
	$(GOLANGCI_LINT) fmt

lint: ## run the linters chosen in .golangci.yml
	$(GOLANGCI_LINT) run $(PKG)

vet: ## a quick look by the compiler's own checker
	$(GO) vet $(PKG)

test: ## run all tests under the race detector, laws with RAPID_CHECKS cases each
	RAPID_CHECKS=$(RAPID_CHECKS) $(GO) test -race -timeout 20m $(TESTFLAGS) $(PKG)

services-up: ## start real Kafka, Elasticsearch and Redis on loopback, and say where they are
	infra/services/up.sh $(SERVICES_DIR)

services-down: ## stop what services-up started
	infra/services/down.sh $(SERVICES_DIR)

# The scenarios have run under the race detector already. On real servers they
# run as the program does, in half the time, and more at once, as they wait much.
integration: ## run the tests of real servers, and every scenario on them
	infra/services/up.sh $(INTEGRATION_DIR)
	status=0; \
	export CARTWRIGHT_SERVICES=$(abspath $(INTEGRATION_DIR))/env RAPID_CHECKS=$(RAPID_CHECKS); \
	$(GO) test -race -tags integration -count=1 -p 1 -timeout 30m $(TESTFLAGS) $(REAL) || status=$$?; \
	$(GO) test -tags integration -count=1 -parallel 3 -timeout 30m $(TESTFLAGS) . || status=$$?; \
	infra/services/down.sh $(INTEGRATION_DIR); exit $$status

soak: ## run all tests with SOAK_CHECKS cases a law: for a night
	CARTWRIGHT_SOAK=1 RAPID_CHECKS=$(SOAK_CHECKS) $(GO) test -count=1 -timeout $(SOAK_TIMEOUT) $(TESTFLAGS) $(PKG)

bench: build ## measure it on a server of its own, and write BENCHMARKS.md
	./cartwright bench all --out BENCHMARKS.md --revision "$$(git describe --always --dirty 2>/dev/null)" $(BENCHFLAGS)

bench-real: build ## the same beside real Kafka, Elasticsearch and Redis, each part a process, into BENCHMARKS.md
	infra/services/up.sh $(SERVICES_DIR)
	status=0; . $(SERVICES_DIR)/env; \
	CARTWRIGHT_KAFKA=$$KAFKA_BROKERS CARTWRIGHT_ELASTICSEARCH=$$ELASTICSEARCH_URL CARTWRIGHT_REDIS=$$REDIS_ADDR \
		./cartwright bench all --apart --section "real servers" --out BENCHMARKS.md --revision "$$(git describe --always --dirty 2>/dev/null)" \
		--pid kafka=$$(cat $(SERVICES_DIR)/kafka/pid),elasticsearch=$$(cat $(SERVICES_DIR)/elasticsearch/pid),redis=$$(cat $(SERVICES_DIR)/redis/pid) \
		--scenario $(BENCHREAL) $(BENCHFLAGS) || status=$$?; \
	infra/services/down.sh $(SERVICES_DIR); exit $$status

growth: build ## measure what grows with what there is already by AXES, up to a million, WITHIN a time, into BENCHMARKS.md
	./cartwright bench growth --only $(AXES) --within $(WITHIN) --out BENCHMARKS.md

gobench: ## run the benchmarks named by BENCH, BENCHCOUNT times
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(BENCHCOUNT) $(TESTFLAGS) $(PKG)

build: ## build the binary ./cartwright
	$(GO) build -trimpath -o cartwright .

clean: ## remove what building and profiling left, but no data
	rm -f cartwright *.prof *.test

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
