#!/bin/sh
# The layers point downward only: formats < calib < profile < tools; BLAS and LAPACK in one file, MPI in another,
# CUDA in one folder; the reader alone.
set -eu
cd "$(dirname "$0")/.."
failed=0

complain() {
    echo "layers: $1" >&2
    failed=1
}

forbid() { # forbid LAYER PATTERN: no source of the layer includes it
    lines=$(grep -nE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[\"<]($2)" "$1"/*.[ch] 2>/dev/null || true)
    [ -z "$lines" ] || complain "$1 reaches up:
$lines"
}
forbid formats '(calib|profile|tools|tests)/'
forbid calib '(profile|tools|tests)/'
forbid profile '(tools|tests)/'
forbid tools 'tests/'

blas=$(grep -lE '(cblas|lapacke?)\.h|cblas_|LAPACKE_' formats/*.[ch] calib/*.[ch] profile/*.[ch] tools/*.[ch] | grep -v '^calib/backend_cpu.c$' || true)
[ -z "$blas" ] || complain "BLAS or LAPACK outside calib/backend_cpu.c: $blas"

mpi=$(grep -lE '<mpi\.h>|\bMPI_[A-Z][a-z]+' formats/*.[ch] calib/*.[ch] profile/*.[ch] tools/*.[ch] tools/mpi/*.[ch] | grep -v '^tools/mpi/link.c$' || true)
[ -z "$mpi" ] || complain "MPI outside tools/mpi/link.c: $mpi"

cuda=$(grep -lE '(cuda|cublas|cusolver)[A-Za-z_0-9]*\.h[>"]|\bcu(da|blas|solver)[A-Z][A-Za-z]+ *\(|ifn?def.*CUDA' formats/*.[ch] calib/*.[ch] profile/*.[ch] tools/*.[ch] || true)
[ -z "$cuda" ] || complain "CUDA outside calib/cuda/: $cuda"

reader=$(grep -nE '^#[[:space:]]*include[[:space:]]*"' formats/oca.c formats/oca.h | grep -v '"oca.h"\|"formats/oca.h"' || true)
[ -z "$reader" ] || complain "the standalone reader includes: $reader"

printing=$(grep -nE '\b(printf|puts|perror|exit|abort)[[:space:]]*\(' formats/*.c calib/*.c profile/*.c | grep -vE 's?n?printf *\(.*(sizeof|size|text|name|message)|vsnprintf|snprintf|fprintf *\(f' || true)
[ -z "$printing" ] || complain "library code prints or exits:
$printing"

raw=$(grep -nE '\b(malloc|calloc|realloc|strdup)[[:space:]]*\(' formats/*.c calib/*.c profile/*.c | grep -v 'ousac_\|formats/oca\.c\|formats/memory\.c' || true)
[ -z "$raw" ] || complain "allocations around formats/memory.h:
$raw"

[ "$failed" = 0 ] && echo "layers: ok"
exit "$failed"
