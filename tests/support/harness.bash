# What shell tests share. Sourced first, not run:
#
#     . "$(dirname "$0")/../support/harness.bash"
#
# Sets, as absolute paths, ROOT, OUSAC, BUILD, DATA, MODEL (the shipped DiT) and MAKE_DIT (which writes a tiny one), and
# PYTHON. Makes WORK, a directory that goes with the test, and enters it. A test ends with `finish`.
#
#     exits NAME CODE COMMAND...           runs it, output in `out` and `err`, and checks the exit code
#     refused NAME CODE TEXT COMMAND...    likewise, and standard error is one line that has the text
#     ousac NAME CODE PATTERN ARGUMENT...  the program; the pattern is found on standard output or error
#     keep                                 copies `out` to `stdout`
#     json NAME EXPRESSION [FILE]          FILE (`stdout`) is one JSON object, and the Python expression on it (`r`) holds
#     says NAME FILE TEXT                  the file has the text
#     check NAME COMMAND...                the command succeeds, or skips by 77; `out` and `err` stay as they are
#     pass, fail NAME [LINE...], skip NAME
#
# Prints what fails and is skipped, with VERBOSE=1 what passes as well, and how many of each.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 2
BUILD=$(realpath "${BUILD:-$ROOT/build}") && OUSAC=$(realpath "${OUSAC:-$BUILD/ousac}") &&
    DATA=$(realpath "${DATA:-$ROOT/data}") || exit 2
PYTHON=${PYTHON:-python3}
MODEL=$DATA/shapes-dit/model.safetensors
MAKE_DIT=$BUILD/tests/tools/make_dit
export ROOT OUSAC BUILD DATA MODEL MAKE_DIT # for programs that a test writes
passed=0 failed=0 skipped=0
WORK=$(mktemp -d) || exit 2
trap 'rm -rf "$WORK"' EXIT
cd "$WORK" || exit 2

pass() {
    passed=$((passed + 1))
    [ -z "${VERBOSE:-}" ] || echo "ok      ${1:-}"
}

fail() {
    failed=$((failed + 1))
    echo "FAILED  $1"
    shift
    [ $# -gt 0 ] || set -- "stderr: $(head_of "$WORK/err")"
    printf '        %s\n' "$@"
}

skip() {
    skipped=$((skipped + 1))
    echo "skipped $1"
}

# Of a file, what is worth to be printed.
head_of() { head -c 600 "$1" 2>/dev/null; }

check() {
    local name=$1 got
    shift
    "$@" >"$WORK/checked" 2>&1
    got=$?
    if [ $got = 0 ]; then
        pass "$name"
    elif [ $got = 77 ]; then
        skip "$name: $(tail -n 1 "$WORK/checked")"
    else
        fail "$name: exit code $got" "command: $*" "$(head_of "$WORK/checked")" "stderr before: $(head_of "$WORK/err")"
    fi
}

exits() {
    local name=$1 want=$2 got
    shift 2
    "$@" >"$WORK/out" 2>"$WORK/err"
    got=$?
    if [ $got = "$want" ]; then
        pass "$name"
    else
        fail "$name: exit code $got, expected $want" "command: $*" "stderr: $(head_of "$WORK/err")"
    fi
}

refused() {
    local name=$1 want=$2 text=$3 got
    shift 3
    "$@" >"$WORK/out" 2>"$WORK/err"
    got=$?
    if [ $got = "$want" ] && [ "$(wc -l <"$WORK/err")" = 1 ] && grep -qF -- "$text" "$WORK/err"; then
        pass "$name"
    else
        fail "$name: exit code $got, expected $want and one line with '$text'" "command: $*" "stderr: $(head_of "$WORK/err")"
    fi
}

ousac() {
    local name=$1 want=$2 pattern=$3 got
    shift 3
    "$OUSAC" "$@" >"$WORK/out" 2>"$WORK/err"
    got=$?
    if [ $got = "$want" ] && cat "$WORK/out" "$WORK/err" | grep -qE -- "$pattern"; then
        pass "$name"
    else
        fail "$name: exit code $got, expected $want and to find: $pattern" "ousac $*" "$(head_of "$WORK/err")" "$(head_of "$WORK/out")"
    fi
}

keep() { cp "$WORK/out" "$WORK/stdout"; }

json() {
    local name=$1 expression=$2 file=${3:-stdout}
    if "$PYTHON" -c 'import json, sys
r = json.load(open(sys.argv[2]))
sys.exit(0 if isinstance(r, dict) and eval("(" + sys.argv[1] + ")") else "it is " + str(r)[:600])' \
        "$expression" "$file" >"$WORK/checked" 2>&1; then
        pass "$name"
    else
        fail "$name: not true of $file: $expression" "$(tail -n 1 "$WORK/checked")"
    fi
}

says() {
    if grep -qF -- "$3" "$2"; then pass "$1"; else fail "$1: $2 lacks '$3'" "it has: $(head_of "$2")"; fi
}

# From then on there is no gnuplot that works: for tests of something else, which would wait for plots.
hide_gnuplot() {
    mkdir "$WORK/bin" && printf '#!/bin/sh\nexit 1\n' >"$WORK/bin/gnuplot" && chmod +x "$WORK/bin/gnuplot"
    PATH=$WORK/bin:$PATH
}

# The count, and whether all passed.
finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
