#!/usr/bin/env bash
# What is built is not built again: `make demo` after `make test`, or either twice, compiles nothing.
#
#   BUILD=build bash tests/interop/test_rebuild.sh
#
# Runs alone: what others build meanwhile is not its own.
set -u
. "$(dirname "$0")/../support/harness.bash"

# built FILE: what is newer than it among what is compiled and linked
built() { find "$BUILD" -newer "$1" \( -name '*.o' -o -name '*.a' -o -name '*.so*' -o -name ousac -o -name 'test_*' \) -type f; }
again() {
    CUDA_ARCHS=$(cat "$BUILD/cuda-archs" 2>/dev/null) make -s -C "$ROOT" "$@" BUILD="$BUILD" ${SANITIZE:+SANITIZE="$SANITIZE"}
}

check "everything" again all library tests
touch since && sleep 0.05
check "everything again" again all library tests
check "compiles nothing" test -z "$(built since)"
finish
