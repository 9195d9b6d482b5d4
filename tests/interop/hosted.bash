# What the tests with PyTorch share; sourced by them.
#
#   hosted_begin PACKAGES    skips (77) where no Python has them or where the library is sanitized; makes the library and
#                            $work, a directory that goes with the test
#   hosted_shipped           writes the shipped DiT in diffusers' layout into $work/dit
#   hosted CASES.py          runs tests/interop/hosted/CASES.py on that library
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 2
python=${TORCH_PYTHON:-python3}

hosted_begin() {
    "$python" -c "import ${1// /, }" 2>/dev/null || {
        echo "no Python with ${1// /, }"
        exit 77
    }
    [ -z "${SANITIZE:-}" ] || {
        echo "a sanitized library does not load into Python"
        exit 77
    }
    work=$(mktemp -d) || exit 2
    trap 'rm -rf "$work"' EXIT
    build=$(realpath "${BUILD:-build}")
    make -s -C "$ROOT" library BUILD="$build" >"$work/log" 2>&1 || {
        cat "$work/log"
        exit 1
    }
}

hosted_shipped() {
    "$python" "$ROOT/tests/interop/make_diffusers.py" "${DATA:-data}/shapes-dit" "$work/dit" --null-label 1000 || exit 1
}

hosted() {
    OUSAC=$(realpath "${OUSAC:-build/ousac}") OUSAC_LIBRARY=$build/lib/libousac.so.0 OCA_LIBRARY=$build/lib/libousac.so.0 WORK=$work \
        PYTHONPATH=$ROOT/bindings/python:$ROOT/tests/interop PYTHONDONTWRITEBYTECODE=1 "$python" "$ROOT/tests/interop/hosted/$1" -v 2>&1 || exit 1
    echo "1 passed, 0 failed"
}
