#!/bin/bash
# Puts together what runs on a machine where nothing may be installed: programs, plug-ins, the shared libraries that they
# need beyond libc, models and scripts.
#
#     BUILD=build DATA=data [PLUGIN=FILE] bash tests/gpu/kit/pack.sh KIT
#
# KIT/build is laid out as a build directory, of wrappers that find the libraries; these, the programs and the plug-ins
# lie packed in KIT/payload.tar.gz, which the first run unpacks.
set -eu
BUILD=${BUILD:-build} DATA=${DATA:-data}
kit=$1
limit_kib=$((60 * 1024))
rm -rf "$kit"
mkdir -p "$kit/build/tests/unit/calib" "$kit/build/tests/bench" "$kit/build/tests/tools" "$kit/payload/bin" "$kit/payload/lib" "$kit/data"

programs=(ousac tests/bench/bench_gpu tests/tools/make_dit tests/gpu/hog)
for test in "$BUILD"/tests/unit/calib/test_backend_*; do
    case $test in *.d | *.o | *_cpu | *_plugin) continue ;; esac
    programs+=("tests/unit/calib/${test##*/}")
done
for optional in tests/bench/bench_eigen tests/bench/emulated_bench_eigen; do
    if [ -e "$BUILD/$optional" ]; then programs+=("$optional"); fi
done
plugins=("$BUILD/tests/plugins/emulated_cuda.so")
if [ -n "${PLUGIN:-}" ]; then plugins+=("$PLUGIN"); fi

for program in "${programs[@]}"; do
    mkdir -p "$kit/build/$(dirname "$program")"
    cat >"$kit/build/$program" <<EOF
#!/bin/sh
export LD_LIBRARY_PATH="\$OUSAC_KIT/lib\${OUSAC_KIT_CUDA:+:\$OUSAC_KIT_CUDA}"
exec "\$OUSAC_KIT/bin/${program##*/}" "\$@"
EOF
    chmod +x "$kit/build/$program"
    strip -o "$kit/payload/bin/${program##*/}" "$BUILD/$program"
done
for plugin in "${plugins[@]}"; do
    strip --strip-unneeded -o "$kit/payload/lib/${plugin##*/}" "$plugin"
done

# The C library and CUDA's are the machine's.
for file in "$kit"/payload/bin/* "$kit"/payload/lib/*; do ldd "$file"; done | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    while read -r library; do
        case ${library##*/} in
        libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux* | libcu* | libnv*) ;;
        *) cp -L "$library" "$kit/payload/lib/" ;;
        esac
    done
tar -C "$kit/payload" --sort=name --owner=0 --group=0 --mtime=@0 -czf "$kit/payload.tar.gz" .
rm -r "$kit/payload"

cp -r "$DATA/shapes-dit" "$DATA/tiles-dit" "$DATA/shapes-pixart" "$DATA/shapes-flux" "$DATA/schedules" "$kit/data/"
cp --parents tests/gpu/kit/kit.py tests/gpu/kit/report.py tests/gpu/compare.py tests/gpu/test_backend.sh tests/bench/bench_gpu.py tests/interop/dit_torch.py "$kit/"
if [ -e data/dit/model.py ]; then cp --parents data/dit/model.py "$kit/"; fi
cp tests/gpu/kit/run.sh "$kit/"
size_kib=$(du -sk "$kit" | cut -f 1)
echo "$kit: $((size_kib / 1024)) MiB"
if [ "$size_kib" -gt "$limit_kib" ]; then
    echo "$kit: $((size_kib / 1024)) MiB, expected at most 60" >&2
    exit 1
fi
