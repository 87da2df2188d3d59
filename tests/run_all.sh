#!/usr/bin/env bash
# Builds and runs the fuzzers, the layers' tests under AddressSanitizer and UBSan, and every test of the release
# build, in this order. `./run test` installs what this needs and calls it. Ends with one CTest summary per build
# and fails if any test failed. `./run sanitize` is the second part alone.
set -uo pipefail
cd "$(dirname "$0")/.."

jobs=$(nproc)
failed=0
step() {
  printf '\033[1m== %s\033[0m\n' "$1"
  shift
  "$@" || failed=1
}

configure_and_build() {
  local log
  log=$(mktemp)
  cmake --preset "$1" "${@:2}" > "$log" 2>&1 || { cat "$log"; exit 1; }
  cmake --build --preset "$1" -j "$jobs" || exit 1
}

printf '\033[1m== building the fuzzers\033[0m\n'
configure_and_build fuzz
step "fuzzing" ctest --test-dir build-fuzz --output-on-failure -j "$jobs"

printf '\033[1m== building with sanitizers\033[0m\n'
configure_and_build asan -DTROUPE_TESTS=ON
step "tests of the layers, sanitized" ctest --test-dir build-asan --output-on-failure -j "$jobs" -LE release_only

printf '\033[1m== building the release\033[0m\n'
configure_and_build release -DTROUPE_TESTS=ON
step "tests of the release" ctest --test-dir build --output-on-failure -j "$jobs"

exit "$failed"
