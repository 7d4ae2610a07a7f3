# Gatehouse: the commands of this repository. `make` lists them.

GO       ?= go
GOBIN    := $(CURDIR)/bin
FUZZTIME ?= 30s
BENCH    ?= .
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help build run test test-long bench bench-wire lint fuzz deps

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/gatehouse and bin/backends
	$(GO) build -trimpath -ldflags '-w -s' -tags nobadger,nomysql,nopgx -o bin/ ./cmd/...

run: build ## serve Caddyfile.example on http://localhost:8080, state in ./data
	./bin/gatehouse run --config Caddyfile.example --adapter caddyfile

test: deps ## run every test with the race detector; installs what they need
	$(GO) vet -race ./... # of the packages as the tests compile them, which saves compiling everything twice
	$(GO) test -race -p 3 -timeout 20m $$($(GO) list ./... | grep -v /integration) # they wait more than they work
	$(GO) test -race -timeout 20m ./integration/... # by itself: it loads the machine, and measures

test-long: deps ## the slow suites: crash and load tests at their full size
	GATEHOUSE_LONG=1 $(GO) test -race -timeout 60m $$($(GO) list ./... | grep -v /integration)
	GATEHOUSE_LONG=1 $(GO) test -race -timeout 60m ./integration/...

bench: ## run the benchmarks, e.g. make bench BENCH=Chain
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

# BENCH_PY is the side-by-side harness: CPU per request as a ratio to plain Caddy on the same core at the
# same time. aa is plain Caddy beside itself: what it shows is noise.
BENCH_PY ?= ../shared/bench/bench.py
export BENCH_WORK ?= $(or $(TMPDIR),/tmp)/gateway-bench
WIRE     := --rounds 12 --seconds 2 --fresh 4
bench-wire: build ## measure against plain Caddy on the wire, side by side (about 15 min on a quiet machine)
	python3 $(BENCH_PY) build --only tools,keys,caddy
	export BENCH_HS_SECRET="$$(cat $(BENCH_WORK)/keys/hs.secret)" && \
	python3 $(BENCH_PY) pair $(WIRE) --scenarios proxy --contestants aa --add aa=caddy,$(dir $(BENCH_PY))templates/caddy && \
	python3 $(BENCH_PY) pair $(WIRE) --scenarios hs_rl_rot,rs_rl_rot,es_rl_rot,rl_429 --contestants same-gogc,as-shipped \
		--add same-gogc=bin/gatehouse,integration/bench,GOGC=100 --add as-shipped=bin/gatehouse,integration/bench

# cmd/gatehouse/default.pgo is what the compiler optimises by. Make it anew when the path of a request has
# changed: take /debug/pprof/profile of the admin endpoint in each scenario of bench-wire, and merge them
# with `go tool pprof -proto -output cmd/gatehouse/default.pgo FILE...`.

lint: bin/golangci-lint ## run the linters of .golangci.yml
	$(GOBIN)/golangci-lint run ./...

fuzz: ## fuzz every parser of client bytes, FUZZTIME each
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

# The race detector needs a C compiler, the README's tour needs curl, jq and openssl, shared limits real Redis
# servers, shared rows a real PostgreSQL, which Debian puts beside the PATH, and a PgBouncer before it.
deps:
	@for c in postgres initdb; do command -v $$c || ls /usr/lib/postgresql/*/bin/$$c || missing=postgresql; done >/dev/null 2>&1; \
	PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || missing="$$missing pgbouncer"; \
	command -v node >/dev/null || missing="$$missing nodejs"; \
	for c in gcc curl jq openssl python3 redis-server redis-sentinel; do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
	/usr/bin/python3 -c 'import flask, h2, hypercorn' 2>/dev/null || missing="$$missing python3-flask python3-h2 python3-hypercorn"; \
	[ -z "$$missing" ] || (apt-get update && apt-get install -y --no-install-recommends libc6-dev ca-certificates $$missing)

bin/golangci-lint:
	GOBIN=$(GOBIN) $(GO) install $(GOLANGCI)
