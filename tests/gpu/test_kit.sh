#!/usr/bin/env bash
# The kit for machines where nothing may be installed (tests/gpu/kit), on the emulation, in a root directory that holds the
# C library, a shell and Python and nothing else. Skipped (77) where no such root can be entered.
#
#     BUILD=build DATA=data bash tests/gpu/test_kit.sh
set -u

BUILD=${BUILD:-build} DATA=${DATA:-data} PYTHON=${PYTHON:-python3}
case $BUILD in *asan* | *tsan*) echo "the programs of this build need their sanitizer's library" && exit 77 ;; esac
HERE=$(dirname "$0")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
enter=(unshare --mount)
[ "$(id -u)" = 0 ] || enter=(unshare --map-root-user --mount)
if ! "${enter[@]}" true 2>/dev/null; then
    echo "this system lets nobody make a root of his own"
    exit 77
fi
plugin=
[ -e "$BUILD/libousac_cuda.so" ] && plugin=$BUILD/libousac_cuda.so
root=$WORK/root
mkdir -p "$root"/{bin,dev,proc,tmp,out}
BUILD=$BUILD DATA=$DATA PLUGIN=$plugin bash "$HERE/kit/pack.sh" "$root/kit" >"$WORK/packed" || { cat "$WORK/packed"; exit 1; }

# A shell and a Python with its own library, and what these load.
closure() { ldd "$@" 2>/dev/null | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) { sub(/:$/, "", $i); print $i } }' | sort -u; }
cp -L "$(command -v dash || command -v sh)" "$root/bin/sh"
"$PYTHON" -c '
import os, sys, sysconfig
print(os.path.realpath(sys.executable), sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED") or "", sep="\n")' >"$WORK/python"
{ read -r python && read -r library && read -r modules; } <"$WORK/python"
mkdir -p "$root$library" "$root$(dirname "$python")"
cp -L "$python" "$root$python"
tar -C "$library" --exclude=./site-packages --exclude=./dist-packages --exclude=./test --exclude=__pycache__ --exclude=./config-* -cf - . | tar -C "$root$library" -xf -
closure "$root/bin/sh" "$python" "$modules"/*.so | while read -r file; do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
done

# shellcheck disable=SC2016 # expanded by the inner shell
"${enter[@]}" sh -c 'mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" 2>/dev/null; exec chroot "$1" /bin/sh -c "PYTHON=$2 exec sh /kit/run.sh /out --emulated"' \
    - "$root" "$python" </dev/null >"$WORK/log" 2>&1
code=$?
fail() {
    echo "FAILED  $1"
    cat "$root"/out/*.log 2>/dev/null | tail -n 40
    cat "$WORK/log"
    exit 1
}
[ $code = 0 ] || fail "exit code $code"
[ "$(find "$root/out" -type f | wc -l)" -le 8 ] || fail "more than 8 files"
"$PYTHON" - "$root/out/gpu.json" <<'PYTHON' || fail "the report"
import json
import sys

result = json.load(open(sys.argv[1]))
parts = result["parts"]
assert result["emulated"]
assert list(parts) == ["facts", "operations", "pipeline", "memory", "speed", "blocks", "factors", "sanitizer"]
for name, part in parts.items():
    assert part["status"] == ("needs a device" if name == "sanitizer" else "passed"), (name, part)
assert all(found["tests"] > 0 for found in parts["operations"]["figures"].values())
assert float(parts["pipeline"]["figures"]["differences"]["end-to-end error"]) < 0.01
assert parts["memory"]["figures"]["refused"] == 2 and parts["memory"]["figures"]["resumed"] == 1
assert parts["speed"]["figures"]["forward"][0]["cached"]["floor_seconds"] > 0
PYTHON
echo "1 passed, 0 failed"
