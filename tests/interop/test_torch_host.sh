#!/usr/bin/env bash
# A DiTPipeline of diffusers hosted by the library: profile, bundle and samples against the program's own engine; the
# cases are in tests/interop/hosted/host_dit.py. Skipped (77) where no Python with torch and diffusers is found. BUILD,
# OUSAC, DATA, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers"
hosted_shipped
hosted host_dit.py
