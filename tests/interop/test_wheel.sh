#!/usr/bin/env bash
# The Python package: built, installed into an empty virtual environment that has NumPy and no torch, where it reads a bundle and
# calibrates through the library in it. Skipped (77) where wheels cannot be built or NumPy cannot be had. BUILD, DATA,
# PYTHON, TORCH_PYTHON as `make test` sets them.
set -u
ROOT=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
build=$(realpath "${BUILD:-build}")
data=$(realpath "${DATA:-data}")
[ -z "${SANITIZE:-}" ] || {
    echo "a sanitized library does not load into Python"
    exit 77
}
python=
for candidate in "${PYTHON:-python3}" "${TORCH_PYTHON:-python3}"; do
    "$candidate" -c 'import numpy, setuptools, venv, pip, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 61)' 2>/dev/null &&
        python=$candidate && break
done
[ -n "$python" ] || {
    echo "no Python with pip, venv, NumPy and setuptools 61"
    exit 77
}
make -s -C "$ROOT" wheel BUILD="$build" PYTHON="$python" >"$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
}
wheel=$(echo "$build"/wheel/ousac-*-py3-none-*.whl)
[ -f "$wheel" ] || {
    echo "no wheel: $wheel"
    exit 1
}
# NumPy is handed over: an index is not to be asked in a test.
numpy=$("$python" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))')
"$python" -m venv "$work/venv" || exit 1
"$work/venv/bin/python" -m pip install --quiet --no-deps --no-index "$wheel" || exit 1
site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
ln -s "$numpy/numpy" "$site/numpy"
[ ! -d "$numpy/numpy.libs" ] || ln -s "$numpy/numpy.libs" "$site/numpy.libs"
cd "$work" || exit 1
env -u OUSAC_LIBRARY -u OCA_LIBRARY -u PYTHONPATH "$work/venv/bin/python" - "$data" <<'EOF' || exit 1
import importlib.util
import sys

import ousac

assert importlib.util.find_spec("torch") is None
data = sys.argv[1]
schedule = ousac.Schedule.load(data + "/schedules/sparse.json")
with ousac.Context(data + "/shapes-dit/model.safetensors", micro_batch=2) as context:
    context.profile(data + "/schedules/sparse.json", "profile.oca", samples=2, pilot=2)
    context.plan("profile.oca", "plan.oca", budget_step=0.25, compare=False, forecast=0)
    context.pack("profile.oca", "plan.oca", "bundle.oca")
bundle = ousac.Bundle("bundle.oca")
assert bundle.schedule.digest() == schedule.digest() and len(bundle.sites) == 72, bundle
a, b = bundle.factors(0)
assert a.shape == (bundle.ranks[0], 192) and b.shape == a.shape and abs(a).max() > 0
try:
    ousac.Context("missing.safetensors")
    raise SystemExit("a missing model was opened")
except OSError as error:
    assert "missing.safetensors" in str(error)
print(bundle)
EOF
echo "1 passed, 0 failed"
