#!/usr/bin/env python3
"""Digests of profiles as formats/PROFILE.md specifies them, computed by a program of their own, are those that the files
carry: of version 2 (profiles of several kinds, just recorded) and of version 1 (tests/golden/v1).

    OUSAC=build/ousac BUILD=build python3 tests/interop/test_profile_digest.py
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import oca_decode  # noqa: E402

OUSAC = os.path.abspath(os.environ.get("OUSAC", "build/ousac"))
MAKE_DIT = os.path.join(os.path.abspath(os.environ.get("BUILD", "build")), "tests/tools/make_dit")
GOLDEN = os.path.join(HERE, "..", "golden", "v1")
SCALARS = ["x2", "dx2", "y2", "dy2", "module2", "dmodule2"]


class Digest:
    def __init__(self):
        self.state = hashlib.sha256()

    def text(self, value):
        self.state.update(value.encode() + b"\0")

    def whole(self, *values):
        for value in values:
            self.state.update(struct.pack("<Q", int(value)))

    def hexadecimal(self):
        return self.state.hexdigest()


def add_arch(digest, arch, version):
    digest.text(arch["family"])
    if version == 1:
        digest.whole(arch["tokens"])
    else:
        digest.whole(len(arch["streams"]))
        for stream in arch["streams"]:
            digest.text(stream["name"])
            digest.whole(stream["tokens"])
    digest.whole(arch["width"], arch["blocks"], len(arch["sites"]), len(arch["groups"]), len(arch["modules"]))
    for site in arch["sites"]:
        digest.text(site["name"])
        digest.whole(*(site[key] for key in ("block", "module", "group", "stage", "m", "n")))
    for group in arch["groups"]:
        digest.text(group["name"])
        digest.whole(group["first_site"], group["sites"])
        if version > 1:
            digest.whole(group["stream"])
        digest.whole(group["side"] == "output", group["dim"])
    for module in arch["modules"]:
        digest.text(module["name"])
        digest.whole(module["block"], module["stages"], module["first_site"], module["sites"])
        if version == 1:
            digest.whole(module["width"])
        else:
            digest.whole(len(module["outputs"]))
            for output in module["outputs"]:
                digest.whole(output["stream"], output["width"])
        digest.whole(module["fixed_macs"])
    if version > 1:
        digest.whole(len(arch["constants"]))
        for constant in arch["constants"]:
            digest.text(constant["name"])
            digest.whole(constant["stream"], constant["m"], constant["n"])
    digest.whole(arch["other_macs"])


def profile_digest(path):
    with open(path, "rb") as file:
        archive = oca_decode.Archive(file.read())
    meta = archive.metadata
    tensors = archive.tensors
    version, arch, digest = int(meta["format_version"]), json.loads(meta["arch"]), Digest()
    digest.text(f"ousac-profile-{version}")
    digest.text(meta["model_digest"])
    if version > 1:
        for key in ("model_constants", "model_process", "inputs_digest", "compute"):
            digest.text(meta[key])
        digest.whole(meta["token_choice"] == "unknown")
    digest.text(meta["schedule_digest"])
    digest.text(meta["weights_digest"])
    digest.whole(meta["seed"], meta["micro_batch"], meta["tokens_used"], meta["segments"])
    add_arch(digest, arch, version)
    ranges = [part.split("+") for part in meta["ranges"].split()]
    digest.whole(len(ranges), *(number for part in ranges for number in part))
    for name in ["step/gate", "step/age", "step/weight"] + [f"step/{name}" for name in SCALARS]:
        digest.state.update(tensors[name].decode())
    digest.whole(meta["moments"])
    if meta["moments"] == "1":
        for segment in range(int(meta["segments"])):
            for group in arch["groups"]:
                digest.state.update(tensors[f"moment/{group['name']}/{segment}"].decode())
    if version == 1 and "compute" in meta:
        digest.text("bf16")
    if meta.get("magnitudes") == "1":
        digest.whole(1)
        for kind in ("x", "y", "adx", "ady"):
            for part in arch["groups" if kind.endswith("x") else "sites"]:
                digest.state.update(tensors[f"magnitude/{part['name']}/{kind}"].decode())
    return digest.hexadecimal(), meta["digest"]


class ProfileDigest(unittest.TestCase):
    def check(self, path):
        computed, recorded = profile_digest(path)
        self.assertEqual(computed, recorded, path)
        return recorded

    def test_version_1(self):
        for name in ("profile", "tokens", "pilot"):
            self.check(os.path.join(GOLDEN, name + ".oca"))

    def test_version_2(self):
        with tempfile.TemporaryDirectory() as work:
            run = lambda *words: subprocess.run(words, cwd=work, check=True, capture_output=True)  # noqa: E731
            run(MAKE_DIT, "dit", "1", "1", "8")
            run(OUSAC, "schedule", "--steps", "6", "--scale", "3", "--cfg", "0:6:2", "--period", "3", "-o", "s.json")
            model = ["-m", "dit/model.safetensors", "-s", "s.json", "--pilot-samples", "4"]
            found = set()
            for name, options in (("plain", []), ("magnitudes", ["--magnitudes", "--segments", "2"]),
                                  ("tokens", ["--tokens", "4"]), ("pilot", ["--pilot"])):
                samples = [] if name == "pilot" else ["--samples", "0:4"]
                run(OUSAC, "profile", *model, *samples, *options, "-o", name + ".oca")
                found.add(self.check(os.path.join(work, name + ".oca")))
            self.assertEqual(len(found), 4)


if __name__ == "__main__":
    try:
        unittest.main()
    except oca_decode.NoZstd as missing:
        print(missing)
        sys.exit(77)
