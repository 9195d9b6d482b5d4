# What the tests with PyTorch share beside tests/support/harness.bash, which it brings along; sourced by them.
#
#   hosted_begin PACKAGES    skips (77) where no Python has them or where the library is sanitized; makes the library
#   hosted_shipped           writes the shipped DiT in diffusers' layout into $WORK/dit
#   hosted CASES.py          runs tests/interop/hosted/CASES.py on that library, and ends the test
. "$(dirname "${BASH_SOURCE[0]}")/../support/harness.bash"
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
    make -s -C "$ROOT" library BUILD="$BUILD" >log 2>&1 || {
        cat log
        exit 1
    }
}

hosted_shipped() {
    "$python" "$ROOT/tests/interop/make_diffusers.py" "$DATA/shapes-dit" "$WORK/dit" --null-label 1000 || exit 1
}

hosted() {
    OUSAC_LIBRARY=$BUILD/lib/libousac.so.0 OCA_LIBRARY=$BUILD/lib/libousac.so.0 WORK=$WORK PYTHONDONTWRITEBYTECODE=1 \
        PYTHONPATH=$ROOT/bindings/python:$ROOT/tests/interop "$python" "$ROOT/tests/interop/hosted/$1" -v 2>&1 || exit 1
    pass
    finish
}
