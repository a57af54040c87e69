# The targets of this project. Each does all its own set-up; the VMs use Debian's
# packages.

export CGO_ENABLED = 0
GOFLAGS_BUILD = -trimpath -ldflags='-s -w'

.PHONY: build run demo demo-shell unit test test-all test-long race generate fuzz golden lint bench mac-capture

build: ## the extension for this host
	go build $(GOFLAGS_BUILD) -o build/kmodquery.ext ./extension

run: build ## the extension on this host: its SQL shell, or an overview without a terminal
	./build/kmodquery.ext query

demo: ## the extension in a VM that loads modules
	go run ./test/demo

demo-shell: ## the same, ending in the VM's SQL shell
	go run ./test/demo -shell

unit: ## the tests that boot no VM, in two minutes
	go test -short -p 4 ./...

# Packages that boot VMs run last. The others mostly wait, so more of them run in parallel
# than there are processors, and those that wait longest begin first.
HOST_TESTS = -p 4 -timeout 20m ./extension ./packs $$(go list ./... | grep -v -e /test/vm$$ -e /test/e2e$$)
GUEST_TESTS = -p 2 -timeout $(GUESTS_TIMEOUT) ./test/e2e ./test/vm
GUESTS_TIMEOUT = 30m

test: ## unit, golden, scripts, fuzz seeds, and the oldest and the newest kernel
	@echo 'Meant to end within 15 minutes on two processors; the first run also compiles and downloads.'
	@echo 'Downloads to .cache/vm: Linux 5.10 and 7.x and a few programs, about 150 MB from Debian. As root it'
	@echo 'installs what is missing: QEMU, kmod, e2fsprogs.'
	go run ./test/run $(HOST_TESTS) -- $(GUEST_TESTS)

test-all: export SUITE = all
test-all: GUESTS_TIMEOUT = 60m
test-all: ## everything, on every kernel of the matrix: what CI runs
	@echo 'Some 50 minutes on two processors. Downloads to .cache/vm: five kernels, about 350 MB from Debian.'
	go run ./test/run $(HOST_TESTS) -- $(GUEST_TESTS)

test-long: export SUITE = long
test-long: GUESTS_TIMEOUT = 6h
test-long: ## by hand before a release: 300 rounds of SIGKILL, storms five times as large, a whole systemd, an honest Debian
	@echo 'Some hours. Downloads to .cache/vm: five kernels, about 350 MB from Debian. As root it also installs a'
	@echo 'Debian with two kernels into .cache/vm/debian: some 500 MB to download, three gigabytes of disk.'
	go run ./test/run $(HOST_TESTS) -- $(GUEST_TESTS)

# Needs cgo (gcc and the C library's headers, libc6-dev on Debian) and half a gigabyte
# of memory. Races depend on the interleaving of operations, not on their number, so it
# runs the short suite, and test/race reduces the heavy work of tests further. SQLite's
# own code is not instrumented: it is translated from C, has its own locks, and would
# take most of the time. test/e2e runs the extension in processes of its own; only the
# scripts for any host build it with the race detector.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false
race: ## the tests that need no VM under Go's race detector (needs gcc and libc6-dev)
	CGO_ENABLED=1 go test $(RACE) -short -p 2 -timeout 20m $$(go list ./... | grep -v -e /test/e2e -e /test/vm -e /test/demo)
	CGO_ENABLED=1 go test $(RACE) -short -timeout 20m -run '^TestScripts$$' ./test/e2e

generate: ## the BPF objects (needs clang and libbpf-dev) and the column reference
	go generate ./...
	go test ./tables -run 'AsPublished$$' -golden
	go test ./packs -run 'AsPublished$$' -golden
	go test ./extension ./extension/shell -run 'AsPublished$$' -golden

golden: ## rewrite the golden files after an intended change
	go test ./tables -run 'AsPublished$$' -golden
	go test ./packs -run 'AsPublished$$' -golden
	go test ./extension ./extension/shell -run 'AsPublished$$' -golden

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

mac-capture: build ## on a Mac, with sudo: install the recorder, load an extension, and keep what both say in build/mac-capture
	sudo sh packaging/macos/capture.sh build/kmodquery.ext build/mac-capture

bench: ## the benchmarks
	go test -run '^$$' -bench . -benchmem ./...
