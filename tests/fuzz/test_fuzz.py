"""The short form of scripts/fuzz.sh, what it once found, and that it finds what is wrong."""

import json
from random import Random

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import edits, planted, run
from tests.fuzz.attempt import REFUSED, attempt
from tests.fuzz.found import FOUND
from tests.fuzz.mutate import MOST_BYTES, Mutator
from tests.fuzz.targets import TARGETS
from tests.launching import call_main
from utils.errors import UserError

SHORT = "100 inputs"


def test_every_reader_refuses_in_one_line(tmp_path):
    results = run.fuzz(list(TARGETS), seed=1, limit=SHORT, keep=tmp_path)
    assert [result.target for result in results] == list(TARGETS)
    assert [(fault.target, fault.kind, fault.report) for result in results for fault in result.faults] == []
    for result in results:
        assert result.inputs == result.accepted + result.refused >= 10, result
        assert result.refused or result.target == "journal", result  # which leaves out what is no record


@pytest.mark.parametrize("target", FOUND)
def test_what_was_found_once(target, tmp_path):
    path = tmp_path / TARGETS[target].file
    path.parent.mkdir(exist_ok=True)
    TARGETS[target].seeds(tmp_path)
    for name, (data, said) in FOUND[target].items():
        path.write_bytes(data)
        outcome = attempt(TARGETS[target], path, tmp_path)
        assert not outcome.is_fault, (name, outcome)
        assert (outcome.kind == REFUSED) == (said is not None), (name, outcome)
        if said is not None:
            assert said in outcome.report, (name, outcome.report)


def test_planted_faults_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TARGETS", planted.PLANTED)
    monkeypatch.setattr(run, "MOST_ENDS", 2)
    found = run.fuzz(
        list(planted.PLANTED), 1, "60 inputs", tmp_path, patience=2.0, worker="tests.fuzz.planted"
    )
    kinds = {result.target: {fault.kind for fault in result.faults} for result in found}
    assert kinds == {
        "raises": {"KeyError"}, "hangs": {"no answer in 2 s"}, "dies": {"the process ended with -9"},
        "grows": {"memory"}, "names_no_file": {"message that names no file"}, "sound": set(),
    }  # fmt: skip
    for result in found:
        assert result.target in ("hangs", "dies") or result.inputs == 60
        for fault in result.faults:
            assert fault.file.parent == tmp_path / result.target
            assert f"--again {fault.file}" in fault.file.with_name(f"{fault.file.name}.txt").read_text()
    (raised,) = found[0].faults
    assert raised.file.read_bytes() in (b"\0", b"{")  # nothing is left that the fault does not need


def test_inputs_hang_on_seed_and_number_alone():
    def inputs(seed: str) -> list[bytes]:
        mutator = Mutator(seed, [b'{"a": [1, 2.5, "x"]}', b"b\tc\n"], (b"word",), edits.json_edit)
        return [mutator.make(index) for index in range(200)]

    assert inputs("1") == inputs("1")
    assert inputs("1")[:2] == inputs("2")[:2] == [b'{"a": [1, 2.5, "x"]}', b"b\tc\n"]
    assert len(set(inputs("1"))) > 100 and not set(inputs("1")[2:]) >= set(inputs("2")[2:])
    assert max(map(len, inputs("1"))) <= MOST_BYTES


def test_edits_keep_the_form():
    text = json.dumps({"a": {"b": [1, 2, {"c": None}]}, "d": "e"}).encode()
    found = [edits.json_edit(Random(seed), text) for seed in range(300)]
    assert len(set(found)) > 100
    readable = 0
    for data in found:
        try:
            json.loads(data.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):  # nested without end, a number of thousands of digits
            continue
        readable += 1
    assert readable > 200
    framed = len(text).to_bytes(8, "little") + text + b"data"
    for seed in range(50):
        data = edits.safetensors_edit(Random(seed), framed)
        length = int.from_bytes(data[:8], "little")
        assert data[8 + length :] == b"data"
    message = b"\x0a\x03abc\x10\x05\x0a\x02de"
    assert list(edits._fields(message)) == [(10, 2, b"abc"), (16, 0, b"\x05"), (10, 2, b"de")]
    changed = {edits.protobuf_edit(Random(seed), message) for seed in range(100)}
    assert len(changed) > 20


def test_the_command(tmp_path, capsys):
    def call(*arguments) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            call_main(command, ["--keep", str(tmp_path), *arguments])
        return ended.value.code, capsys.readouterr().out.splitlines()

    code, (first, last) = call("--minutes", "0.01", "--targets", "conll", "--seed", "3")
    assert code == 0 and first.startswith("conll ") and first.endswith("  0 faults")
    assert json.loads(last).items() >= {"readers": 1, "faults": 0, "seed": 3}.items()
    (tmp_path / "input").write_bytes(b"a b\nc\n")
    code, lines = call("--targets", "conll", "--again", str(tmp_path / "input"))
    assert code == 0 and lines[0] == "refused" and lines[1].startswith("finetune/tagging.py:")
    with pytest.raises(UserError, match="--targets nothing: no such reader; there are classification, "):
        call_main(command, ["--targets", "nothing"])
