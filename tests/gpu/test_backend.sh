#!/usr/bin/env bash
# Every operation of the CUDA backend against its double-precision reference: the unit tests of the operations, on the
# plug-in. Skipped (77) where no device can be opened; with OUSAC_GPU_REQUIRED=1 that is a failure.
#
#     BUILD=build [OUSAC_CUDA_PLUGIN=FILE] [WRAP=COMMAND] [WITHOUT="NAME ..."] bash tests/gpu/test_backend.sh
set -u

BUILD=${BUILD:-build}
export OUSAC_TEST_BACKEND=cuda OUSAC_CUDA_PLUGIN=${OUSAC_CUDA_PLUGIN:-$BUILD/libousac_cuda.so}
passed=0 failed=0
for test in products eigen elementwise rotate attention cross_attention attention_bf16 low_rank_bf16 reduce table weights sequence; do
    case " ${WITHOUT:-} " in *" $test "*) continue ;; esac
    # shellcheck disable=SC2086 # WRAP is a command and its options
    output=$(${WRAP:-} "$BUILD/tests/unit/calib/test_backend_$test" 2>&1)
    status=$?
    if [ $status = 77 ]; then
        echo "$output"
        exit 77
    fi
    if [ $status = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED  test_backend_$test"
        echo "$output"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
