#!/bin/bash
# Runs test programs and scripts, two at a time on a machine with two processors, and counts.
#
#     [JOBS=N] bash tests/run.sh PROGRAM...
#
# A program ending in .sh runs under bash, one in .py under $PYTHON; exit status 77 is a skip, whose last line says why. A
# script with a line "# Runs alone" has the machine to itself. Prints the output of what fails; ends with "N passed, N failed,
# N skipped" over whole programs. JOBS: how many at a time, at most 4 unless it is given.
set -u
processors=$(nproc)
JOBS=${JOBS:-$((processors < 4 ? processors : 4))}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
export PYTHON=${PYTHON:-python3}

# one NUMBER PROGRAM: runs it, and leaves its last word in $results/NUMBER.passed, .failed or .skipped.
one() {
    local log=$results/$1.log program=$2 start status took command
    case $program in
    *.sh) command=(bash "$program") ;;
    *.py) command=("$PYTHON" "$program") ;;
    *) command=("$program") ;;
    esac
    start=$(date +%s.%N)
    # shellcheck disable=SC2086 # WRAP is a command and its options
    ${WRAP:-} "${command[@]}" >"$log" 2>&1 </dev/null
    status=$?
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }')
    {
        case $status in
        0) echo "ok       $program ($took) $(grep -oE '[0-9]+ test\(s\) run|^[0-9]+ passed, .*' "$log" | tail -n 1)" ;;
        77) echo "skipped  $program: $(tail -n 1 "$log")" ;;
        *)
            echo "FAILED   $program (exit $status, $took)"
            sed 's/^/    /' "$log"
            ;;
        esac
    } >"$results/$1.said"
    case $status in
    0) : >"$results/$1.passed" ;;
    77) : >"$results/$1.skipped" ;;
    *) : >"$results/$1.failed" ;;
    esac
    cat "$results/$1.said" # at once, so that the lines of two do not mix
}
count() { find "$results" -name "*.$1" | wc -l; }

number=0 running=0
for program in "$@"; do
    number=$((number + 1))
    alone=0
    case $program in
    *.sh) grep -q '^# Runs alone' "$program" && alone=1 ;;
    esac
    while [ $running -ge "$JOBS" ] || { [ $alone = 1 ] && [ $running -gt 0 ]; }; do
        wait -n
        running=$((running - 1))
    done
    one $number "$program" &
    running=$((running + 1))
    if [ $alone = 1 ]; then
        wait
        running=0
    fi
done
wait
echo "$(count passed) passed, $(count failed) failed, $(count skipped) skipped"
[ "$(count failed)" = 0 ] && [ "$(find "$results" -name '*.said' | wc -l)" = $# ]
