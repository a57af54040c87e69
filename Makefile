# The verbs of this project. Each does all its own set-up; the VMs take what
# they need from Debian.

export CGO_ENABLED = 0
GOFLAGS_BUILD = -trimpath -ldflags='-s -w'
TEST_TIMEOUT = 80m

.PHONY: build run demo demo-shell test race generate fuzz golden lint bench

build: ## the extension for this host
	go build $(GOFLAGS_BUILD) -o build/kmodquery.ext ./extension

run: build ## the extension on this host: its SQL shell, or an overview without a terminal
	./build/kmodquery.ext query

demo: ## the extension in a VM that loads modules
	go run ./test/demo

demo-shell: ## the same, ending in the VM's SQL shell
	go run ./test/demo -shell

test: ## everything: unit, golden, scripts, fuzz seeds, VM matrix
	go test -timeout $(TEST_TIMEOUT) ./...

# Needs cgo: gcc, and the C library's headers (libc6-dev on Debian), and half a
# gigabyte of memory. The packages come one after another, because each makes work
# enough for the processors; test/race says how much is left out for it. SQLite's
# own code is not watched: it is translated from C, has locks of its own, and would
# take most of the time. Those of test/e2e run what they test as processes of their
# own, which only the scripts for any host build for it.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false
race: ## the tests that need no VM under Go's race detector (needs gcc and libc6-dev)
	CGO_ENABLED=1 go test $(RACE) -p 1 -timeout 20m $$(go list ./... | grep -v -e /test/e2e -e /test/vm -e /test/demo)
	CGO_ENABLED=1 go test $(RACE) -short -timeout 20m -run '^TestScripts$$' ./test/e2e

generate: ## the BPF objects (needs clang and libbpf-dev) and the column reference
	go generate ./...
	go test ./tables -golden

golden: ## rewrite the golden files after a wanted change
	go test ./tables -golden

FUZZ_TIME = 30s
fuzz: ## every fuzzer for FUZZ_TIME
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$$file" | while read -r name; do \
			echo "$$name in $$(dirname "$$file")"; \
			go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZ_TIME) "$$(dirname "$$file")"; \
		done; \
	done

GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
lint: ## vet and build for every platform, golangci-lint with the dependency rule
	@for os in linux darwin; do for arch in amd64 arm64; do \
		echo "$$os/$$arch"; \
		GOOS=$$os GOARCH=$$arch go vet ./... && GOOS=$$os GOARCH=$$arch go build ./... || exit 1; \
	done; done
	go run $(GOLANGCI) run ./...

bench: ## the benchmarks
	go test -run '^$$' -bench . -benchmem ./...
