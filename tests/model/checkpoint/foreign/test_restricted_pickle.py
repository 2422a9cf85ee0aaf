"""Every reader of pickles refuses those that would run code or that lie, and runs nothing of them."""

import collections
import importlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie_m.model.checkpoint.foreign import restricted_pickle
from ernie_m.model.checkpoint.open import open_checkpoint
from tests.helpers.torch_files import legacy_bytes, zip_bytes
from tests.launching import error_of


class Runs:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def __reduce__(self):
        return self.function, self.arguments


class Sets:
    """An object whose pickle sets the class of an OrderedDict, and calls a function for that."""

    def __reduce__(self):
        return collections.OrderedDict, (), {"__class__": Runs(os.system, "touch harm")}


# The name that must be in the message -> an object whose pickle would call it.
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
    """The opcode of a short string."""
    return b"\x8c" + bytes([len(value)]) + value


# An empty tuple, then 60 times a pair of the last value with itself: it takes no memory, but 2^60 parts would
# be printed.
TWICE = b")" + b"2\x86" * 60
DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple ...

# What is wrong -> a pickle with it. `pickletools.dis` shows the opcodes.
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
    "an array without data": b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R\x89Ntbs.",
    "items of a list": b"\x80\x04](" + text(b"a") + b"K\x01u.",
    "a key without a value": b"\x80\x04}(" + text(b"a") + b"K\x01" + text(b"b") + b"u.",
    "no end": b"\x80\x04}",
}
# File of a model -> what makes its content of a pickle.
FILES = {
    "model_state.pdparams": lambda pickled: pickled,
    "pytorch_model.bin": zip_bytes,
    "model.pt": legacy_bytes,
}


@pytest.fixture(params=FILES)
def refused(request, tmp_path, in_tmp_path):
    """refused(pickled): put a pickle where a reader finds it, and return the message that refuses it."""

    def read(pickled: bytes) -> str:
        (tmp_path / request.param).write_bytes(FILES[request.param](pickled))
        line = error_of(open_checkpoint, tmp_path)
        assert not (tmp_path / "harm").exists()
        return line

    return read


@pytest.mark.parametrize("name", CALLS)
def test_code_is_refused_by_name(refused, tmp_path, name):
    """In protocol 2 some objects are made by a call of another function, which is then refused first."""
    for protocol in (2, 4):
        message = refused(pickle.dumps({"b": [CALLS[name]]}, protocol))
        before, _, _ = message.partition("; only arrays and plain containers are allowed")
        assert before.split(".")[-1] in (name.split(".")[-1], "_reconstructor", "__newobj__")
        assert message.startswith(f"{tmp_path}{os.sep}")


@pytest.mark.parametrize("case", RAW)
def test_pickles_written_by_hand_are_refused(refused, case):
    message = refused(RAW[case])
    assert "only arrays and plain containers" in message or "corrupt, truncated or not a file of" in message


# The names in pickletools of all opcodes that are executed.
EXECUTED = """
PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
BINFLOAT BININT BININT1 BININT2 LONG1 LONG4 BINUNICODE BINUNICODE8 SHORT_BINUNICODE BINBYTES
BINBYTES8 SHORT_BINBYTES BINSTRING SHORT_BINSTRING TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3
EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL BINPERSID REDUCE
NEWOBJ BUILD
"""


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_only_known_opcodes_are_executed(opcode):
    """An unknown one is an error by its byte, before its argument is read."""
    code = opcode.code.encode("latin-1")
    rejected = None
    try:
        restricted_pickle.load(io.BytesIO(code + b"."), Path("x"))
    except Exception as error:  # also without an argument, or without values on the stack
        rejected = error.args
    assert (rejected != (code[0],)) == (opcode.name in EXECUTED.split())


def test_convert_imports_no_torch_or_paddle():
    code = (
        "import sys\nfrom ernie_m.model.checkpoint.open import open_checkpoint\n"
        "from ernie_m.commands import convert\n"
        "assert not {'torch', 'paddle', 'paddlenlp', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SHARED = [1]
# Values without code, which are read.
PLAIN = [
    [1, -1, 255, 65535, 1 << 40, -(1 << 70), True, False, None, 1.5],
    ["text", "é" * 300, b"bytes", b""],
    [("x",), (), (1, 2, 3, 4), [], {}, {"k": {1: 2}}],
    collections.OrderedDict(a=1, b=[2]),
    [{"shared": SHARED}, SHARED, SHARED],
]


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_values_come_back(protocol, value, tmp_path):
    assert restricted_pickle.load(io.BytesIO(pickle.dumps(value, protocol)), tmp_path) == value


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_come_back(protocol, tmp_path):
    arrays = {
        f"{dtype} {shape}": np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
        for dtype in ("f4", "f8", "f2", ">f4", "i8", "u2", "?")
        for shape in ((), (0, 3), (7,), (40, 50))
    }
    arrays["fortran"] = np.asfortranarray(arrays["f4 (40, 50)"])
    (tmp_path / "x").write_bytes(pickle.dumps(arrays, protocol))
    with open(tmp_path / "x", "rb") as file:
        loaded = restricted_pickle.load(file, tmp_path / "x")
        for name, expected in arrays.items():
            np.testing.assert_array_equal(loaded[name].read(file), expected, strict=True)


def test_list_pdparams_entries_that_are_not_arrays(tmp_path):
    """A tensor within containers is a pair of its name and its array."""
    state = {
        "step": 3,
        "w": np.arange(3.0),
        "pair": ("name", np.arange(2.0)),
        "lr": ("a", "b"),
        "c": ("c", np.ones(1), 1),
    }
    (tmp_path / "x").write_bytes(pickle.dumps(state, 4))
    tensors = restricted_pickle.read_pdparams(tmp_path / "x")
    numbers = {name: array.tolist() for name, array in tensors.items()}
    assert (tensors.other_names, numbers) == (["step", "lr", "c"], {"w": [0, 1, 2], "pair": [0, 1]})
    restricted_pickle.write_pdparams(tmp_path / "y", {"w": np.arange(6.0).reshape([2, 3]).T})
    assert restricted_pickle.read_pdparams(tmp_path / "y")["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_pdparams_cut_short_and_one_that_lies(tmp_path):
    """The lie: 50 x 61 numbers, where there are 50 x 60."""
    content = pickle.dumps({"embeddings.word_embeddings.weight": np.ones((50, 60), np.float32)}, 4)
    file = tmp_path / "model_state.pdparams"
    for length in (0, len(content) // 4, len(content) - 9):
        file.write_bytes(content[:length])
        assert "model_state.pdparams: corrupt, truncated or not a file of pad" in error_of(
            open_checkpoint, tmp_path
        )
    file.write_bytes(content.replace(b"K2K<\x86", b"K2K=\x86"))  # the pair of "2", 50, and "<", 60
    assert "12000 bytes for an array of shape [50, 61]" in error_of(open_checkpoint, tmp_path)
