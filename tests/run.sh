#!/bin/bash
# Runs test programs and scripts one after another, and counts.
#
#     bash tests/run.sh PROGRAM...
#
# A program ending in .sh runs under bash, one in .py under $PYTHON; exit status 77 is a skip, whose last line says why.
# Prints the output of what fails; ends with "N passed, N failed, N skipped" over whole programs.
set -u
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

for program in "$@"; do
    case $program in
    *.sh) command=(bash "$program") ;;
    *.py) command=("${PYTHON:-python3}" "$program") ;;
    *) command=("$program") ;;
    esac
    start=$(date +%s.%N)
    # shellcheck disable=SC2086 # WRAP is a command and its options
    ${WRAP:-} "${command[@]}" >"$log" 2>&1
    status=$?
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }')
    case $status in
    0)
        passed=$((passed + 1))
        echo "ok       $program ($took) $(grep -oE '[0-9]+ test\(s\) run|^[0-9]+ passed, .*' "$log" | tail -n 1)"
        ;;
    77)
        skipped=$((skipped + 1))
        echo "skipped  $program: $(tail -n 1 "$log")"
        ;;
    *)
        failed=$((failed + 1))
        echo "FAILED   $program (exit $status, $took)"
        sed 's/^/    /' "$log"
        ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
