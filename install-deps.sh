#!/bin/sh
# Installs the Debian packages that ousac needs, and nothing where they are all there.
#
#     sh install-deps.sh build|test|check|mpi|deb
#
# build: compiler and libraries. test: the above, the test framework and Python. check: the above and the linters.
# mpi: what `make mpi` needs besides `build`, and its tests; nothing else asks for it. deb: what `make deb` needs.
set -eu

build="gcc libc6-dev make libopenblas-dev liblapacke-dev libzstd-dev libcjson-dev libxxhash-dev libpng-dev
       libsodium-dev gnuplot-nox"
test="$build g++ pkg-config libcmocka-dev python3 python3-venv python3-pip python3-setuptools python3-zstandard python3-numpy minisign strace libdnnl2"
mpi="$build libopenmpi-dev openmpi-bin"
deb="$build g++ dpkg-dev debhelper fakeroot lintian"
check="$test clang clang-format cppcheck shellcheck libclang-rt-14-dev valgrind"

case "${1:-}" in
build) wanted=$build ;;
test) wanted=$test ;;
check) wanted=$check ;;
mpi) wanted=$mpi ;;
deb) wanted=$deb ;;
*)
    echo "usage: install-deps.sh build|test|check|mpi|deb" >&2
    exit 2
    ;;
esac

missing=
for package in $wanted; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null 2>&1; then
    root=sudo
else
    echo "install-deps.sh: missing packages, and neither root nor sudo to install them:$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing:$missing"
$root apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$root apt-get install -y -qq --no-install-recommends $missing >/dev/null
