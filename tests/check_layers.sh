#!/bin/sh
# The layers point downward only: formats < calib < profile < pipeline < tools, in their wings too. BLAS and LAPACK
# in one file, MPI in another, CUDA in one folder; the reader alone.
set -eu
cd "$(dirname "$0")/.."
failed=0

complain() {
    echo "layers: $1" >&2
    failed=1
}

in_layer() { # in_layer PATTERN LAYER...: lines of C sources and headers that match
    pattern=$1
    shift
    grep -rnE --include='*.[ch]' "$pattern" "$@" 2>/dev/null || true
}

forbid() { # forbid LAYER UPPER: no source of the layer includes one of these
    lines=$(in_layer "^[[:space:]]*#[[:space:]]*include[[:space:]]*[\"<]($2)/" "$1")
    [ -z "$lines" ] || complain "$1 reaches up:
$lines"
}
forbid formats 'calib|profile|pipeline|tools|tests'
forbid calib 'profile|pipeline|tools|tests'
forbid profile 'pipeline|tools|tests'
forbid pipeline 'tools|tests'
forbid tools 'tests'

library='formats calib profile pipeline'
# shellcheck disable=SC2086 # a list of folders
{
    blas=$(in_layer '(cblas|lapacke?)\.h|cblas_|LAPACKE_' $library tools | grep -v '^calib/backend/backend_cpu\.c:' || true)
    [ -z "$blas" ] || complain "BLAS or LAPACK outside calib/backend/backend_cpu.c: $blas"

    mpi=$(in_layer '<mpi\.h>|\bMPI_[A-Z][a-z]+' $library tools | grep -v '^tools/mpi/link\.c:' || true)
    [ -z "$mpi" ] || complain "MPI outside tools/mpi/link.c: $mpi"

    cuda=$(in_layer '(cuda|cublas|cusolver)[A-Za-z_0-9]*\.h[>"]|\bcu(da|blas|solver)[A-Z][A-Za-z]+ *\(|ifn?def.*CUDA' $library tools |
        grep -v '^calib/cuda/' || true)
    [ -z "$cuda" ] || complain "CUDA outside calib/cuda/: $cuda"

    printing=$(in_layer '\b(printf|puts|perror|exit|abort)[[:space:]]*\(' $library | grep '\.c:' |
        grep -vE 's?n?printf *\(.*(sizeof|size|text|name|message)|vsnprintf|snprintf|fprintf *\(f' || true)
    [ -z "$printing" ] || complain "library code prints or exits:
$printing"

    raw=$(in_layer '\b(malloc|calloc|realloc|strdup)[[:space:]]*\(' $library | grep '\.c:' |
        grep -v 'ousac_\|formats/oca\.c\|formats/memory\.c' || true)
    [ -z "$raw" ] || complain "allocations around formats/memory.h:
$raw"
}

reader=$(grep -nE '^#[[:space:]]*include[[:space:]]*"' formats/oca.c formats/oca.h | grep -v '"oca.h"\|"formats/oca.h"' || true)
[ -z "$reader" ] || complain "the standalone reader includes: $reader"

[ "$failed" = 0 ] && echo "layers: ok"
exit "$failed"
