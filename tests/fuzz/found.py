"""Files that once showed a bug: reader -> what is wrong -> the file."""

import gzip
import struct

from ernie_m.utils.checksums import VERSION

DEEP = b"[" * 100_000
DIGITS = b"9" * 5000  # int() refuses more than 4,300
# Of a safetensors file: an array without elements.
HEADER = b'{"b": {"dtype": "F64", "shape": [0, 9223372036854775808], "data_offsets": [0, 0]}}'
AXES = b"\x08\x05" + b"\x10\x01" * 400  # Paddle's description of a float32 tensor with 400 axes of length 1
TUPLES = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple ...: its hash once crashed Python
NUMBER = b"\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000  # an integer of 200 kB
# The beginning of a tensor in a pickle of torch, up to its strides.
TENSOR = (
    b"X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
)
TENSOR += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00(K\x02K\x02t("

FAULTY_FILES: dict[str, dict[str, bytes]] = {
    "classification": {"control characters in a label": b"text_a\tlabel\na\t\x1b[31mno\n"},
    "label_map": {"nested too deeply": DEEP},
    "tagged": {
        "a carriage return in a tag": b"text_a\tlabel\na\tB-\rPER\n",
        "an empty tag": b"text_a\tlabel\na\t\n",
    },
    "squad": {"nested too deeply": b'{"data": ' + DEEP, "a long number": b'{"data": ' + DIGITS + b"}"},
    "yaml": {"nested too deeply": b"a: " + b"[" * 5000},
    "training_config": {
        "an alias of itself": b"seed: &x [*x]",
        "a key in another section": b"optimizer: {betas: 1}",
        "a section that is a file": b"optimizer: /proc/version\n",
    },
    "piece_model": {"a piece twice that is not UTF-8": b"\n\x09\n\x02\xe2\x96\x15\0\0\0\0" * 2},
    "safetensors": {"an empty array with a huge axis": len(HEADER).to_bytes(8, "little") + HEADER},
    "vocab": {
        "a byte order mark within": b"[CLS]\n\xef\xbb\xbf[CLS]\n",
        "an id beyond all tables": b"[CLS]\t99999999",
        "control characters in a token": b"\x1bSEP]\n\x1bSEP]\n",
    },
    "fluid": {"many axes": struct.pack("<IQIi", 0, 0, 0, len(AXES)) + AXES + bytes(4)},
    "torch_pickle": {
        "attributes that are not a dict": b"\x80\x02cargparse\nNamespace\n)\x81](" + TUPLES + b"N\x86eb.",
        "strides that are long numbers": b"\x80\x02}" + TENSOR + NUMBER + b"K\x01t\x89}tRs.",
    },
    "text": {"a line over 4 MiB": b"x" * (5 << 20)},
    "text_gz": {"an archive of a line of 400 MiB": gzip.compress(b"x" * (1 << 20)) * 400},
    "config": {"a class that is an object": b'{"architecture": {}}'},
    "index": {"not UTF-8, and long": b'{"weight_map": "\xd9' + b"x" * 9000},
    "state_index": {
        "nested too deeply": DEEP,
        "a file elsewhere": b'{"version": %d, "files": {"/x": {"bytes": 1, "sha256": ""}}}' % VERSION,
    },
    "modules": {
        "a path no file can have": b'[{"path": "%s", "type": "sentence_transformers.models.Transformer"}]'
        % (b"x" * 5000)
    },
    "state": {"an array that is missing": b'{"a": {"__array__": "b"}}', "nested too deeply": DEEP},
}
