#!/usr/bin/env bash
# The reader compiles everywhere with every warning on, and reads the golden archives on 32-bit and big-endian machines.
#
#   bash tests/interop/test_reader_portability.sh
#
# Compilers: gcc, g++, clang, clang++ of this machine; cross compilers i686, mips and s390x (Debian: gcc-i686-linux-gnu,
# gcc-mips-linux-gnu, gcc-s390x-linux-gnu, each with its libc6-dev-*-cross), run under qemu-user. What is missing is a
# counted skip.
set -u
. "$(dirname "$0")/../support/harness.bash"
cd "$ROOT" || exit 2

# try NAME COMMAND...: passes where it succeeds and says nothing.
try() {
    local name=$1
    shift
    if "$@" >"$WORK/out" 2>&1 && [ ! -s "$WORK/out" ]; then pass "$name"; else fail "$name" "$(head_of "$WORK/out")"; fi
}

common=(-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wcast-align -Wwrite-strings -Wundef
    -Wformat=2 -Wdouble-promotion -Wfloat-conversion -Wnull-dereference -Wvla -Wpointer-arith -Wswitch-enum
    -Wunused-macros -Wredundant-decls -Winit-self -Werror)
gcc_only=(-Wlogical-op -Wduplicated-cond -Wduplicated-branches -Wcast-align=strict -Wstrict-overflow=2)
c_only=(-Wstrict-prototypes -Wmissing-prototypes -Wbad-function-cast -Wnested-externs -Wold-style-definition)
# Of everything that clang can say: that structs have padding, that C has pointers and declares where it needs to, and
# in C++ that C casts and NULL are used.
clang_all=(-Weverything -Wno-unknown-warning-option -Wno-padded -Wno-unsafe-buffer-usage -Wno-switch-default
    -Wno-declaration-after-statement)
clang_cxx=(-Wno-old-style-cast -Wno-zero-as-null-pointer-constant)

# compile COMPILER STANDARD ARGUMENT...: formats/oca.c, without and with its macros.
compile() {
    local compiler=$1 standard=$2 macros
    shift 2
    if ! command -v "$compiler" >/dev/null; then
        skip "no $compiler"
        return
    fi
    for macros in "" "-DOCA_WITH_MMAP -D_POSIX_C_SOURCE=200809L" \
        "-DOCA_WITH_ZSTD -DOCA_WITH_MMAP -D_POSIX_C_SOURCE=200809L"; do
        case "$macros $compiler" in
        *ZSTD*-linux-gnu-*) continue ;; # the zstd of another machine is not here
        esac
        # shellcheck disable=SC2086 # a list of words
        try "$compiler -std=$standard $macros" "$compiler" "-std=$standard" -O2 $macros "$@" -I. -c formats/oca.c \
            -o "$WORK/oca.o"
    done
}

for standard in c99 c11; do
    compile gcc $standard "${common[@]}" "${gcc_only[@]}" "${c_only[@]}"
    compile clang $standard "${common[@]}" "${c_only[@]}" "${clang_all[@]}"
    compile i686-linux-gnu-gcc $standard "${common[@]}" "${gcc_only[@]}" "${c_only[@]}"
    compile mips-linux-gnu-gcc $standard "${common[@]}" "${gcc_only[@]}" "${c_only[@]}"
    compile s390x-linux-gnu-gcc $standard "${common[@]}" "${gcc_only[@]}" "${c_only[@]}"
done
compile g++ c++17 "${common[@]}" "${gcc_only[@]}" -x c++
compile clang++ c++17 "${common[@]}" "${clang_all[@]}" "${clang_cxx[@]}" -x c++

# --- reading ---
archives=(tests/golden/*.oca)
if ! "$PYTHON" tests/interop/check_portable.py frames "$WORK/frames" "${archives[@]}" 2>"$WORK/err"; then
    if grep -q NoZstd "$WORK/err"; then
        skip "reading: Python has no zstandard module, and there is no zstd program"
    else
        fail "reading"
    fi
    finish
    exit
fi

# reads NAME COMPILER STANDARD EMULATOR ARGUMENT...: the golden archives, against their recorded digests.
reads() {
    local name=$1 compiler=$2 standard=$3 emulator=$4
    shift 4
    if ! command -v "$compiler" >/dev/null || { [ -n "$emulator" ] && ! command -v "$emulator" >/dev/null; }; then
        skip "$name: no $compiler${emulator:+, or no $emulator}"
        return
    fi
    try "$name: compiles" "$compiler" "-std=$standard" -O1 -static "$@" -I. tests/interop/reader_portable.c \
        formats/oca.c -o "$WORK/reader"
    # shellcheck disable=SC2086 # a command or nothing
    if $emulator "$WORK/reader" "$WORK/frames" "${archives[@]}" >"$WORK/seen" 2>"$WORK/err" &&
        "$PYTHON" tests/interop/check_portable.py compare "$WORK/seen" >"$WORK/out" 2>>"$WORK/err"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name: $(tail -n 3 "$WORK/err")" >&2
    fi
}

reads "this machine" gcc c99 ""
reads "this machine, C++" g++ c++17 "" -x c++
reads "this machine, mapped" gcc c99 "" -DOCA_WITH_MMAP -D_POSIX_C_SOURCE=200809L
reads "32-bit little-endian" i686-linux-gnu-gcc c99 qemu-i386
reads "32-bit big-endian" mips-linux-gnu-gcc c99 qemu-mips
reads "32-bit big-endian, mapped" mips-linux-gnu-gcc c99 qemu-mips -DOCA_WITH_MMAP -D_POSIX_C_SOURCE=200809L
reads "64-bit big-endian" s390x-linux-gnu-gcc c99 qemu-s390x
reads "64-bit big-endian, mapped" s390x-linux-gnu-gcc c99 qemu-s390x -DOCA_WITH_MMAP -D_POSIX_C_SOURCE=200809L

finish
