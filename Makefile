# Troupe. `make` lists what there is.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX  ?= /usr/local
DESTDIR ?=
SEEDS   ?= 1000
PODS    ?= 200

# grpcnotrace: gRPC's request log brings html/template, which finds methods by
# name, and then the linker cannot leave out any: 37 MB instead of 30.
# The daemon is pure Go; the monitor is cgo (libcontainer's nsenter); both are static.
PURE_TAGS    := containers_image_openpgp,exclude_graphdriver_btrfs,grpcnotrace
MONITOR_TAGS := seccomp,netgo,osusergo
STAMP        := -X main.version=$(VERSION)
PURE         := CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -ldflags '-s -w $(STAMP)'
CGO          := CGO_ENABLED=1 go build -trimpath -tags $(MONITOR_TAGS) -ldflags '-s -w -extldflags -static $(STAMP)'
TOOLS        := .cache/tools/bin
BENCH         = @CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -o .cache/bench ./e2e/bench && ./.cache/bench

# Packages whose tests run under the race detector (which needs cgo). The
# simulations are not among them: they are one goroutine, and ten times slower so.
RACE := ./messages/... ./actors/... ./supervisor/... ./cri/... ./cmd/troupe/...

.DEFAULT_GOAL := help
.PHONY: recovery sim help setup build test e2e critest vm-test lint bench density bench-logs bench-restart bench-pull demo install deps clean tools peers kubelet kubelet-test unit race kernel fuzz cve-test soak crash-test crash-some

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing (as root)
	@./tools/setup

build: ## build bin/troupe, bin/troupe-monitor, bin/troupe-sim; print their sizes
	@mkdir -p bin
	$(PURE) -o bin/troupe ./cmd/troupe
	$(PURE) -o bin/troupe-sim ./cmd/troupe-sim
	$(CGO) -o bin/troupe-monitor ./cmd/troupe-monitor
	@for b in troupe troupe-monitor troupe-sim; do \
	  printf '%-22s %8d KiB  %s\n' bin/$$b $$(( $$(stat -c %s bin/$$b) / 1024 )) \
	    "$$(file -b bin/$$b | grep -oE 'statically linked|dynamically linked|static-pie linked' || echo '?')"; done

test: build race unit kernel e2e crash-some ## run every test: unit, simulations, real kernel, end to end (as root)

race:
	CGO_ENABLED=1 go test -race -tags $(PURE_TAGS) $(RACE)

unit:
	CGO_ENABLED=0 go test -tags $(PURE_TAGS) ./cmd/... ./backends/... ./simulations/...
	CGO_ENABLED=0 go test -tags $(PURE_TAGS) -run Allocates ./actors ./cri # the race detector has allocations of its own

kernel:
	CGO_ENABLED=1 go test -tags $(MONITOR_TAGS) ./cmd/troupe-monitor/...

e2e: build tools ## run real containers through crictl, a real registry and real CNI plugins (as root)
	CGO_ENABLED=0 go test -count=1 -timeout 20m -tags $(PURE_TAGS) ./e2e/...

crash-test: tools ## kill daemon and monitor at every crash point, then judge the node; CRASH='-v -only <regexp>' (as root)
	@mkdir -p .cache/failpoints
	@CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS),failpoints -ldflags '-s -w $(STAMP)' -o .cache/failpoints/troupe ./cmd/troupe
	@CGO_ENABLED=1 go build -trimpath -tags $(MONITOR_TAGS),failpoints -ldflags '-s -w -extldflags -static $(STAMP)' -o .cache/failpoints/troupe-monitor ./cmd/troupe-monitor
	@CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -o .cache/crash ./e2e/crash && ./.cache/crash $(CRASH)

crash-some: CRASH = -every 15
crash-some: crash-test ## kill them at one point in fifteen, other ones each time: what CI has time for

sim: ## try SEEDS=1000 fresh seeds of PODS=200 pods with all faults in the simulator; a failure prints the shortest story it finds
	@mkdir -p bin && $(PURE) -o bin/troupe-sim ./cmd/troupe-sim && ./bin/troupe-sim seeds --all --seeds $(SEEDS) --pods $(PODS)

fuzz: ## try strangers' bytes on what parses them, FUZZTIME=60s each; TARGETS= names some (as root)
	@FUZZTIME='$(FUZZTIME)' TARGETS='$(TARGETS)' ./tools/fuzz.sh '$(PURE_TAGS)' '$(MONITOR_TAGS)'

cve-test: tools ## try each published hole of the other runtimes on a build with our guard and one without; CVE= names some (as root)
	@CGO_ENABLED=0 go build -trimpath -o .cache/cve ./e2e/cve && ./.cache/cve -run '$(CVE)'

lint: ## gofumpt, vet, staticcheck, and govulncheck where its database can be reached
	@./tools/lint.sh '$(PURE_TAGS)' '$(MONITOR_TAGS)'

kubelet-test: build kubelet ## run pods under a real kubelet and API server; a line for each item (as root)
	@CGO_ENABLED=0 go build -trimpath -o .cache/report ./e2e/report
	@CGO_ENABLED=0 go test -json -count=1 -timeout 20m -parallel 24 -tags kubelet,$(PURE_TAGS) $(if $(RUN),-run '$(RUN)') ./e2e/kubelet | ./.cache/report -log .cache/kubelet-test.log

vm-test: build tools $(TOOLS)/critest ## test in a Debian guest: systemd, cgroup v2, AppArmor, two kernels, a reboot; PARTS= KERNELS= (as root)
	@KERNELS='$(KERNELS)' ./e2e/vm.sh $(PARTS)

.PHONY: vm-power
vm-power: build ## take a Debian guest down, by reboot, reset and power cut, while pods come and go; ARGS='-rounds 5' (as root)
	@./e2e/vm-power.sh $(ARGS)

critest: build tools $(TOOLS)/critest ## run the CRI conformance suite, then in parallel; FOCUS= runs a part, HANDLER= another handler (as root)
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(TOOLS)/critest-standin ./e2e/critest/standin
	@CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -o .cache/critest-run ./e2e/critest && \
	  ./.cache/critest-run -focus '$(FOCUS)' -handler '$(HANDLER)'

bench: build tools peers ## measure Troupe beside containerd: calls, bursts, lists, memory, idle; write bench/RESULTS.md (as root)
	$(BENCH) pods $(ARGS)

density: build tools ## measure whether the thousandth pod costs what the tenth did; write bench/DENSITY.md (as root)
	$(BENCH) density $(ARGS)

bench-logs: build tools peers ## measure how fast a container can write, beside containerd and conmon; write bench/LOGS.md (as root)
	$(BENCH) logs $(ARGS)

bench-restart: build tools peers ## measure how soon a killed daemon answers for 300 pods; write bench/RESTART.md (as root)
	$(BENCH) restart $(ARGS)

recovery: build tools ## kill the daemon of PODS=500 pods and measure how soon they are back (as root)
	CGO_ENABLED=0 go test -count=1 -timeout 20m -tags $(PURE_TAGS) -run TestPodsComeBackSoon ./e2e -recovery-pods=$(if $(filter file,$(origin PODS)),500,$(PODS)) -v

bench-pull: build tools peers ## measure image pulls by Troupe, containerd and bare libraries; write bench/PULL.md (as root)
	@CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -o .cache/benchpull ./e2e/benchpull && ./.cache/benchpull $(ARGS)

demo: build ## watch a node come up, run two pods, survive a SIGKILL and go again (as root)
	@CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -o .cache/demo ./e2e/demo && ./.cache/demo

soak: build tools ## let 50 pods at a time come and go for SOAK=30m while daemon and monitor are killed; ARGS= (as root)
	@CGO_ENABLED=0 go build -trimpath -tags $(PURE_TAGS) -o .cache/soak ./e2e/soak && ./.cache/soak -for $(or $(SOAK),30m) $(ARGS)

install: build ## install binaries, units and configuration below $(DESTDIR)$(PREFIX) and $(DESTDIR)/etc
	@./packaging/install.sh '$(DESTDIR)' '$(PREFIX)'

deps: ## show that the daemon links neither runc nor cgo
	@mkdir -p .cache; CGO_ENABLED=0 go list -tags $(PURE_TAGS) -deps ./cmd/troupe > .cache/deps && \
	  echo "$$(wc -l < .cache/deps) packages; of runc: $$(grep -c opencontainers/runc .cache/deps); runtime/cgo: $$(grep -cx runtime/cgo .cache/deps)"

clean: ## remove what make built, the tools too
	rm -rf bin .cache bench/*.tmp

# Tools and peers are built when absent or when their pins (go.mod) changed.
tools: $(TOOLS)/crictl

$(TOOLS)/crictl: tools/crictl/go.mod tools/build.sh
	@./tools/build.sh crictl

$(TOOLS)/critest: tools/crictl/go.mod tools/build.sh
	@./tools/build.sh critest

kubelet: $(TOOLS)/kubelet

$(TOOLS)/kubelet: tools/kubelet/go.mod
	@./tools/build.sh kubelet

peers: $(TOOLS)/containerd

$(TOOLS)/containerd: tools/peers/go.mod tools/build.sh
	@./tools/build.sh peers

$(TOOLS)/staticcheck: tools/lint/go.mod tools/build.sh
	@./tools/build.sh lint
lint: $(TOOLS)/staticcheck
