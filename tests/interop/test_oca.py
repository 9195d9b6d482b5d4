#!/usr/bin/env python3
"""Two independent decoders of .oca archives agree: oca_decode.py, from the specification, and formats/oca.c.

    OCA_DUMP=PROGRAM python3 tests/interop/test_oca.py

OCA_DUMP is the program of tests/interop/oca_dump.c. Without it only the golden archives are compared, with the digests
of their source data in golden.json, and the exit status is 77. With it, thousands of altered archives, their checksums sealed again, must be
accepted or refused by both, and hold the same where accepted.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oca_decode  # noqa: E402

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
EDGES = [0, 1, 2, 3, 4, 5, 8, 63, 64, 65, 128, 1 << 20, 1 << 24, (1 << 32) - 1, 1 << 32, 1 << 61, 1 << 63, (1 << 64) - 1]
ALTERED = 4000
BATCH = 500
DUMP = os.environ.get("OCA_DUMP")


def read(name):
    with open(os.path.join(GOLDEN, name), "rb") as file:
        return file.read()


def golden():
    return json.loads(read("golden.json"))


def seal(data):
    """The checksums of index and header, made right; the index's where it lies in the file."""
    size = struct.unpack_from("<Q", data, 24)[0]
    if size <= len(data) - 64:
        struct.pack_into("<Q", data, 48, oca_decode.xxh64(bytes(data[64 : 64 + size])))
    struct.pack_into("<Q", data, 56, oca_decode.xxh64(bytes(data[:56])))


def describe(data):
    """As oca_dump prints it, without the file's name and without the reason of a refusal."""
    try:
        return oca_decode.describe(data)
    except oca_decode.Invalid:
        return "invalid"


def dump(paths):
    done = subprocess.run([DUMP, *paths], capture_output=True, check=True)
    found = []
    for line in done.stdout.decode().splitlines():
        entry = json.loads(line) if '"invalid"' not in line else {"invalid": 1}
        found.append("invalid" if "invalid" in entry else {k: entry[k] for k in ("metadata", "tensors")})
    return found


class Golden(unittest.TestCase):
    def test_xxh64_known_values(self):
        # Published test values of XXH64 with seed 0.
        self.assertEqual(oca_decode.xxh64(b""), 0xEF46DB3751D8E999)
        self.assertEqual(oca_decode.xxh64(b"a"), 0xD24EC4F1A98C6E5B)
        self.assertEqual(oca_decode.xxh64(b"abc"), 0x44BC2CF5AD770999)

    def test_decoder_finds_what_was_written(self):
        for name, expected in golden().items():
            with self.subTest(name):
                self.assertEqual(describe(read(name)), expected)

    def test_reader_finds_what_was_written(self):
        if not DUMP:
            self.skipTest("OCA_DUMP is not set")
        files = golden()
        for (name, expected), found in zip(files.items(), dump([os.path.join(GOLDEN, n) for n in files])):
            with self.subTest(name):
                self.assertEqual(found, expected)

    def test_truncation_is_refused(self):
        data = read("newer-minor.oca")
        for size in range(len(data)):
            with self.assertRaises(oca_decode.Invalid):
                oca_decode.Archive(data[:size])


class Altered(unittest.TestCase):
    """The oracle of the malformed: what one decoder accepts, so must the other."""

    def alter(self, rng, data):
        data = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kind = rng.randrange(6)
            index = 64 + struct.unpack_from("<Q", data, 24)[0] % len(data)
            at = rng.choice((rng.randrange(8, 64), rng.randrange(64, max(65, min(index, len(data)))), rng.randrange(len(data))))
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at] = rng.randrange(256)
            elif kind == 2 and at + 8 <= len(data):
                struct.pack_into("<Q", data, at // 8 * 8, rng.choice(EDGES))
            elif kind == 3 and at // 8 * 8 + 8 <= len(data):
                value = struct.unpack_from("<Q", data, at // 8 * 8)[0]
                step = rng.choice((1, -1, 8, -8, 64, -64))
                struct.pack_into("<Q", data, at // 8 * 8, (value + step) % (1 << 64))
            elif kind == 4 and at // 4 * 4 + 4 <= len(data):
                struct.pack_into("<I", data, at // 4 * 4, rng.choice(EDGES) % (1 << 32))
            elif kind == 5:
                size = rng.choice((1, 64))
                data = data[:-size] if rng.randrange(2) and len(data) > 200 else data + bytes(size)
                if rng.randrange(2):
                    struct.pack_into("<Q", data, 40, len(data))
        if rng.randrange(20):
            seal(data)
        return bytes(data)

    def test_both_accept_and_refuse_alike(self):
        if not DUMP:
            self.skipTest("OCA_DUMP is not set")
        rng = random.Random(20250101)
        sources = [read("newer-minor.oca"), read("dtypes.oca"), read("empty.oca")]
        accepted = 0
        with tempfile.TemporaryDirectory() as directory:
            for start in range(0, ALTERED, BATCH):
                paths, datas = [], []
                for i in range(start, start + BATCH):
                    datas.append(self.alter(rng, sources[i % 8 // 4 if i % 8 < 7 else 2]))
                    paths.append(os.path.join(directory, "%d.oca" % i))
                    with open(paths[-1], "wb") as file:
                        file.write(datas[-1])
                for path, data, found in zip(paths, datas, dump(paths)):
                    expected = describe(data)
                    accepted += expected != "invalid"
                    if found != expected:
                        kept = os.path.join(tempfile.gettempdir(), "oca-disagreement.oca")
                        with open(kept, "wb") as file:
                            file.write(data)
                        self.fail("%s, kept as %s: oca.c %s, oca_decode.py %s" % (path, kept, found, expected))
                    os.unlink(path)
        self.assertGreater(accepted, ALTERED // 50)
        self.assertGreater(ALTERED - accepted, ALTERED // 2)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    if result.wasSuccessful() and result.skipped:
        print("%d tests need oca_dump: set OCA_DUMP" % len(result.skipped))
        sys.exit(77)
    sys.exit(not result.wasSuccessful())
