#!/usr/bin/env python3
"""The bindings and the example read what oca_decode.py reads.

    BUILD=build python3 tests/interop/test_bindings.py     from the repository root

C++: bindings_cpp.cpp, compiled here with CXX (g++, and clang++ where it is installed). Python: bindings/python/ousac/oca.py
over BUILD's liboca.so, with NumPy where it is installed. C99: examples/read_bundle.c on a bundle of a tiny model.
"""
import gc
import importlib.util
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "bindings", "python", "ousac")]
import oca_decode  # noqa: E402

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
OUSAC = os.path.abspath(os.environ.get("OUSAC", os.path.join(BUILD, "ousac")))
os.environ.setdefault("OCA_LIBRARY", os.path.join(BUILD, "lib", "liboca.so"))
GOLDEN = os.path.join(ROOT, "tests", "golden")
ARCHIVES = [os.path.join(GOLDEN, name) for name in sorted(os.listdir(GOLDEN)) if name.endswith(".oca")]
KINDS = {"f64": "d", "f32": "f", "i8": "b", "u8": "B", "i32": "i", "i64": "q"}
HAS_NUMPY = importlib.util.find_spec("numpy") is not None
# The library of a build under AddressSanitizer needs the sanitizer's own runtime in the interpreter.
SANITIZED = "asan" in os.path.basename(BUILD)


def archive(path):
    with open(path, "rb") as file:
        return oca_decode.Archive(file.read())


def as_doubles(tensor):
    """The numbers of a floating or scaled tensor, through float32 where the dtype is narrower than f64."""
    if tensor.dtype == "f64":
        data = tensor.decode()
        return struct.unpack("<%dd" % (len(data) // 8), data)
    data = tensor.decode_f32()
    return struct.unpack("<%df" % (len(data) // 4), data) if data is not None else None


class Cpp(unittest.TestCase):
    def run_with(self, compiler):
        if not shutil.which(compiler):
            self.skipTest("no " + compiler)
        with tempfile.TemporaryDirectory() as directory:
            program, reader = os.path.join(directory, "program"), os.path.join(directory, "oca.o")
            macros = ["-I.", "-D_POSIX_C_SOURCE=200809L", "-DOCA_WITH_ZSTD", "-DOCA_WITH_MMAP"]
            c = {"g++": "gcc", "clang++": "clang"}[compiler]
            subprocess.run([c, "-std=c99", *macros, "-c", "formats/oca.c", "-o", reader], check=True, cwd=ROOT)
            strict = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wold-style-cast", "-Werror"]
            subprocess.run([compiler, *strict, *macros, "tests/interop/bindings_cpp.cpp", reader, "-lzstd", "-o", program],
                           check=True, cwd=ROOT)
            done = subprocess.run([program, *ARCHIVES], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = iter(done.stdout.splitlines())
        for path in ARCHIVES:
            wanted = archive(path)
            self.assertEqual(next(lines), "file %d %d" % (len(wanted.tensors), len(wanted.metadata)))
            for name, tensor in wanted.tensors.items():
                head = "%s %d %s " % (name, oca_dtypes().index(tensor.dtype), " ".join(map(str, tensor.shape)))
                line = next(lines)
                self.assertTrue(line.startswith(head), (line, head))
                numbers = as_doubles(tensor)
                total = 0.0
                for x in numbers or ():  # in the same order as there
                    total += x if math.isfinite(x) else 0.0
                self.assertAlmostEqual(float(line[len(head):]), total, delta=1e-6 * max(1.0, abs(total)), msg=name)

    def test_gcc(self):
        self.run_with("g++")

    def test_clang(self):
        self.run_with("clang++")


def oca_dtypes():
    return ["f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64"]


@unittest.skipIf(SANITIZED, "a sanitized library does not load into Python")
class Python(unittest.TestCase):
    def test_archives_are_read(self):
        import oca

        for path in ARCHIVES:
            wanted = archive(path)
            with open(path, "rb") as file:
                sources = [path, file.read()]
            for source in sources:
                with oca.File(source) as file:
                    file.verify()
                    self.assertEqual(file.metadata, wanted.metadata)
                    self.assertEqual(list(file), list(wanted.tensors))
                    for name, tensor in wanted.tensors.items():
                        found = file[name]
                        self.assertEqual((found.dtype, list(found.shape)), (tensor.dtype, tensor.shape))
                        self.assertEqual(found.read_bytes(), tensor.decode(), name)
                        row = len(tensor.decode()) // tensor.shape[0]
                        self.assertEqual(found.read_bytes(first=tensor.shape[0] - 1), tensor.decode()[-row:], name)
                        numbers = tensor.decode_f32()
                        if numbers is not None:
                            self.assertEqual(found.read_bytes("f32"), numbers, name)

    def test_failures_are_exceptions(self):
        import oca

        with self.assertRaisesRegex(FileNotFoundError, "no-such-file"):
            oca.File("no-such-file.oca")
        with self.assertRaises(IsADirectoryError):
            oca.File(GOLDEN)
        with self.assertRaisesRegex(ValueError, "NUL"):
            oca.File(ARCHIVES[0] + "\0.oca")
        with self.assertRaises(TypeError):
            oca.File(64)  # not 64 zero bytes
        with open(ARCHIVES[0], "rb") as file:
            data = bytearray(file.read())
        with self.assertRaises(oca.Error) as caught:
            oca.File(data[:-1])
        self.assertEqual(caught.exception.status, -22)
        data[-1] ^= 1
        with self.assertRaises(oca.Error), oca.File(data) as file:
            file.verify()
        with oca.File(ARCHIVES[0]) as file, self.assertRaises(KeyError):
            file["no such tensor"]

    def test_rows_outside_a_tensor_are_refused_whatever_their_size(self):
        import oca

        with oca.File(ARCHIVES[0]) as file:
            for tensor in file.values():
                last = tensor.shape[0]
                self.assertEqual(tensor.read_bytes(first=last), b"")
                for first, rows in ((1 << 64, 1), (1 << 64, None), (0, (1 << 64) + 1), (1, 1 << 64), (-1, 1), (0, -1),
                                    (last, 1), (last + 1, None), (0, 1 << 200)):
                    with self.assertRaises(oca.Error) as caught:
                        tensor.read_bytes(first=first, rows=rows)
                    self.assertEqual(caught.exception.status, -7, (first, rows))
                with self.assertRaises(TypeError):
                    tensor.read_bytes(first=0.5)
                with self.assertRaisesRegex(ValueError, "f33"):
                    tensor.read_bytes("f33")

    def test_a_closed_file_says_so(self):
        import oca

        file = oca.File(ARCHIVES[0])
        name = next(iter(file))
        kept, size = file[name], file[name].bytes
        file.close()
        file.close()
        for use in (file.verify, lambda: file[name], lambda: name in file, lambda: list(file), lambda: len(file),
                    file.keys, file.values, file.items, lambda: file.get(name)):
            with self.assertRaisesRegex(ValueError, "closed"):
                use()
        self.assertEqual(len(kept.read_bytes()), size)  # a tensor keeps its archive

    def test_a_file_is_a_mapping(self):
        import collections.abc
        import oca

        with oca.File(ARCHIVES[0]) as file:
            self.assertIsInstance(file, collections.abc.Mapping)
            self.assertEqual([t.name for t in file.values()], list(file))
            self.assertEqual(dict(file), dict(file.items()))
            self.assertIsNone(file.get("no such tensor"))
            self.assertIs(file.get("no such tensor", file), file)
            name = next(iter(file))
            self.assertIs(file.get(name), file[name])
            self.assertEqual({file: 1}[file], 1)

    def test_copies_share_the_archive(self):
        import copy
        import pickle
        import oca

        file = oca.File(ARCHIVES[0])
        name = next(iter(file))
        wanted = file[name].read_bytes()
        for copied in (copy.copy(file), copy.deepcopy(file), copy.deepcopy([file])[0]):
            self.assertEqual(copied[name].read_bytes(), wanted)
            copied.close()
            del copied
            gc.collect()
        tensor = copy.deepcopy(file[name])
        self.assertEqual(file[name].read_bytes(), wanted)
        file.close()
        self.assertEqual(tensor.read_bytes(), wanted)
        with self.assertRaisesRegex(TypeError, "pickled"):
            pickle.dumps(tensor)

    @unittest.skipUnless(HAS_NUMPY, "no NumPy")
    def test_arrays_are_lent_without_a_copy_and_keep_the_archive_open(self):
        import numpy
        import oca

        lent = 0
        for path in ARCHIVES:
            wanted = archive(path)
            with oca.File(path) as file:
                arrays = {name: (file[name].borrow(), file[name].read()) for name in file}
            gc.collect()
            for name, (view, copy) in arrays.items():
                tensor = wanted.tensors[name]
                self.assertEqual(copy.tobytes(), tensor.decode())
                self.assertEqual(list(copy.shape), tensor.shape)
                if view is not None:
                    lent += 1
                    self.assertFalse(view.flags.writeable or view.flags.owndata)
                    self.assertEqual(view.dtype, copy.dtype)
                    self.assertTrue(numpy.array_equal(view.view("u1"), copy.view("u1")) if view.ndim else True)
                if tensor.dtype in KINDS:
                    kind = numpy.dtype("<" + KINDS[tensor.dtype])
                    self.assertEqual(copy.dtype, kind)
        self.assertGreater(lent, 0)


class Example(unittest.TestCase):
    def test_read_bundle_applies_the_factors(self):
        with tempfile.TemporaryDirectory() as directory:
            def at(name):
                return os.path.join(directory, name)

            def ousac(*arguments):
                subprocess.run([OUSAC, *arguments], check=True, capture_output=True)

            subprocess.run([os.path.join(BUILD, "tests/tools/make_dit"), at("dit")], check=True)
            model = at("dit/model.safetensors")
            ousac("schedule", "--steps", "4", "--scale", "3", "--period", "2", "-o", at("s.json"))
            ousac("profile", "-m", model, "-s", at("s.json"), "--samples", "0:4", "--weights-plain", "-o", at("p.oca"))
            ousac("allocate", "-m", model, "-p", at("p.oca"), "--method", "uniform", "--budget-step", "0.5", "-o", at("plan.oca"))
            for dtype in ("f32", "i8"):
                ousac("pack", "-m", model, "-p", at("p.oca"), "--plan", at("plan.oca"), "--dtype", dtype, "-o", at("b.oca"))
                done = subprocess.run([os.path.join(BUILD, "examples/read_bundle"), at("b.oca")], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                bundle = archive(at("b.oca"))
                lines = [line for line in done.stdout.splitlines() if "directions" in line]
                self.assertEqual(len(lines), 12)
                for line in lines:
                    site, m, _, n, rank = line.split()[:5]
                    m, n, rank = int(m), int(n), int(rank)
                    a, b = (as_doubles(bundle.tensors["factor/%s/%s" % (site, w)]) for w in "AB")
                    x = [struct.unpack("<f", struct.pack("<f", math.sin(1.0 + i)))[0] for i in range(n)]
                    z = [sum(b[r * n + j] * x[j] for j in range(n)) for r in range(rank)]
                    y = [sum(a[r * m + i] * z[r] for r in range(rank)) for i in range(m)]
                    size = math.sqrt(sum(v * v for v in y))
                    self.assertAlmostEqual(float(line.split()[-1]), size, delta=1e-4 * size, msg=site)
            for wrong in (ARCHIVES[0], at("dit/config.json"), at("none")):
                done = subprocess.run([os.path.join(BUILD, "examples/read_bundle"), wrong], capture_output=True)
                self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    bad = len(result.failures) + len(result.errors)
    for _, reason in result.skipped:
        print("skipped: " + reason)
    print("%d passed, %d failed, %d skipped" % (result.testsRun - bad - len(result.skipped), bad, len(result.skipped)))
    sys.exit(not result.wasSuccessful())
