"""Files that once showed a fault: reader -> what is wrong -> the file. Only `journal` reads its files."""

import gzip
import json
import struct

DEEP = b"[" * 100_000
DIGITS = b"9" * 5000  # int() refuses more than 4,300
RECORD = {"step": 3, "epoch": 1, "selected_by": 0.5, "scores": {}}
HEADER = b'{"b": {"dtype": "F64", "shape": [0, 9223372036854775808], "data_offsets": [0, 0]}}'
CORPUS = b"output: o\npiece_model_path: p\n"
AXES = b"\x08\x05" + b"\x10\x01" * 400
TUPLES = b")" + b"\x85" * 2_000_000  # a tuple in a tuple in a tuple ...: its hash once crashed Python
NUMBER = b"\x8b" + struct.pack("<i", 2_000_000) + b"\x7f" * 2_000_000  # an integer of 2 MB
TENSOR = (
    b"X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
)
TENSOR += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00(K\x02K\x02t("

FOUND: dict[str, dict[str, bytes]] = {
    "classification": {
        "control characters in a label": b"text_a\tlabel\na\t\x1b[31mno\n",
        "a label that is a long number": b"text_a\tlabel\na\t" + DIGITS,
        "a long label": b"text_a\tlabel\na\t" + b"x" * 9000,
        "many columns": b"text_a\tlabel" + b"\tx" * 300_000 + b"\n",
    },
    "label_map": {
        "nested too deeply": DEEP,
        "a long number": b'{"no": ' + DIGITS + b"}",
    },
    "tagged": {
        "a carriage return in a tag": b"text_a\tlabel\na\tB-\rPER\n",
        "a long tag": b"text_a\tlabel\na\t" + b"B" * 9000,
    },
    "squad": {"nested too deeply": b'{"data": ' + DEEP, "a long number": b'{"data": ' + DIGITS + b"}"},
    "yaml": {
        "nested too deeply": b"a: " + b"[" * 5000,
        "a month 99": b"a: 2001-99-99",
        "no integer behind !!int": b"a: !!int\n",
        "no time behind !!timestamp": b"a: !!timestamp x\n",
        "an alias of itself": b"a: &x [*x]",
    },
    "training_config": {
        "a key in another section": b"optimizer: {betas: 1}",
        "an empty section": b"data: {corpus: c}\nobjectives:\n",
        "a section that is a number": b"data: 4\noptimizer: {steps: 1}",
        "an empty key": b"optimizer: {steps: }",
        "another file": b"config: /proc/version\n",
        "a section that is a file": b"optimizer: /proc/version\n",
    },
    "corpus_config": {
        "a value out of range": CORPUS + b"unit_mib: 0\n",
        "an empty list": CORPUS + b"parallel:\n",
        "a long number": CORPUS + b"unit_mib: " + DIGITS[:4000],
    },
    "piece_model": {
        "read by sentencepiece, but cut off": (
            b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>\x15\x00\x00\x00\x00\x18\x03"
            b"\n\r\n\x04</s>\x15\x00\x00\x00\x00\x18\n\xc0\x93\xef\xa0pa\x15\xc6\xf5\x94\xc0"
            b"\n\x0c\n\x05\xe2\x96\x81si\x15\xe9\x05\x9a\xc0\n\x0c\n\x05\xe2\x96\x81pa\x15\xea\xe7\x9b\xc0"
            b"\n\x0c\n\x05\t\n\x02fa\x15\x1a\x8f\x9c\xc0\n\x0c\n\x05\xe2\x96\x81mo\x15\xab\xff\x9d\xc0"
            b"\n\n\n\x03dan\x15\xc49\x9d\xc0\n\x0c\n\x05\xe2\x96\x81ge\x15\xc49\x9d\xc0"
            b"\n\r\n\x06\xe2\x96\x81tor\x15\xca\x8b\x9d\xc0"
        ),
        "a piece twice that is not UTF-8": b"\n\x09\n\x02\xe2\x96\x15\0\0\0\0" * 2,
    },
    "safetensors": {"an empty array with a huge axis": len(HEADER).to_bytes(8, "little") + HEADER},
    "vocab": {
        "a byte order mark within": b"[CLS]\n\xef\xbb\xbf[CLS]\n",
        "a separator behind an id": b"[CLS]\t0\x1d\n[CLS]\t0",
        "an id that is a long number": b"[CLS]\t" + DIGITS,
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
    "official_config": {"nested too deeply": b'{"a": ' + DEEP},
    "config": {
        "nested too deeply": b'{"init_class": ' + DEEP,
        "a class that is an object": b'{"architecture": {}}',
        "a label's id that is a long number": b'{"id2label": {"' + DIGITS + b'": "a"}}',
    },
    "index": {"not UTF-8, and long": b'{"weight_map": "\xd9' + b"x" * 9000},
    "corpus_index": {
        "without its keys": b'{"format": 1}',
        "half a surrogate pair in a name": (
            rb'{"format": 1, "vocabulary": {"digest": "", "size": 1}, '
            rb'"files": {"\ud800": {"bytes": 1, "sha256": ""}}}'
        ),
        "nested too deeply": DEEP,
    },
    "state_index": {
        "nested too deeply": DEEP,
        "without files": b'{"version": 1, "files": {}}',
        "a file elsewhere": b'{"version": 1, "files": {"/x": {"bytes": 1, "sha256": ""}}}',
        "a long name": b'{"version": 1, "files": {"' + b"a" * 5000 + b'": {"bytes": 1, "sha256": ""}}}',
    },
    "state": {
        "empty": b"",
        "an array that is missing": b'{"a": {"__array__": "b"}}',
        "a reference that is a list": b'{"a": {"__array__": []}}',
        "nested too deeply": DEEP,
        "not UTF-8": b'{"\xff": 1}',
    },
    "journal": {
        "a record without a step": b'{"loss": 1}\n{"step": 1}\n',
        "a record that is a number": b'7\n{"step": 1}\n',
        "bytes of a failing disk": b'{"step": 1}\n\xff\0\0\n{"step": 2}\n',
        "nested too deeply": DEEP + b"\n",
    },
    "record": {
        "empty": b"",
        "without its keys": b"{}",
        "scores that are a list": json.dumps(RECORD | {"scores": [1]}).encode(),
        "not UTF-8": b'{"\xff": 1}',
    },
}
