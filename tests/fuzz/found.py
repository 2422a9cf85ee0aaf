"""Inputs that once showed a fault: reader -> what it is -> (input, what is said of it; None: it is taken)."""

import json

DEEP = 100_000
DIGITS = b"9" * 5000  # Python makes no number of more than 4,300
RECORD = {"step": 3, "epoch": 1, "selected_by": 0.5, "scores": {}}

HEADER = b'{"b": {"dtype": "F64", "shape": [0, 9223372036854775808], "data_offsets": [0, 0]}}'
EMPTY = len(HEADER).to_bytes(8, "little") + HEADER


def _with(record: dict, **changes) -> bytes:
    return json.dumps(record | changes).encode()


FOUND: dict[str, dict[str, tuple[bytes, str | None]]] = {
    "classification": {
        "control characters in a label": (b"text_a\tlabel\na\t\x1b[31mno\n", r"unknown label '\x1b[31mno'"),
        "a label that is a long number": (b"text_a\tlabel\na\t" + DIGITS, "unknown label '999"),
        "a label without end": (b"text_a\tlabel\na\t" + b"x" * 9000, "unknown label 'xxx"),
        # each was looked for among all
        "columns without end": (b"text_a\tlabel" + b"\tx" * 300_000 + b"\n", "the column x occurs twice"),
    },
    "label_map": {
        "nested without end": (b"[" * DEEP, "not JSON (nested too deeply)"),
        "a long number": (b'{"no": ' + DIGITS + b"}", "not JSON (a number of thousands of digits)"),
        "half a character": (rb'{"\ud800": 0, "a": 1}', r"the key '\ud800' has half of a surrogate pair"),
    },
    "tagged": {
        "a carriage return in a tag": (b"text_a\tlabel\na\tB-\rPER\n", r"unknown tag 'B-\rPER'"),
        "a tag without end": (b"text_a\tlabel\na\t" + b"B" * 9000, "unknown tag 'BBB"),
    },
    "squad": {
        "nested without end": (b'{"data": ' + b"[" * DEEP, "not JSON (nested too deeply)"),
        "a long number": (b'{"data": ' + DIGITS + b"}", "not JSON (a number of thousands of digits)"),
    },
    "yaml": {
        "nested without end": (b"a: " + b"[" * 5000, "nested too deeply"),
        "a month that is none": (b"a: 2001-99-99", "not YAML (month must be in 1..12)"),
        "no number of its tag": (b"a: !!int\n", "not YAML"),
        "no time of its tag": (b"a: !!timestamp x\n", "not YAML"),
        "an alias of itself": (b"a: &x [*x]", "nested too deeply"),
    },
    "training_config": {
        "a key in another section": (b"optimizer: {betas: 1}", "train.yaml: unknown key 'betas'"),
        "an empty section": (
            b"data: {corpus: c}\nobjectives:\n",
            "train.yaml: objectives: nothing stands behind it",
        ),
        "a section that is a number": (
            b"data: 4\noptimizer: {steps: 1}",
            "train.yaml: data: a section, whose keys",
        ),
        "an empty key": (b"optimizer: {steps: }", "train.yaml: optimizer.steps: nothing stands behind it"),
    },
    "corpus_config": {
        "a value of no kind": (b"output: o\npiece_model_path: p\nunit_mib: 0\n", "corpus.yaml: unit_mib"),
        "an empty list": (
            b"output: o\npiece_model_path: p\nparallel:\n",
            "parallel: nothing stands behind it",
        ),
        "a long number": (
            b"output: o\npiece_model_path: p\nunit_mib: " + DIGITS[:4000],
            "corpus.yaml: a number is too large",
        ),
    },
    "piece_model": {
        "read by sentencepiece, and not by its format": (
            b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>\x15\x00\x00\x00\x00\x18\x03"
            b"\n\r\n\x04</s>\x15\x00\x00\x00\x00\x18\n\xc0\x93\xef\xa0pa\x15\xc6\xf5\x94\xc0"
            b"\n\x0c\n\x05\xe2\x96\x81si\x15\xe9\x05\x9a\xc0\n\x0c\n\x05\xe2\x96\x81pa\x15\xea\xe7\x9b\xc0"
            b"\n\x0c\n\x05\t\n\x02fa\x15\x1a\x8f\x9c\xc0\n\x0c\n\x05\xe2\x96\x81mo\x15\xab\xff\x9d\xc0"
            b"\n\n\n\x03dan\x15\xc49\x9d\xc0\n\x0c\n\x05\xe2\x96\x81ge\x15\xc49\x9d\xc0"
            b"\n\r\n\x06\xe2\x96\x81tor\x15\xca\x8b\x9d\xc0",
            "own.model: damaged",
        ),
        "a piece twice that is not UTF-8": (
            b"\n\x09\n\x02\xe2\x96\x15\0\0\0\0" * 2,
            "not a sentencepiece model",
        ),
    },
    "safetensors": {"as large as nothing else, and empty": (EMPTY, "b has a shape that is too large")},
    "vocab": {
        "a separator behind an id": (b"[CLS]\t0\x1d\n[CLS]\t0", "the token '[CLS]' occurs twice"),
        "an id that is a long number": (b"[CLS]\t" + DIGITS, "is no id, a number below 16,777,216"),
        "an id beyond all tables": (b"[CLS]\t99999999", "is no id, a number below 16,777,216"),
        "control characters in a token": (b"\x1bSEP]\n\x1bSEP]\n", r"the token '\x1bSEP]' occurs twice"),
    },
    "official_config": {"nested without end": (b'{"a": ' + b"[" * DEEP, "not JSON (nested too deeply)")},
    "config": {
        "nested without end": (b'{"init_class": ' + b"[" * DEEP, "not JSON (nested too deeply)"),
        "a class that is no name": (b'{"architecture": {}}', "config lacks vocab_size"),
        "a label's id that is a long number": (
            b'{"id2label": {"' + DIGITS + b'": "a"}}',
            "config lacks vocab_size",
        ),
    },
    "index": {
        "not UTF-8, and quoted": (b'{"weight_map": "\xd9' + b"x" * 9000, "index.json: not UTF-8 (byte 17)")
    },
    "corpus_index": {
        "without its keys": (b'{"format": 1}', "manifest.json: damaged: vocabulary: missing"),
        "half a character in a name": (
            rb'{"format": 1, "vocabulary": {"digest": "", "size": 1}, '
            rb'"files": {"\ud800": {"bytes": 1, "sha256": ""}}, "mono": {}, "parallel": {}, "pieces": {}}',
            "no file of the corpus",
        ),
        "nested without end": (b"[" * DEEP, "not JSON (nested too deeply)"),
    },
    "state_index": {
        "nested without end": (b"[" * DEEP, "manifest.json: damaged"),
        "without files": (b'{"version": 1, "files": {}}', "manifest.json: damaged"),
        "a file elsewhere": (
            b'{"version": 1, "files": {"/x": {"bytes": 1, "sha256": ""}}}',
            "names files of other folders",
        ),
        "a name without end": (
            b'{"version": 1, "files": {"' + b"a" * 5000 + b'": {"bytes": 1, "sha256": ""}}}',
            ": missing",
        ),
    },
    "state": {
        "empty": (b"", "state.json: "),
        "an array that is not there": (b'{"a": {"__array__": "b"}}', "state.json: "),
        "a reference that is no name": (b'{"a": {"__array__": []}}', "state.json: "),
        "nested without end": (b"[" * DEEP, "state.json: "),
        "not UTF-8": (b'{"\xff": 1}', "state.json: "),
    },
    "journal": {
        "a record without a step": (b'{"loss": 1}\n{"step": 1}\n', None),
        "a record that is no object": (b'7\n{"step": 1}\n', None),
        "bytes of a failing disk": (b'{"step": 1}\n\xff\0\0\n{"step": 2}\n', None),
        "nested without end": (b"[" * DEEP + b"\n", None),
    },
    "record": {
        "empty": (b"", "selected.json: the file is empty; remove it"),
        "without its keys": (b"{}", "selected.json: holds no object with the keys step, epoch"),
        "scores that are none": (_with(RECORD, scores=[1]), "selected.json: scores is of another type"),
        "not UTF-8": (b'{"\xff": 1}', "selected.json: not UTF-8"),
    },
}
