# The two commands a newcomer needs, and their siblings. Each is a chore of `cargo xtask`.

# Outside the tree, so that a fresh clone reuses what was built.
CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tortie/target
export CARGO_TARGET_DIR

.PHONY: toolchain setup demo test bench ci

# rustup may be told not to install by itself, and then cargo does nothing until this is done. Without updating
# itself: that fails where CARGO_HOME is not the folder it was installed into.
toolchain:
	@rustup which rustc >/dev/null 2>&1 || { \
	  echo "  ...   Rust toolchain of rust-toolchain.toml"; \
	  quiet=; [ -t 1 ] || quiet=-q; \
	  rustup $$quiet toolchain install --no-self-update || { \
	    echo "run by hand, in this folder: rustup toolchain install --no-self-update"; exit 1; }; }

setup: toolchain
	@echo "  ...   the chores (cargo xtask)"
	@cargo xtask setup

# NODES=2: what happens between two nodes.
demo: setup
	@cargo xtask demo $(if $(NODES),--nodes $(NODES)) $(ARGS)

test: setup
	@cargo xtask test

bench: setup
	@cargo xtask bench $(or $(ARGS),local)

ci: test
