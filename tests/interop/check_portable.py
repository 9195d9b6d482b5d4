#!/usr/bin/env python3
"""The Python side of test_reader_portability.sh.

    check_portable.py frames FRAMES ARCHIVE...    every compressed chunk beside its content, for reader_portable
    check_portable.py compare FILE                its output, with the digests of tests/golden/golden.json
"""
import hashlib
import json
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import oca_decode  # noqa: E402


def frames(target, paths):
    with open(target, "wb") as out:
        for path in paths:
            with open(path, "rb") as file:
                archive = oca_decode.Archive(file.read())
            for tensor in archive.tensors.values():
                for offset, stored, _, decoded in tensor.chunks:
                    if stored < decoded:
                        frame = archive.data[offset : offset + stored]
                        content = oca_decode.frame_content(frame, decoded)
                        out.write(struct.pack("<II", stored, decoded) + frame + content)


def compare(path):
    with open(os.path.join(HERE, "..", "golden", "golden.json")) as file:
        golden = json.load(file)
    golden = golden.get("archives", golden)
    seen = 0
    with open(path, "rb") as file:
        while True:
            head = file.readline().decode()
            if not head:
                break
            archive, count = head.rsplit(" ", 1)
            wanted = golden[os.path.basename(archive)]["tensors"]
            assert int(count) == len(wanted), head
            for _ in range(int(count)):
                name, dtype, size, floats = file.readline().decode()[:-1].rsplit(" ", 3)
                entry = wanted[name]
                assert ["f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64"][int(dtype)] == entry["dtype"], name
                assert hashlib.sha256(file.read(int(size))).hexdigest() == entry["sha256"], (archive, name)
                numbers = file.read(int(floats))
                if "f32_sha256" in entry:
                    assert hashlib.sha256(numbers).hexdigest() == entry["f32_sha256"], (archive, name, "as f32")
                else:
                    assert not numbers, (archive, name)
                seen += 1
    assert seen > 30, seen
    print("%d tensors" % seen)


if sys.argv[1] == "frames":
    frames(sys.argv[2], sys.argv[3:])
else:
    compare(sys.argv[2])
