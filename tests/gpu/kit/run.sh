#!/bin/sh
# Everything that this kit can find out on a machine with a GPU, in at most 8 minutes:
#
#     sh run.sh OUT [--emulated] [--parts LIST]
#
# OUT receives gpu.json (all figures), table.txt and a log for each part. Needs a driver, the libraries of CUDA 13 (of a
# Toolkit, or those that come with PyTorch) and Python 3; nothing is installed. --emulated runs the same on the processor,
# at toy sizes: that proves the kit, not the code. Exit code 0: nothing failed; 1: something did; 2: wrong arguments.
case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
here=$(cd "$here" && pwd) || exit 2
for python in "${PYTHON:-python3}" python3 /usr/bin/python3; do
    if command -v "$python" >/dev/null 2>&1; then exec "$python" "$here/tests/gpu/kit/kit.py" --kit "$here" "$@"; fi
done
echo "run.sh: no python3" >&2
exit 1
