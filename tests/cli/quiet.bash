# Checks that print only what fails and are counted, for tests that work inside a directory of their own: the output of
# the last command is in `out` and `err` there. Sourced, not run.
# shellcheck shell=bash
passed=0 failed=0

pass() { passed=$((passed + 1)); }

fail() {
    failed=$((failed + 1))
    echo "FAILED: $1: $(head -c 600 out err 2>/dev/null)" >&2
}

# check NAME COMMAND...: the command succeeds.
check() {
    local name=$1
    shift
    if "$@" >out 2>err; then pass; else fail "$name"; fi
}

# refused NAME CODE TEXT COMMAND...: exit code, and one line on standard error that has the text.
refused() {
    local name=$1 code=$2 text=$3 got
    shift 3
    "$@" >out 2>err
    got=$?
    if [ $got = "$code" ] && [ "$(wc -l <err)" = 1 ] && grep -qF -- "$text" err; then
        pass
    else
        fail "$name: exit code $got, expected $code and '$text'"
    fi
}

# The count, and whether all passed.
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
