#!/bin/bash
# Replays every fuzz target over its committed corpus. BUILD names the build directory.
set -u
passed=0 failed=0
for target in "${BUILD:-build}"/tests/fuzz/replay_*; do
    case $target in *.o | *.d) continue ;; esac
    name=${target##*/replay_}
    for seed in tests/fuzz/corpus/"$name"/*; do
        if "$target" "$seed" >/dev/null 2>&1; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "$name fails on $seed"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
