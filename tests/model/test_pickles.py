"""Pickles that would run code, or lie, are refused by every reader of them, and nothing of them runs."""

import collections
import importlib
import io
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from model.checkpoint.formats import pickles
from model.checkpoint.read import open_checkpoint
from tests.helpers.xlm_r_layout import legacy_bytes, zip_bytes
from utils.errors import UserError


class Runs:
    """Pickled, a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Sets:
    """Pickled, an object of a class and a state for it."""

    def __reduce__(self):
        return collections.OrderedDict, (), {"__class__": Runs(os.system, "touch harm")}


CALLS = {
    "posix.system": Runs(os.system, "touch harm"),
    "subprocess.check_call": Runs(subprocess.check_call, ["touch", "harm"]),
    "eval": Runs(eval, "open('harm', 'w')"),
    "getattr": Runs(getattr, "a", "upper"),
    "io.open": Runs(open, "harm", "w"),
    "bytearray": Runs(bytearray, 10**13),
    "importlib.import_module": Runs(importlib.import_module, "os"),
    "pickle.loads": Runs(pickle.loads, "cposix\nsystem\n."),
    "numpy.fromfile": Runs(np.fromfile, "x"),
    "system": Sets(),
}


def text(value: bytes) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value


TWICE = b")" + b"2\x86" * 60  # a pair of a pair of ... : nothing in memory, and no end when it is printed
DEEP = b")" + b"\x85" * 200_000

RAW = {
    "a global of protocol 0": b"cos\nsystem\n(S'touch harm'\ntR.",
    "a dotted name": b"\x80\x04" + text(b"builtins") + text(b"tuple.__class__.__subclasses__") + b"\x93)R.",
    "the name from the memo": b"\x80\x04" + text(b"os") + b"\x94" + text(b"system") + b"\x94h\x00h\x01\x93.",
    "torch's storage from bytes": b"ctorch.storage\n_load_from_bytes\n(C\x01xtR.",
    "an object array": pickle.dumps({"a": np.array([print], dtype=object)}, 4),
    "an extension code": b"\x80\x02\x82\x01.",
    "a state for a known name": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00a" + b"K\x01sb.",
    "a call of what is no function": b"\x80\x02cnumpy\nndarray\n)R.",
    "something outside": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "a deep key": b"\x80\x02}(" + DEEP + b"K\x01u.",
    "more items than are there": b"\x80\x02]q\x00(K\x01h\x05e.",
    "a string longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "a number longer than the file": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.",
    "a name of pairs": b"\x80\x04" + TWICE + text(b"x") + b"\x93.",
    "a dtype of pairs": b"\x80\x04cnumpy\ndtype\n" + TWICE + b"\x85R.",
    "a number for a name": pickle.dumps({1 << 20_000: np.zeros(3)}, 4),
    "attributes from pairs with a deep key": b"\x80\x02cargparse\nNamespace\n)R](" + DEEP + b"K\x01\x86eb.",
    "a memo of billions": b"\x80\x02}r\xff\xff\xff\xffcos\nsystem\n.",
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"cos\nsystem\n.",
    "an array of an endless shape": b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R"
    b"(K\x01\x8a\x10" + b"\xff" * 15 + b"\x7f\x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R\x89C\x00tbs.",
    "no end": b"\x80\x04}",
}
FILES = {
    "model_state.pdparams": lambda pickled: pickled,
    "pytorch_model.bin": zip_bytes,
    "model.pt": legacy_bytes,
}


@pytest.fixture(params=FILES)
def refused(request, tmp_path, monkeypatch):
    """Put a pickle where a reader finds it; the message that it is refused with."""
    monkeypatch.chdir(tmp_path)

    def read(pickled: bytes) -> str:
        (tmp_path / request.param).write_bytes(FILES[request.param](pickled))
        with pytest.raises(UserError) as error:
            open_checkpoint(tmp_path)
        assert not (tmp_path / "harm").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    return read


@pytest.mark.parametrize("name", CALLS)
def test_code_is_refused_by_name(refused, name):
    for protocol in (2, 4):
        message = refused(pickle.dumps({"b": [CALLS[name]]}, protocol))
        held = message.split(", and only arrays and plain containers are read here")[0].split(".")[-1]
        assert held in (name.split(".")[-1], "_reconstructor", "__newobj__")


@pytest.mark.parametrize("case", RAW)
def test_what_is_written_by_hand(refused, case):
    message = refused(RAW[case])
    assert "only arrays and plain containers" in message or "damaged, cut short or not a file of" in message


SPREAD = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    b"K\x00J\x00\x00\x10\x00J\x00\x00\x10\x00\x86K\x00K\x00\x86\x89}tRs."
)


@pytest.mark.parametrize("layout", [zip_bytes, legacy_bytes])
def test_one_number_as_a_tensor_of_any_size(tmp_path, layout):
    (tmp_path / "pytorch_model.bin").write_bytes(layout(SPREAD, {"0": np.zeros(1, np.float32)}))
    with pytest.raises(UserError, match=r"shape \[1048576, 1048576\] does not fit into its storage of 1"):
        open_checkpoint(tmp_path)


def test_a_storage_that_claims_to_be_larger_than_its_file(tmp_path):
    data = zip_bytes(SPREAD, {"0": np.zeros(1, np.float32)})
    at = data.rindex(b"PK\x01\x02") + 24  # the size in the directory at the end
    data = data[:at] + struct.pack("<I", 1 << 31) + data[at + 4 :]
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(UserError, match="it ends too early"):
        open_checkpoint(tmp_path)


def test_nothing_of_torch_or_paddle_is_imported():
    code = (
        "import sys\nfrom model.checkpoint.read import open_checkpoint\nimport convert\n"
        "assert not {'torch', 'paddle', 'paddlenlp', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PLAIN = [
    {"a": [1, -1, 255, 65535, 1 << 40, -(1 << 70), True, False, None, 1.5, "text", "é" * 300, b"bytes", b"",
           ("x",), (), (1, 2, 3, 4), [], {}, {"k": {1: 2}}, collections.OrderedDict(a=1, b=[2])]},
    [{"shared": (x := [1])}, x, x],
]  # fmt: skip


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_values_and_arrays_come_back(protocol, tmp_path):
    for value in PLAIN:
        assert pickles.load(io.BytesIO(pickle.dumps(value, protocol)), tmp_path) == value
    arrays = {}
    for dtype in ("f4", "f8", "f2", ">f4", "i8", "u2", "?"):
        for shape in ((), (0, 3), (7,), (40, 50)):
            arrays[f"{dtype} {shape}"] = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    arrays["fortran"] = np.asfortranarray(arrays["f4 (40, 50)"])
    (tmp_path / "x").write_bytes(pickle.dumps(arrays, protocol))
    with open(tmp_path / "x", "rb") as file:
        found = pickles.load(file, tmp_path / "x")
        for name, expected in arrays.items():
            read = found[name].read(file)
            assert read.shape == expected.shape and read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected)


def test_a_pdparams_cut_short_and_one_that_lies(tmp_path):
    whole = pickle.dumps({"embeddings.word_embeddings.weight": np.ones((50, 60), np.float32)}, 4)
    file = tmp_path / "model_state.pdparams"
    for kept in (0, len(whole) // 4, len(whole) - 9):
        file.write_bytes(whole[:kept])
        with pytest.raises(
            UserError, match="model_state.pdparams: damaged, cut short or not a file of paddle"
        ):
            open_checkpoint(tmp_path)
    file.write_bytes(whole.replace(b"K2K<\x86", b"K2K=\x86"))
    with pytest.raises(UserError, match=r"12000 bytes for an array of shape \[50, 61\]"):
        open_checkpoint(tmp_path)
