# Selkie's recipes. `make run` and `make test` are all a newcomer needs; both install what is missing.

SHELL := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=

# Where `make run` keeps its instance, apart from an installed one.
RUN_ROOT  := /var/lib/selkie-example
RUN_STATE := /run/selkie-example
EXAMPLE   := SELKIE_ROOT=$(RUN_ROOT) SELKIE_RUNROOT=$(RUN_STATE) SELKIE_NETWORK_PREFIX=selkiex \
             SELKIE_DEFAULT_SUBNET=10.87.0.0/16 SELKIE_SERVICE_SUBNET=10.97.0.0/16 SELKIE_CGROUP_PARENT=selkie-example
SELKIE    := $(EXAMPLE) target/release/selkie

# What the engine needs at run time (nft loads the base ruleset), and what makes the example image.
RUN_PACKAGES  := nftables busybox-static
# What the tests compare with and drive: oracles for the launcher, real clients, a real registry.
TEST_PACKAGES := $(RUN_PACKAGES) runc crun podman skopeo docker-registry curl jq iproute2 ca-certificates
BUILD_PACKAGES := gcc libc6-dev

.PHONY: build run stop test check bench install uninstall clean

## build: release binaries; the monitor static and at a fixed address: least memory for what runs once per container
build: target/.build-packages
	cargo build --release --locked --bin selkie
	cargo rustc --release --locked --bin selkie-monitor -- -C target-feature=+crt-static -C relocation-model=static
	cp target/release/selkie-monitor target/selkie-monitor-static

## run: bring up examples/manifests on this machine and show how it went
run: build target/.run-packages target/example-image.tar
	@contrib/example/up "$(RUN_ROOT)" "$(RUN_STATE)" $(SELKIE)

## stop: undo all of `make run`
stop:
	@contrib/example/down "$(RUN_ROOT)" "$(RUN_STATE)" $(SELKIE)

## test: format, lints, every test; what CI runs
test: target/.test-packages
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo build --locked --bins
	cargo test --locked

## check: the quick part of `test`, without privileges
check:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo test --locked --lib --bins --test fast

## bench: side by side with podman where it is installed
bench: build target/.test-packages
	SELKIE_MONITOR=$(CURDIR)/target/selkie-monitor-static cargo bench --locked --bench engine

target/example-image.tar: contrib/example/make-image
	@mkdir -p target
	contrib/example/make-image $@

# Packages are installed once; the stamp is forgotten with target/.
target/.build-packages target/.run-packages target/.test-packages:
	@mkdir -p target
	@packages='$(BUILD_PACKAGES)'; \
	case '$@' in *run-packages) packages='$(RUN_PACKAGES)';; *test-packages) packages='$(BUILD_PACKAGES) $(TEST_PACKAGES)';; esac; \
	case '$@' in *test-packages) command -v docker >/dev/null || packages+=' docker.io';; esac; \
	missing=(); for package in $$packages; do \
	  dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$$package"); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$${missing[@]}"; fi
	@touch $@

install: build
	install -Dm755 target/release/selkie $(DESTDIR)$(PREFIX)/bin/selkie
	install -Dm755 target/release/selkie-monitor $(DESTDIR)$(PREFIX)/libexec/selkie/selkie-monitor
	install -Dm644 -t $(DESTDIR)/lib/systemd/system contrib/systemd/*.service contrib/systemd/*.socket
	install -d $(DESTDIR)/etc/selkie/manifests

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/selkie $(DESTDIR)$(PREFIX)/libexec/selkie/selkie-monitor
	for unit in contrib/systemd/*.service contrib/systemd/*.socket; do rm -f "$(DESTDIR)/lib/systemd/system/$${unit##*/}"; done

clean:
	cargo clean
