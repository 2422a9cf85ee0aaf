"""Pickles that would run code, or lie, are refused by every reader of them, and nothing of them runs."""

import codecs
import collections
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import struct
import subprocess
import sys

import numpy as np
import pytest

from model.checkpoint.formats import paddle as paddle_file
from model.checkpoint.formats import pickles
from model.checkpoint.read import read_weights
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


TOUCH = "open('harm', 'w')"
CALLS = {
    "posix.system": Runs(os.system, "touch harm"),
    "subprocess.check_call": Runs(subprocess.check_call, ["touch", "harm"]),
    "subprocess.Popen": Runs(subprocess.Popen, ["touch", "harm"]),
    "builtins.eval": Runs(eval, TOUCH),
    "builtins.exec": Runs(exec, TOUCH),
    "builtins.compile": Runs(compile, TOUCH, "x", "eval"),
    "builtins.getattr": Runs(getattr, "a", "upper"),
    "io.open": Runs(open, "harm", "w"),
    "builtins.__import__": Runs(__import__, "os"),
    "builtins.bytearray": Runs(bytearray, 10**13),
    "importlib.import_module": Runs(importlib.import_module, "os"),
    "runpy._run_code": Runs(runpy._run_code, TOUCH, {}),
    "functools.partial": Runs(functools.partial, print, 1),
    "operator.attrgetter": Runs(operator.attrgetter("system")),
    "_codecs.decode": Runs(codecs.decode, b"cosystem", "rot13"),
    "_pickle.loads": Runs(pickle.loads, b"cposix\nsystem\n."),
    "numpy.load": Runs(np.load, "x"),
    "numpy.fromfile": Runs(np.fromfile, "x"),
}


def text(value: bytes) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value


TWICE = b")" + b"2\x86" * 60  # a pair of a pair of ... : nothing in memory, and no end when it is printed
DEEP = b")" + b"\x85" * 200_000

RAW = {
    "a global of protocol 0": b"cos\nsystem\n(S'touch harm'\ntR.",
    "an instance of an old class": b"(S'touch harm'\nios\nsystem\n.",
    "a dotted name": b"\x80\x04" + text(b"builtins") + text(b"tuple.__class__.__subclasses__") + b"\x93)R.",
    "the name from the memo": b"\x80\x04" + text(b"os") + b"\x94" + text(b"system") + b"\x94h\x00h\x01\x93.",
    "a name with a line end": b"\x80\x04" + text(b"os\nerror: fine") + text(b"system") + b"\x93.",
    "torch's loader": b"ctorch\nload\n(S'x'\ntR.",
    "torch's storage from bytes": b"ctorch.storage\n_load_from_bytes\n(C\x01xtR.",
    "a class of torch": b"ctorch.nn.modules.linear\nLinear\n)\x81.",
    "the reconstructor": b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
    "an object array": pickle.dumps({"a": np.array([print], dtype=object)}, 4),
    "an extension code": b"\x80\x02\x82\x01.",
    "a state for a known name": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00a" + b"K\x01sb.",
    "a call of what is no function": b"\x80\x02cnumpy\nndarray\n)R.",
    "a call of a string": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "something outside": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "data out of band": b"\x80\x05\x97.",
    "a deep key": b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"K\x01u.",
    "more items than are there": b"\x80\x02]q\x00(K\x01h\x05e.",
    "an empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "a string longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "a number longer than the file": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.",
    "a negative length": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"x.",
    "a long number as text": b"I" + b"9" * 3000 + b"\n.",
    "a name of pairs": b"\x80\x04" + TWICE + text(b"x") + b"\x93.",
    "a dtype of pairs": b"\x80\x04cnumpy\ndtype\n" + TWICE + b"\x85R.",
    "a deep dtype": b"\x80\x04cnumpy\ndtype\n" + DEEP + b"\x85R.",
    "an encoding of pairs": b"\x80\x04c_codecs\nencode\n" + text(b"x") + TWICE + b"\x86R.",
    "a number for a name": pickle.dumps({1 << 20_000: np.zeros(3)}, 4),
    "attributes from pairs with a deep key": b"\x80\x02cargparse\nNamespace\n)R](" + DEEP + b"K\x01\x86eb.",
    "a memo of billions": b"\x80\x02}r\xff\xff\xff\xffcos\nsystem\n.",
    "a bytearray longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"cos\nsystem\n.",
    "an array of an endless shape": b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R"
    b"(K\x01\x8a\x10" + b"\xff" * 15 + b"\x7f\x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R\x89C\x00tbs.",
    "nothing": b"",
    "no end": b"\x80\x04}",
}


def pdparams(folder, pickled):
    (folder / "model_state.pdparams").write_bytes(pickled)


def torch_zip(folder, pickled):
    (folder / "pytorch_model.bin").write_bytes(zip_bytes(pickled))


def torch_legacy(folder, pickled):
    (folder / "model.pt").write_bytes(legacy_bytes(pickled))


def part(folder, pickled):
    (folder / "a.bin").write_bytes(zip_bytes(pickled))
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "a.bin"}}')


READERS = [pdparams, torch_zip, torch_legacy, part]


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def refused(request, tmp_path, monkeypatch):
    """Put a pickle where a reader finds it; the message that it is refused with."""
    monkeypatch.chdir(tmp_path)

    def read(pickled: bytes) -> str:
        request.param(tmp_path, pickled)
        with pytest.raises(UserError) as error:
            read_weights(tmp_path)
        assert not (tmp_path / "harm").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    return read


@pytest.mark.parametrize("name", CALLS)
def test_code_is_refused_by_name(refused, name):
    function = name.rsplit(".", 1)[1]
    for protocol in (2, 4):
        message = refused(pickle.dumps({"a": np.zeros(3), "b": [CALLS[name]]}, protocol))
        assert "and only arrays and plain containers are read here" in message
        held = message.split("holds ")[1].split(",")[0]
        assert held.split(".")[-1] == function or held.split(".")[-1] in ("_reconstructor", "__newobj__"), (
            held
        )


@pytest.mark.parametrize("case", RAW)
def test_what_is_written_by_hand(refused, case):
    message = refused(RAW[case])
    assert "only arrays and plain containers" in message or "damaged, cut short or not a file of" in message


def test_a_state_that_is_set_on_a_container(refused):
    assert "holds posix.system" in refused(pickle.dumps({"a": Sets()}, 4))


SPREAD = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    b"K\x00J\x00\x00\x10\x00J\x00\x00\x10\x00\x86K\x00K\x00\x86\x89}tRs."
)


@pytest.mark.parametrize("layout", [zip_bytes, legacy_bytes])
def test_one_number_as_a_tensor_of_any_size(tmp_path, layout):
    (tmp_path / "pytorch_model.bin").write_bytes(layout(SPREAD, {"0": np.zeros(1, np.float32)}))
    with pytest.raises(UserError, match=r"shape \[1048576, 1048576\] in a storage of 1 elements"):
        read_weights(tmp_path)


def test_nothing_of_torch_or_paddle_is_imported():
    code = (
        "import sys\nfrom model.checkpoint.read import read_weights\nimport convert\n"
        "assert not {'torch', 'paddle', 'paddlenlp', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PLAIN = [
    {"a": [1, -1, 255, 65535, 1 << 40, -(1 << 70), True, False, None, 1.5, "text", "é" * 300, b"bytes", b"",
           ("x",), (), (1, 2, 3, 4), [], {}, {"k": {1: 2}}, collections.OrderedDict(a=1, b=[2])]},
    [{"shared": (x := [1])}, x, x],
    np.float32(2.5), np.int64(-7),
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_values_come_back(value, protocol, tmp_path):
    if protocol < 3 and isinstance(value, dict):
        value = {"a": [item for item in value["a"] if item != b""]}  # which is a call of builtins.bytes
    assert pickles.load(io.BytesIO(pickle.dumps(value, protocol)), tmp_path) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", ">f4", "i8", "u2", "?"])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (40, 50)])
def test_arrays_come_back(protocol, dtype, shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    arrays = {"c": array, "fortran": np.asfortranarray(array)}
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(arrays, protocol))
    with open(path, "rb") as file:
        found = pickles.load(file, path)
        for name, expected in arrays.items():
            read = found[name].read(file)
            assert read.shape == expected.shape and read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_pdparams_cut_short_and_one_that_lies(tmp_path, kept):
    whole = pickle.dumps({"embeddings.word_embeddings.weight": np.ones((50, 60), np.float32)}, 4)
    file = tmp_path / "model_state.pdparams"
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(
        UserError, match="model_state.pdparams: damaged, cut short or not a file of paddle.save"
    ):
        read_weights(tmp_path)
    file.write_bytes(whole.replace(b"K2K<\x86", b"K2K=\x86"))
    assert file.read_bytes() != whole
    with pytest.raises(UserError, match=r"12000 bytes for an array of shape \[50, 61\]"):
        paddle_file.read(file)["embeddings.word_embeddings.weight"]
