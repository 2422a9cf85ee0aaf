"""Each rule of docs/data.md, "Text checks", holds in each command that needs it."""

import contextlib
import json
import re
from functools import partial
from importlib import import_module
from itertools import pairwise

import pytest

from ernie_m.finetune.eval_mlqa import resolve_rules_language
from ernie_m.reader.tag_schemes import JOINT
from ernie_m.utils.errors import run
from tests import toys
from tests.launching import as_flags, call_main
from tests.toys import LABELS, TAGS, write_lines

TEXTS = list(dict.fromkeys(line for line in toys.sentences(80, seed=3) if len(line) > 20))[:30]
LONG = " ".join(TEXTS)
STRANGE = [" ".join(["qqq"] * count) for count in range(1, 10)]  # the vocabulary has no q
TWIN = TEXTS[0].replace("a", "\uff41").replace(" ", "\u00a0 ")  # the first text in other bytes


def labeled(*texts: str, label: str = LABELS[0]) -> list[str]:
    return ["text_a\tlabel", *(f"{text}\t{label}" for text in texts)]


def tagged(*texts: str) -> list[str]:
    """In the official format; the first word of each text is an entity."""
    tags = [JOINT.join(["B-PER", *("O" for _ in text.split(" ")[1:])]) for text in texts]
    rows = [f"{text.replace(' ', JOINT)}\t{tags_of_text}" for text, tags_of_text in zip(texts, tags)]
    return ["text_a\tlabel", *rows]


def asked(*pairs: tuple[str, str], ids: str = "abcdefghijkl") -> list[str]:
    """SQuAD of (question, context); an answer is the first word of its context."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": id_,
                    "question": question,
                    "answers": [{"text": context.split()[0], "answer_start": 0}],
                }
            ],
        }
        for id_, (question, context) in zip(ids, pairs)
    ]
    return [json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]})]


def requests(*texts: str) -> list[str]:
    return [json.dumps({"text_a": text}) for text in texts]


def pairs(*sides: tuple[str, str]) -> list[str]:
    return ["\t".join(side) for side in sides]


MANY_PAIRS = pairs(*((text, text[::-1]) for text in TEXTS))
TRAINED = {
    "init_pretraining_params": "{models}/encode",
    "checkpoints": "out",
    "do_test": "false",
    "max_steps": 1,
    "batch_size": 8,
}
FINE_TUNED = {**TRAINED, "label_map_config": "labels.json"}
CLASSIFIED = {**FINE_TUNED, "train_set": "train.tsv", "dev_set": "dev.tsv", "num_labels": len(LABELS)}
QUESTIONS = {
    **TRAINED,
    "train_set": "train.json",
    "dev_set": "dev.json",
    "max_seq_len": 62,
    "max_query_length": 16,
    "doc_stride": 16,
}
SEARCHED = {
    "pairs": "d",
    "init_pretraining_params": "{models}/encode",
    "checkpoints": "out",
    "max_seq_len": 62,
}
BUILT = {"piece_model_path": "{models}/piece.model", "output": "corpus", "workers": 1, "held_out": 2}
# Command -> its module, its first words and its flags.
PROGRAMS = {
    "run_classifier": ("commands.run_classifier", [], CLASSIFIED),
    "run_sequence_labeling": (
        "commands.run_sequence_labeling",
        [],
        {**CLASSIFIED, "num_labels": len(TAGS)},
    ),
    "run_mrc": ("commands.run_mrc", [], QUESTIONS),
    "run_retrieval": ("commands.run_retrieval", [], SEARCHED),
    "run_pretrain": ("commands.run_pretrain", [], {"data.corpus": "{corpus}", "run.output": "out"}),
    "build_corpus": ("pretrain.build_corpus.command", [], BUILT),
    # What ernie-m train does first.
    "train": ("data.prepare", ["pairs", "d"], {"output": "out", "model": "{models}/encode"}),
    "fit": ("commands.fit", ["table.tsv"], {"model": "{models}/encode", "output": "out"}),
    "predict_table": (
        "commands.predict",
        [],
        {"input": "table.tsv", "model": "{models}/classify", "output": "out"},
    ),
    "predict": ("commands.predict", [], {"input": "a.jsonl", "model": "{models}/classify", "output": "out"}),
    "encode_vector": (
        "commands.encode_vector",
        [],
        {"data_set": "table.tsv", "init_pretraining_params": "{models}/encode", "output_dir": "out"},
    ),
    "mine_pairs": (
        "commands.mine_pairs",
        [],
        {"source": "de<=de.txt", "target": "en<=en.txt", "model": "{models}/encode", "output": "out"},
    ),
}
slow = pytest.mark.slow
# Command, its toys, further flags, and each rule with the location that the command names.
CASES = [
    pytest.param(
        "run_classifier",
        {
            "train.tsv": [*labeled(*TEXTS[:4], LONG, "", *STRANGE), f"{TWIN}\t{LABELS[1]}"],
            "dev.tsv": labeled(TWIN, LONG[:-1]),
        },
        {},
        {
            "cut of dev": "dev.tsv: 1 of 2 .* truncated to 62 ",
            "cut": "train.tsv: 1 of 16 .* truncated to 62 ",
            "empty": "train.tsv: 1 of 16 rows .* empty",
            "equal": "train.tsv: 1 text has two labels, as in line 2 and line 17",
            "unknown": "train.tsv: .* unknown",
            "learned": "dev.tsv: 1 of 2 rows .* training data",
        },
        marks=slow,
    ),
    pytest.param(
        "run_sequence_labeling",
        {"train.tsv": tagged(*TEXTS[:4], LONG, *STRANGE), "dev.tsv": tagged(TWIN, TEXTS[9])},
        {},
        {
            "cut": "train.tsv: 1 of 14 .* truncated to 62 ",
            "unknown": "train.tsv: .* unknown",
            "learned": "dev.tsv: 1 of 2 rows .* training data",
        },
        marks=slow,
    ),
    (
        "run_sequence_labeling",
        {"train.tsv": tagged(TEXTS[0], "a "), "dev.tsv": tagged(TEXTS[0])},
        {},
        {"empty": "train.tsv, line 3: "},
    ),
    pytest.param(
        "run_mrc",
        {
            "train.json": asked((TEXTS[0], TEXTS[1]), (LONG, TEXTS[2]), *zip(STRANGE, STRANGE)),
            "dev.json": asked((TWIN, TEXTS[1]), (LONG, TEXTS[6])),
        },
        {},
        {
            "cut of dev": "dev.json: 1 of 2 questions are truncated to 16 ",
            "cut": "train.json: 2 of 11 questions are truncated to 16 ",
            "unknown": "train.json: .* unknown",
            "languages": "dev.json: --answer_rules mlqa supports",
            "learned": "dev.json: 1 of 2 rows .* training data",
        },
        marks=slow,
    ),
    (
        "run_mrc",
        {"train.json": asked((TEXTS[0], TEXTS[1])), "dev.json": asked(*pairwise(TEXTS[:3]), ids="aa")},
        {},
        {"ids": "dev.json: .*duplicate id 'a'"},
    ),
    (
        "run_mrc",
        {"train.json": asked((" ", TEXTS[1])), "dev.json": asked((TEXTS[0], TEXTS[1]))},
        {},
        {"empty": "train.json: "},
    ),
    (
        "run_retrieval",
        {"d/de-en.tsv": [*MANY_PAIRS, f"{TWIN}\tx", f"{LONG}\ty", *pairs(*zip(STRANGE, STRANGE))]},
        {},
        {
            "cut": "de-en: 1 of 82 .* truncated to 62 ",
            "equal": "de-en: of 41 pairs, ",
            "unknown": "de-en: .* tokens are unknown",
        },
    ),
    ("run_retrieval", {"d/de-en.tsv": [*MANY_PAIRS, "a\t"]}, {}, {"empty": "de-en.tsv, line 31: "}),
    (
        "run_retrieval",
        {"d/de-en.tsv": MANY_PAIRS},
        {"languages": "de,xx"},
        {"languages": "d: missing languages xx"},
    ),
    pytest.param(
        "run_retrieval",
        {"d/de-en.tsv": MANY_PAIRS, "en-de.tsv": pairs((TWIN, "x"), *zip(STRANGE, TEXTS[20:]))},
        {"do_train": "true", "train_set": "en-de.tsv", "max_steps": 1, "batch_size": 2},
        {"learned": "de-en: 10 of 60 sentences .* training data"},
        marks=slow,
    ),
    pytest.param(
        "run_pretrain",
        {},
        {
            "data.max_seq_len": 16,
            "optimizer.steps": 1,
            "optimizer.batch_size": 4,
            "optimizer.warmup_steps": 0,
            "model.hidden_size": 16,
            "model.num_hidden_layers": 1,
            "model.num_attention_heads": 2,
        },
        {"cut": "pairs exceed data.max_seq_len 16"},
        marks=slow,
    ),
    ("run_pretrain", {}, {"data.languages": "en,xx"}, {"languages": "data.languages: unknown xx"}),
    (
        "build_corpus",
        {
            "en.txt": [*TEXTS, " ", *STRANGE, TEXTS[0], TWIN],
            "en-de.tsv": [*MANY_PAIRS, f"{LONG * 4}\t{LONG * 4}"],
        },
        {"mono": "en<=en.txt", "parallel": "en-de<=en-de.tsv", "deduplicate": "true"},
        {
            "cut": "1 of 2. pairs exceed ",
            "empty": " 1 empty",
            "equal": " 2 duplicate",
            "unknown": "en +36 .* 8.57% ",
            "learned": "held-out text",
        },
    ),
    (
        "build_corpus",
        {"en.txt": TEXTS},
        {"mono": "{{en: en.txt, eng: en.txt}}"},
        {"languages": "en and eng are the same language"},
    ),
    (
        "train",
        {"d/en-de.tsv": [*MANY_PAIRS, f"{TEXTS[0]}\t{TWIN}"]},
        {},
        {"equal": "query and positive are equal in 1 of 31 rows", "learned": "de-en +31 +2. +3 "},
    ),
    ("train", {"d/en-de.tsv": [*MANY_PAIRS, "a\t"]}, {}, {"empty": "en-de.tsv, line 31: "}),
    ("train", {"d/en-de.tsv": pairs(*zip(STRANGE * 9, TEXTS))}, {}, {"unknown": "en-de.tsv: "}),
    (
        "train",
        {"d/en-de.tsv": MANY_PAIRS, "d/fr-eng.tsv": MANY_PAIRS},
        {},
        {"languages": "en and eng are the same language"},
    ),
    (
        "fit",
        {
            "table.tsv": [*labeled(*TEXTS[:9], LONG), *labeled(TWIN, *STRANGE, label="b")[1:]],
            "test.tsv": labeled(TWIN, LONG[:-1]),
        },
        {"test": "test.tsv"},
        {
            "cut of a test": "test.tsv: 1 of 2 .* truncated to 62 ",
            "cut": "table.tsv: 1 of 20 .* truncated to 62 ",
            "equal": "table.tsv: 1 text has two labels, as in table.tsv, line 2 and table.tsv, line 12",
            "unknown": "table.tsv: .* unknown",
            "learned": "test.tsv: 1 of 2 rows .* training data",
        },
    ),
    ("fit", {"table.tsv": labeled(*TEXTS[:9], " ")}, {}, {"empty": "table.tsv, line 11: "}),
    (
        "predict_table",
        {"table.tsv": labeled(TEXTS[0], LONG, STRANGE[3])},
        {},
        {"cut": "\tTrue\t", "unknown": "\t4\n"},
    ),
    ("predict_table", {"table.tsv": labeled(TEXTS[0], " ")}, {}, {"empty": "table.tsv, line 3: "}),
    (
        "predict_table",
        {"questions.json": asked((TEXTS[0], TEXTS[1]))},
        {"input": "questions.json", "model": "{models}/answer"},
        {"languages": "questions.json: --answer_rules mlqa supports"},
    ),
    (
        "predict",
        {"a.jsonl": requests(TEXTS[0], LONG, STRANGE[3])},
        {},
        {"cut": '"truncated": true', "unknown": '"unknown_words": 4'},
    ),
    ("predict", {"a.jsonl": requests(TEXTS[0], " ")}, {}, {"empty": "a.jsonl, line 2: "}),
    (
        "predict",
        {"a.jsonl": [json.dumps({"text": "a [MASK]", "language": "xx"})]},
        {"model": "{models}/full"},
        {"languages": "a.jsonl, line 1: 'language'"},
    ),
    (
        "encode_vector",
        {"table.tsv": ["text_a", TEXTS[0], LONG, "", *STRANGE]},
        {},
        {
            "cut": "table.tsv: 1 of 12 .* truncated to 62 ",
            "empty": "table.tsv: 1 of 12 texts .* empty",
            "unknown": "table.tsv: .* unknown",
        },
    ),
    (
        "mine_pairs",
        {"de.txt": [*TEXTS, LONG, TWIN, " "], "en.txt": [TWIN, *STRANGE]},
        {},
        {
            "cut": "de.txt, en.txt: 1 of .* truncated to 62 ",
            "empty": "de.txt: 33 lines, 31 distinct",
            "equal": "1 of them with equal sides",
            "unknown": "de.txt, en.txt: .* unknown",
            "languages": "languages with a mean",
        },
    ),
]


@pytest.fixture(scope="module")
def locations(module_folder):
    """Models of each kind, and a small corpus: what stands for {models} and {corpus}."""
    return {"models": toys.make_models(module_folder), "corpus": toys.make_small_corpus(module_folder)}


@pytest.mark.parametrize(("command", "files", "flags", "rules"), CASES)
def test_each_command_follows_each_rule(
    locations, tmp_path, in_tmp_path, capsys, caplog, command, files, flags, rules
):
    (tmp_path / "d").mkdir()
    labels = TAGS if command == "run_sequence_labeling" else LABELS
    (tmp_path / "labels.json").write_text(json.dumps({label: id_ for id_, label in enumerate(labels)}))
    for name, lines in files.items():
        write_lines(tmp_path / name, lines)
    module, words, usual = PROGRAMS[command]
    line = [word.format(**locations) for word in [*words, *as_flags(usual | flags)]]
    resolve_rules_language.cache_clear()
    with contextlib.suppress(SystemExit):
        run(partial(call_main, import_module(f"ernie_m.{module}"), line))
    said = "".join([*capsys.readouterr(), caplog.text])
    if (tmp_path / "out").is_file():
        said += (tmp_path / "out").read_text()
    assert [rule for rule, location in rules.items() if not re.search(location, said)] == [], said
