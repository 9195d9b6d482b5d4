# What the tests of the calibration commands share: where things are, a directory for them, and checks that print one
# line each and are counted. Sourced, not run.
# shellcheck shell=bash
OUSAC=${OUSAC:-build/ousac}
DATA=${DATA:-data}
PYTHON=${PYTHON:-python3}
MODEL=$DATA/shapes-dit/model.safetensors
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
passed=0
failed=0
skipped=0

# From then on there is no gnuplot that works: for tests of something else, which would wait for plots.
hide_gnuplot() {
    mkdir "$WORK/bin" && printf '#!/bin/sh\nexit 1\n' >"$WORK/bin/gnuplot" && chmod +x "$WORK/bin/gnuplot"
    PATH=$WORK/bin:$PATH
}

skip() {
    skipped=$((skipped + 1))
    echo "skipped: $1"
}

pass() {
    passed=$((passed + 1))
    echo "ok      $1"
}

fail() {
    failed=$((failed + 1))
    echo "FAILED  $1"
    sed 's/^/        /' "$WORK/out" "$WORK/err" 2>/dev/null | head -20
}

# check NAME COMMAND...: the command succeeds.
check() {
    local name=$1
    shift
    if "$@" >"$WORK/out" 2>"$WORK/err"; then pass "$name"; else fail "$name"; fi
}

# ousac NAME CODE PATTERN ARGUMENT...: exit code and, on standard output or error, a pattern.
ousac() {
    local name=$1 code=$2 pattern=$3
    shift 3
    "$OUSAC" "$@" >"$WORK/out" 2>"$WORK/err"
    local got=$?
    if [ $got -eq "$code" ] && cat "$WORK/out" "$WORK/err" | grep -qE -- "$pattern"; then
        pass "$name"
    else
        echo "exit code $got, expected $code; expected to find: $pattern" >>"$WORK/err"
        fail "$name"
    fi
}

# json NAME EXPRESSION: standard output of the last command is one JSON object, and the expression on it (as `r`) holds.
json() {
    check "$1" "$PYTHON" -c 'import json, sys
r = json.load(open(sys.argv[1]))
assert isinstance(r, dict) and eval("(" + sys.argv[2] + ")"), r' "$WORK/stdout" "$2"
}

keep() {
    cp "$WORK/out" "$WORK/stdout"
}

# The count, and whether all passed.
finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
