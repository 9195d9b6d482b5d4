#!/usr/bin/env python3
"""`ousac export` and `ousac import` against other programs' idea of the same files.

    OUSAC=build/ousac BUILD=build python3 tests/interop/test_exchange.py     from the repository root

What an archive holds is read by oca_decode.py; safetensors files by the few lines below and, where it is installed, by
the `safetensors` package; files for ICC's code by Python's zipfile and pickle and, where TORCH_PYTHON has it, by torch,
used as ICC's code uses it. The last line counts; packages that are missing are skips.
"""
import ctypes
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import oca_decode  # noqa: E402

OUSAC = os.path.abspath(os.environ.get("OUSAC", "build/ousac"))
MAKE_DIT = os.path.abspath(os.path.join(os.environ.get("BUILD", "build"), "tests/tools/make_dit"))
TORCH_PYTHON = os.environ.get("TORCH_PYTHON", "/usr/bin/python3")
GOLDEN = os.path.join(HERE, "..", "golden")
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
LAYERS = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}

try:
    import safetensors
except ImportError:
    safetensors = None


def ousac(*arguments, code=0):
    done = subprocess.run([OUSAC, *arguments], capture_output=True, text=True)
    if done.returncode != code:
        raise AssertionError("%s: exit %d, expected %d\n%s" % (arguments, done.returncode, code, done.stderr))
    return done.stderr + done.stdout


def read(path):
    with open(path, "rb") as file:
        return file.read()


def parse_safetensors(data):
    """{name: (dtype, shape, bytes)}, metadata: from the format's description."""
    length = struct.unpack_from("<Q", data)[0]
    assert length % 8 == 0, "the data are not aligned"
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    body, at, tensors = data[8 + length :], 0, {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        count = 1
        for dim in entry["shape"]:
            count *= dim
        assert begin == at and end - begin == count * SIZES[entry["dtype"]] and begin % SIZES[entry["dtype"]] == 0
        at = end
        tensors[name] = (entry["dtype"], entry["shape"], body[begin:end])
    assert at == len(body)
    return tensors, metadata


def serialize(source, metadata):
    """The package's own writer, in its two generations: bytes, or addresses since 0.8."""
    spec = getattr(safetensors, "TensorSpec", None)
    if not spec:
        return safetensors.serialize({n: {"dtype": k, "shape": s, "data": d} for n, (k, s, d) in source.items()}, metadata)
    kept = {n: ctypes.create_string_buffer(d, len(d)) for n, (_, _, d) in source.items()}
    specs = {
        n: spec(dtype=k, shape=s, data_ptr=ctypes.addressof(kept[n]), data_len=len(d)) for n, (k, s, d) in source.items()
    }
    return bytes(safetensors.serialize(specs, metadata))


def archive_contents(path):
    archive = oca_decode.Archive(read(path))
    return {n: (t.dtype.upper(), t.shape, t.decode()) for n, t in archive.tensors.items()}, archive.metadata


class Storage(pickle.Unpickler):
    """Unpickles what torch.save writes without torch: tensors become (shape, stride, key, count)."""

    used = set()

    def find_class(self, module, name):
        Storage.used.add(module + "." + name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, grad, hooks: (storage, offset, size, stride, grad)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch", "FloatStorage"):
            return name
        raise pickle.UnpicklingError("%s.%s" % (module, name))

    def persistent_load(self, pid):
        return pid


def load_icc(path):
    """{key: [rows of floats per block]} of a file for ICC's code."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("archive/version") == b"3\n"
        tree = Storage(io.BytesIO(archive.read("archive/data.pkl"))).load()
        assert list(tree) == ["decomp_weight"]
        lists = {}
        keys = []
        for key, tensors in tree["decomp_weight"].items():
            lists[key] = []
            for (kind, dtype, number, device, count), offset, size, stride, grad in tensors:
                rows, cols = size
                assert (kind, dtype, device, offset, grad) == ("storage", "FloatStorage", "cpu", 0, False)
                assert count == rows * cols and stride == (max(cols, 1), 1)
                data = struct.unpack("<%df" % count, archive.read("archive/data/" + number))
                info = archive.getinfo("archive/data/" + number)
                assert info.compress_type == zipfile.ZIP_STORED
                lists[key].append(((rows, cols), [data[i * cols : (i + 1) * cols] for i in range(rows)]))
                keys.append(number)
        assert len(set(keys)) == len(keys) == len(names) - 2
    return lists


def product(a, b, inner, cols):
    return [[sum(row[k] * b[k][j] for k in range(inner)) for j in range(cols)] for row in a]


def floats(entry):
    dtype, shape, data = entry
    assert dtype == "F32"
    values = struct.unpack("<%df" % (len(data) // 4), data)
    return [values[i * shape[1] : (i + 1) * shape[1]] for i in range(shape[0])]


def transpose(rows):
    return [list(column) for column in zip(*rows)]


class Exchange(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        path = cls.directory.name
        cls.model = os.path.join(path, "dit", "model.safetensors")
        subprocess.run([MAKE_DIT, os.path.join(path, "dit")], check=True)
        schedule, profile = os.path.join(path, "s.json"), os.path.join(path, "p.oca")
        ousac("schedule", "--steps", "4", "--scale", "3", "--period", "2", "-o", schedule)
        ousac("profile", "-m", cls.model, "-s", schedule, "--samples", "0:4", "--pilot-samples", "4", "-o", profile)
        plans = []
        for name, method, budget in (("flat", "uniform", "0.5"), ("rich", "knapsack", "0.9"), ("poor", "knapsack", "0.3")):
            plans.append(os.path.join(path, name + ".oca"))
            extra = ["--granularity", "4", "--rank-min", "4"] if method == "knapsack" else []
            ousac("allocate", "-m", cls.model, "-p", profile, "--method", method, "--budget-step", budget, *extra,
                  "--name", name, "-o", plans[-1])
        cls.bundle = os.path.join(path, "bundle.oca")
        ousac("pack", "-m", cls.model, "-p", profile, *plans, "--dtype", "f32", "-o", cls.bundle)
        cls.archives = [cls.bundle, profile, plans[0]] + [
            os.path.join(GOLDEN, name) for name in sorted(os.listdir(GOLDEN)) if name.endswith(".oca")
        ]

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def test_every_archive_survives_the_way_out_and_back(self):
        for archive in self.archives:
            out, again = self.path("out.safetensors"), self.path("again.oca")
            ousac("export", "--safetensors", archive, "-o", out)
            wanted, wanted_metadata = archive_contents(archive)
            tensors, metadata = parse_safetensors(read(out))
            metadata.pop("oca.codec", None)
            self.assertEqual(metadata.pop("config", None) is not None, archive == self.bundle)
            self.assertEqual(tensors, wanted, archive)
            self.assertEqual(metadata, wanted_metadata, archive)
            ousac("import", out, "-o", again)
            self.assertEqual(archive_contents(again), (wanted, wanted_metadata), archive)
            if archive in self.archives[:3]:  # written by ousac itself
                self.assertEqual(read(again), read(archive), archive)

    def test_a_bundle_that_was_away_still_verifies_and_runs(self):
        out, again = self.path("b.safetensors"), self.path("b.oca")
        ousac("export", "--safetensors", self.bundle, "-o", out)
        ousac("import", out, "-o", again)
        self.assertIn(": ok (bundle", ousac("verify", again))

    def test_the_safetensors_package_reads_what_is_exported(self):
        if not safetensors:
            self.skipTest("no Python package safetensors")
        for archive in self.archives:
            out = self.path("out.safetensors")
            ousac("export", "--safetensors", archive, "-o", out)
            wanted, wanted_metadata = archive_contents(archive)
            got = {n: (e["dtype"], list(e["shape"]), bytes(e["data"])) for n, e in safetensors.deserialize(read(out))}
            self.assertEqual(got, wanted, archive)
            try:
                with safetensors.safe_open(out, framework="numpy") as file:
                    metadata = dict(file.metadata() or {})
            except ImportError:
                continue
            metadata.pop("oca.codec", None)
            metadata.pop("config", None)
            self.assertEqual(metadata, wanted_metadata, archive)

    def test_config_says_what_a_loader_has_to_know(self):
        out = self.path("b.safetensors")
        ousac("export", "--safetensors", self.bundle, "-o", out)
        tensors, metadata = parse_safetensors(read(out))
        config = json.loads(metadata["config"])
        arch = json.loads(metadata["arch"])
        self.assertEqual((config["format"], config["version"]), ("ousac-bundle", 2))
        self.assertEqual((config["family"], config["model_class"]), ("dit", "DiTTransformer2DModel"))
        self.assertEqual(config["model_digest"], metadata["model_digest"])
        self.assertEqual((config["dtype"], config["biases"], config["plan"]), ("f32", False, None))
        self.assertEqual(config["schedule"], json.loads(metadata["schedule"]))
        self.assertEqual(config["schedule_digest"], metadata["schedule_digest"])
        self.assertEqual(config["sites"], [{k: s[k] for k in ("name", "m", "n", "group")} for s in arch["sites"]])
        self.assertEqual(set(config["plans"]), {"flat", "rich", "poor"})
        for name, plan in config["plans"].items():
            ranks = self.plan_ranks(name)
            self.assertEqual(plan["ranks"], [ranks[s["name"]] for s in config["sites"]])
            self.assertEqual(plan["forecast"], "forecast/" + name in tensors)
            for site, rank, path in zip(config["sites"], plan["ranks"], plan["paths"]):
                dense = rank * (site["m"] + site["n"]) >= site["m"] * site["n"]
                if path != "skipped":
                    self.assertEqual(path, "frozen" if rank == 0 else "dense" if dense else "low-rank")
        self.assertIn("low-rank", config["plans"]["flat"]["paths"])
        self.assertIn("dense", config["plans"]["rich"]["paths"])

    def test_what_the_safetensors_package_writes_is_imported(self):
        if not safetensors:
            self.skipTest("no Python package safetensors")
        rng = random.Random(5)
        kinds = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}
        names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8",
                 "int32": "I32", "int64": "I64"}
        source = {}
        for kind, size in kinds.items():
            for shape in ([], [1], [7], [3, 5], [2, 1, 4], [2, 3, 1, 5]):
                count = 1
                for dim in shape:
                    count *= dim
                source["%s/%d \u00e9\"" % (kind, len(source))] = (kind, shape, rng.randbytes(count * size))
        metadata = {"plain": "text", "\u00e9 \"quoted\"\n": "\u2603\t\\"}
        path, oca, back = self.path("w.safetensors"), self.path("w.oca"), self.path("w2.safetensors")
        data = serialize(source, metadata)
        with open(path, "wb") as file:
            file.write(data)
        for codec in ("raw", "zstd", "shuffle+zstd"):
            ousac("import", path, "--codec", codec, "-o", oca)
            tensors, found = archive_contents(oca)
            scalars = json.loads(found.pop("safetensors.scalar"))
            self.assertEqual(sorted(scalars), sorted(n for n, (_, s, _) in source.items() if not s))
            self.assertEqual(found, metadata)
            self.assertEqual(tensors, {n: (names[k], s or [1], d) for n, (k, s, d) in source.items()})
            ousac("export", "--safetensors", oca, "-o", back)
            got = {n: (e["dtype"], list(e["shape"]), bytes(e["data"])) for n, e in safetensors.deserialize(read(back))}
            self.assertEqual(got, {n: (names[k], s, d) for n, (k, s, d) in source.items()})

    def test_what_cannot_be_carried_is_an_error_that_names_it(self):
        path, oca = self.path("x.safetensors"), self.path("x.oca")
        for entry, said in (
            ({"dtype": "F8_E5M2", "shape": [2]}, "F8_E5M2"), ({"dtype": "BOOL", "shape": [2]}, "BOOL"),
            ({"dtype": "U8", "shape": [1, 1, 1, 1, 2]}, "4 dimensions"),
        ):
            header = json.dumps({"odd": {**entry, "data_offsets": [0, 2]}}).encode()
            with open(path, "wb") as file:
                file.write(struct.pack("<Q", len(header)) + header + b"ab")
            message = ousac("import", path, "-o", oca, code=6)
            self.assertIn("odd", message)
            self.assertIn(said, message)
            self.assertFalse(os.path.exists(oca))

    # --- ICC ---

    def check_icc(self, path, ranks, exact=()):
        """Shapes, and wa wb against the factors or the weight."""
        tensors, _ = archive_contents(self.bundle)
        weights, _ = parse_safetensors(read(self.model))
        lists = load_icc(path)
        self.assertEqual(list(lists), [k + w for k in LAYERS for w in ("_wa", "_wb")])
        blocks = len(lists["q_wa"])
        for key, layer in LAYERS.items():
            self.assertEqual(len(lists[key + "_wa"]), blocks)
            for block in range(blocks):
                site = "blocks.%d.%s" % (block, layer)
                (m, r), a = lists[key + "_wa"][block]
                (r2, n), b = lists[key + "_wb"][block]
                self.assertEqual(r, r2)
                self.assertEqual((m, n), (96, 24) if key == "fc1" else (24, 96) if key == "fc2" else (24, 24))
                if site in exact:
                    if key in "qkv":
                        whole = floats(weights["blocks.%d.attn.qkv.weight" % block])
                        at = "qkv".index(key) * m
                        wanted = whole[at : at + m]
                    else:
                        wanted = floats(weights["blocks.%d.%s.weight" % (block, layer)])
                    self.assertEqual(product(a, b, r, n), [list(row) for row in wanted], site)
                else:
                    self.assertEqual(r, ranks[site], site)
                    if r:
                        self.assertEqual([list(row) for row in a], transpose(floats(tensors["factor/%s/A" % site])[:r]))
                        self.assertEqual(b, floats(tensors["factor/%s/B" % site])[:r])

    def plan_ranks(self, name):
        tensors, metadata = archive_contents(self.bundle)
        values = struct.unpack("<12i", tensors["plan/%s/rank" % name][2])
        sites = ["blocks.%d.%s" % (b, layer) for b in range(2) for layer in LAYERS.values()]
        return dict(zip(sites, values))

    def test_icc_takes_the_ranks_of_a_plan(self):
        path = self.path("flat.pt")
        ousac("export", "--icc", self.bundle, "--plan", "flat", "-o", path)
        self.check_icc(path, self.plan_ranks("flat"))
        again = self.path("again.pt")
        ousac("export", "--icc", self.bundle, "--plan", "flat", "-o", again)
        self.assertEqual(read(path), read(again))

    def test_icc_takes_exact_layers_as_their_weight(self):
        path, ranks = self.path("rich.pt"), self.plan_ranks("rich")
        exact = {s for s, r in ranks.items() if r * ((120) if "fc" in s else 48) >= (2304 if "fc" in s else 576)}
        self.assertTrue(exact)
        self.assertIn("--model", ousac("export", "--icc", self.bundle, "--plan", "rich", "-o", path, code=2))
        self.assertFalse(os.path.exists(path))
        ousac("export", "--icc", self.bundle, "--plan", "rich", "-m", self.model, "-o", path)
        self.check_icc(path, ranks, exact)

    def test_icc_takes_frozen_layers_as_rank_0(self):
        path, ranks = self.path("poor.pt"), self.plan_ranks("poor")
        stages = [[("attn.q", "attn.k", "attn.v"), ("attn.proj",)], [("mlp.fc1",), ("mlp.fc2",)]]
        for block in range(2):
            for module in stages:
                names = [["blocks.%d.%s" % (block, layer) for layer in stage] for stage in module]
                if any(not any(ranks[s] for s in stage) for stage in names):
                    ranks.update({s: 0 for stage in names for s in stage})
        self.assertIn(0, ranks.values())
        ousac("export", "--icc", self.bundle, "--plan", "poor", "-o", path)
        self.check_icc(path, ranks)

    def test_icc_takes_one_rank_for_all_and_a_directory(self):
        ousac("export", "--icc", self.bundle, "--rank", "3", "-o", self.directory.name)
        ranks = {"blocks.%d.%s" % (b, layer): 3 for b in range(2) for layer in LAYERS.values()}
        self.check_icc(self.path("0000000.pt"), ranks)
        self.assertIn("directions are held", ousac("export", "--icc", self.bundle, "--rank", "24", "-o", self.path("no.pt"), code=4))
        ousac("export", "--icc", self.bundle, "--plan", "none", "-o", self.path("no.pt"), code=2)
        ousac("export", "--icc", self.archives[1], "-o", self.path("no.pt"), code=3)
        self.assertFalse(os.path.exists(self.path("no.pt")))

    def test_torch_loads_it_as_the_code_of_icc_does(self):
        if subprocess.run([TORCH_PYTHON, "-c", "import torch"], capture_output=True).returncode:
            self.skipTest("no torch")
        for plan in ("flat", "rich", "poor"):
            path = self.path(plan + ".pt")
            ousac("export", "--icc", self.bundle, "--plan", plan, "-m", self.model, "-o", path)
            lists = {k: [e[1] for e in v] for k, v in load_icc(path).items()}
            program = """
import json, sys, torch
import torch.nn.functional as F
loaded = [torch.load(sys.argv[1])]
try:
    loaded.append(torch.load(sys.argv[1], weights_only=True))
except TypeError:
    pass
wanted = json.load(sys.stdin)
for ckpt in loaded:
    weight = ckpt["decomp_weight"]
    for key, blocks in wanted.items():
        assert len(weight[key]) == len(blocks)
        for i, rows in enumerate(blocks):
            p = torch.nn.Parameter(weight[key][i].to("cpu"))
            assert p.dtype == torch.float32 and p.is_contiguous() and p.tolist() == [list(r) for r in rows], key
    for key in ("q", "fc1", "fc2"):
        wa, wb = weight[key + "_wa"][0], weight[key + "_wb"][0]
        x = torch.randn(2, 5, wb.shape[1])
        y = F.linear(F.linear(x, wb), wa)
        assert y.shape == (2, 5, wa.shape[0]) and torch.allclose(y, x @ (wa @ wb).T, atol=1e-4)
"""
            done = subprocess.run([TORCH_PYTHON, "-c", program, path], input=json.dumps(lists), capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    bad = len(result.failures) + len(result.errors)
    for _, reason in result.skipped:
        print("skipped: " + reason)
    print("%d passed, %d failed, %d skipped" % (result.testsRun - bad - len(result.skipped), bad, len(result.skipped)))
    sys.exit(not result.wasSuccessful())
