"""Files of torch.save: only tensors in plain containers are read, and a file that lies is refused."""

import collections
import os
import re
import struct
import zipfile

import numpy as np
import pytest

from ernie_m.model.checkpoint.foreign import torch_files
from tests.helpers.torch_files import STORAGES, legacy_bytes, write_torch_file, zip_bytes
from tests.launching import check_error, error_of

# A pickle of {"w": a float32 tensor [1048576, 1048576] whose strides are 0, in the storage "0"}.
ONE_NUMBER_AS_A_LARGE_TENSOR = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    b"K\x00J\x00\x00\x10\x00J\x00\x00\x10\x00\x86K\x00K\x00\x86\x89}tRs."
)
ONE_NUMBER_AS_ITSELF = ONE_NUMBER_AS_A_LARGE_TENSOR.replace(b"J\x00\x00\x10\x00", b"K\x01")
# The storage "0".
ONE_NUMBER = {"0": np.zeros(1, np.float32)}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_read_and_plain_values_are_listed(tmp_path, legacy):
    arrays = {dtype: np.arange(16).astype(dtype) for dtype in STORAGES if dtype != "uint16"}
    arrays["empty"] = np.zeros([0, 3], np.float32)
    values = {"step": 3, "notes": [1.5, ("a", None)], "order": collections.OrderedDict(a=True)}
    bfloat16 = np.array([0x3F80, 0xC000], np.uint16)  # the bits of 1 and -2
    write_torch_file(tmp_path / "x.bin", arrays | {"bfloat16": bfloat16}, legacy=legacy, **values)
    tensors = torch_files.read(tmp_path / "x.bin")
    assert (list(tensors), tensors.other_names) == ([*arrays, "bfloat16"], [*values])
    arrays |= {"bfloat16": np.array([1, -2], np.float32)}
    for dtype, array in arrays.items():
        np.testing.assert_array_equal(tensors[dtype], array, strict=True)
    os.utime(tmp_path / "x.bin", ns=(0, 0))  # as if it were written again
    assert "x.bin: " in error_of(tensors.__getitem__, "float16")


def test_reject_tensor_beyond_its_storage(tmp_path):
    # Every second one is written as 8 elements, with a stride of 2.
    write_torch_file(tmp_path / "x.bin", {"tensor": np.arange(16, dtype=np.float32)[::2]})
    assert "x.bin: " in error_of(torch_files.read, tmp_path / "x.bin")


@pytest.mark.parametrize("layout", [zip_bytes, legacy_bytes])
@pytest.mark.parametrize(("part", "is_read"), [(b"", True), (b"N", True), (b"K\x01", False)])
def test_reject_storage_views(tmp_path, layout, part, is_read):
    """As very old files have it, after the number of elements; None is the whole storage."""
    small = ONE_NUMBER_AS_ITSELF.replace(b"K\x01tQ", b"K\x01" + part + b"tQ")
    (tmp_path / "x.bin").write_bytes(layout(small, ONE_NUMBER))
    if is_read:
        assert torch_files.read(tmp_path / "x.bin")["w"].tolist() == [[0.0]]
    else:
        assert "x.bin: " in error_of(torch_files.read, tmp_path / "x.bin")


@pytest.mark.parametrize("layout", [zip_bytes, legacy_bytes])
@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (ONE_NUMBER_AS_A_LARGE_TENSOR, "shape [1048576, 1048576] does not fit into its storage of 1"),
        (
            ONE_NUMBER_AS_ITSELF.replace(b"tQK\x00", b"tQK\x01"),
            "shape [1, 1] does not fit into its storage of 1",
        ),
        (ONE_NUMBER_AS_ITSELF.replace(b"K\x00K\x00\x86", b"J\xff\xff\xff\xffK\x00\x86"), "a negative"),
        (re.sub(rb"\(X\x07.*tQ", b"N", ONE_NUMBER_AS_ITSELF, flags=re.DOTALL), "without storage"),
    ],
)
def test_reject_shape_beyond_its_storage(tmp_path, layout, pickled, message):
    """Too many numbers, an offset of 1, a stride of -1, and None for the storage."""
    (tmp_path / "x.bin").write_bytes(layout(pickled, ONE_NUMBER))
    assert message in error_of(torch_files.read, tmp_path / "x.bin")


def test_reject_storage_size_mismatch(tmp_path):
    """In the old layout the number of elements is also before them."""
    write_torch_file(tmp_path / "x.bin", {"tensor": np.ones(4, np.float32)}, legacy=True)
    content = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "x.bin").write_bytes(content.replace(struct.pack("<q", 4), struct.pack("<q", 5)) + bytes(4))
    assert "x.bin: " in error_of(torch_files.read, tmp_path / "x.bin")


def test_a_storage_that_claims_to_be_larger_than_its_file(tmp_path):
    content = bytearray(zip_bytes(ONE_NUMBER_AS_A_LARGE_TENSOR, ONE_NUMBER))
    # The last entry of the directory at the end is that of the storage. Its size is at byte 24.
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 1 << 31)
    (tmp_path / "x.bin").write_bytes(content)
    assert "unexpected end of file" in error_of(torch_files.read, tmp_path / "x.bin")


@pytest.mark.parametrize("name", ["modèle/data/0", "modèle/data.pkl"])
def test_a_compressed_entry_is_refused(tmp_path, name):
    """torch never compresses, and the tensors are read at their place in the file."""
    write_torch_file(tmp_path / "stored.bin", {"tensor": np.arange(16, dtype=np.float32)})
    with (
        zipfile.ZipFile(tmp_path / "stored.bin") as stored,
        zipfile.ZipFile(tmp_path / "x.bin", "w") as archive,
    ):
        for entry in stored.infolist():
            compression = zipfile.ZIP_DEFLATED if entry.filename == name else zipfile.ZIP_STORED
            archive.writestr(entry.filename, stored.read(entry), compression)
    check_error(error_of(torch_files.read, tmp_path / "x.bin"), "x.bin: ", f"{name} is compressed")
