"""How a folder says that its model reads: each format by its own files."""

import json
from dataclasses import replace
from typing import get_args

import pytest

from model.checkpoint.read import open_checkpoint
from model.reading import Reading, TextKind, TextRules
from reader.tokenization import TEXT_RULES
from tests.foreign import make_paddlenlp, make_xlm_r
from tests.launching import error_of
from tests.toys import make_ours

KINDS = get_args(TextKind)  # query, document, neither
MODULES = ("Transformer", "Pooling", "Normalize")


def write(path, contents):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(contents), encoding="utf-8")


def make_sentence_transformer(folder, modules=MODULES, pooling=None, length=20, prompts=None, default=None):
    """An XLM-R with the files of sentence-transformers."""
    make_xlm_r(folder)
    names = ["", *(f"{number}_{name}" for number, name in enumerate(modules) if number)]
    kinds = [f"sentence_transformers.models.{name}" for name in modules]
    write(folder / "modules.json", [{"path": path, "type": kind} for path, kind in zip(names, kinds)])
    write(folder / "1_Pooling/config.json", pooling or {"pooling_mode_mean_tokens": True})
    write(folder / "sentence_bert_config.json", {"max_seq_length": length})
    if prompts is not None:
        write(
            folder / "config_sentence_transformers.json",
            {"prompts": prompts, "default_prompt_name": default},
        )
    return folder


def reading_of(folder):
    return open_checkpoint(folder).reading


def test_the_names_of_text_rules_are_those_of_the_tokenizer():
    assert get_args(TextRules) == TEXT_RULES


def test_what_is_written_is_what_differs_from_ernie_m():
    assert Reading().to_json() == {}
    of_xlm_r = {"text_rules": "none", "separators": 2, "split_han": False, "label_pieces": "leading"}
    assert Reading.of_xlm_r().to_json() == of_xlm_r
    for reading in (
        Reading.of_xlm_r(),
        Reading(pooling="cls", prompts={"query": "q: "}, added_tokens={"<e>": 9}),
    ):
        assert Reading.from_json(json.loads(json.dumps(reading.to_json()))) == reading


@pytest.mark.parametrize(
    "values",
    [
        ["text_rules"],
        {"text_rules": "bert"},
        {"pooling": "max"},
        {"separators": 3},
        {"max_seq_len": "9"},
        {"max_seq_len": True},
        {"multi_label": 1},
        {"added_tokens": {"<e>": -1}},
        {"prompts": {"query": 1}},
        {"default_prompt": "query"},
        {"unknown": 1},
    ],
)
def test_a_reading_that_is_damaged(tmp_path, values):
    folder = tmp_path / "made"
    make_ours(folder)
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "reading": values})
    line = error_of(open_checkpoint, folder)
    assert line.startswith(f"{folder}/config.json: 'reading'")
    if isinstance(values, dict):
        assert f"'{next(iter(values))}'" in line


def test_our_folders_and_the_official_ones_read_as_ernie_m(tmp_path):
    make_ours(tmp_path / "ours", head="tagging")
    assert reading_of(tmp_path / "ours") == Reading()


def test_an_ernie_m_that_a_library_has_fine_tuned_reads_as_its_tokenizer(tmp_path):
    make_paddlenlp(tmp_path / "tags", head="tagging")
    assert reading_of(tmp_path / "tags").to_json() == {
        "text_rules": "paddlenlp",
        "separators": 2,
        "split_han": False,
        "label_pieces": "leading",
    }
    make_paddlenlp(tmp_path / "encoder")
    assert reading_of(tmp_path / "encoder") == Reading()


def test_xlm_r_reads_as_xlm_r(tmp_path):
    """Without tokenizer.json, and with its own; one with ERNIE-M's rules in it says ERNIE-M's."""
    make_xlm_r(tmp_path)
    assert reading_of(tmp_path) == Reading.of_xlm_r()
    normal = {"type": "Precompiled", "precompiled_charsmap": ""}
    write(tmp_path / "tokenizer.json", {"normalizer": normal, "added_tokens": []})
    assert reading_of(tmp_path) == Reading.of_xlm_r()
    quotes = {"type": "Replace", "pattern": {"String": "“"}, "content": '"'}
    write(tmp_path / "tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [quotes, normal]}})
    assert reading_of(tmp_path).text_rules == "ernie-m"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "specials"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"embedding_dimension": 16}, "specials"),
    ],
)
def test_sentence_transformers(tmp_path, pooling, expected):
    prompts = {"query": "query: ", "document": ""}
    folder = make_sentence_transformer(tmp_path, pooling=pooling, prompts=prompts, default="query")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.reading_faults == []
    assert checkpoint.reading == replace(
        Reading.of_xlm_r(),
        pooling=expected,
        layer=2,
        normalize=True,
        max_seq_len=20,
        prompts={"query": "query: "},
        default_prompt="query",
    )


def test_the_encoder_may_lie_in_a_folder_of_its_own(tmp_path):
    """As old versions of the library wrote it."""
    make_xlm_r(tmp_path / "0_Transformer")
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    write(tmp_path / "modules.json", [{"path": path, "type": f"x.{kind}"} for path, kind in kinds.items()])
    write(tmp_path / "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    write(tmp_path / "0_Transformer/sentence_bert_config.json", {"max_seq_length": 12})
    reading = reading_of(tmp_path)
    assert (reading.pooling, reading.max_seq_len, reading.normalize) == ("cls", 12, False)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"modules": ("Transformer", "Pooling", "Dense", "Normalize")}, "modules.json: the module Dense"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "1_Pooling/config.json: the pooling max"),
        ({"pooling": {"pooling_mode": ["mean", "cls"]}}, "1_Pooling/config.json: the pooling mean and cls"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "1_Pooling/config.json: the pooling lasttoken"),
        ({"pooling": {"include_prompt": False}}, "1_Pooling/config.json: the pooling mean and without"),
    ],
)
def test_vectors_that_are_not_made_here_are_said(tmp_path, options, fault):
    (said,) = open_checkpoint(make_sentence_transformer(tmp_path, **options)).reading_faults
    assert said.startswith(f"{tmp_path}/{fault}")


def test_normalize_before_another_module_is_said(tmp_path):
    checkpoint = open_checkpoint(make_sentence_transformer(tmp_path, modules=(*MODULES, "Dense")))
    modules = [f"{tmp_path}/modules.json: the module {name}" for name in ("Normalize", "Dense")]
    assert (checkpoint.reading.normalize, checkpoint.reading_faults) == (False, modules)


def test_small_letters_are_said(tmp_path):
    make_sentence_transformer(tmp_path)
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.reading_faults == [f"{tmp_path}/sentence_bert_config.json: do_lower_case"]
    assert checkpoint.reading.max_seq_len == 20


def test_a_default_prompt_without_text_is_none(tmp_path):
    prompts = {"query": "query: ", "document": ""}
    reading = reading_of(make_sentence_transformer(tmp_path, prompts=prompts, default="document"))
    assert (reading.prompts, reading.default_prompt) == ({"query": "query: "}, None)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("modules.json", {"0": 1}),
        ("modules.json", [{"path": "../elsewhere", "type": "x.Transformer"}]),
        ("1_Pooling/config.json", [1]),
        ("sentence_bert_config.json", {"max_seq_length": "512"}),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}),
        ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "query"}),
    ],
)
def test_damaged_files_of_sentence_transformers(tmp_path, name, contents):
    make_sentence_transformer(tmp_path)
    write(tmp_path / name, contents)
    assert error_of(open_checkpoint, tmp_path).startswith(f"{tmp_path}/{name}: ")


def test_the_longest_input_that_a_tokenizer_says(tmp_path):
    """The length of the position table says nothing more, and 10^30 is none."""
    make_xlm_r(tmp_path)
    for length, expected in ((12, 12), (38, None), (10**30, None)):
        write(tmp_path / "tokenizer_config.json", {"model_max_length": length})
        assert reading_of(tmp_path).max_seq_len == expected


def test_several_labels(tmp_path):
    make_xlm_r(tmp_path, problem_type="multi_label_classification")
    assert reading_of(tmp_path).multi_label


# Added tokens


def test_added_tokens_of_each_file(tmp_path):
    make_xlm_r(tmp_path)
    entry = {"content": "<e>", "single_word": False}
    files = {
        "added_tokens.json": {"<e>": 60, "<mask>": 59},
        "tokenizer_config.json": {"added_tokens_decoder": {"60": entry, "0": {"content": "<s>"}}},
        "tokenizer.json": {"added_tokens": [{**entry, "id": 60}, {"content": "<s>", "id": 0}]},
    }
    for name, contents in files.items():
        write(tmp_path / name, contents)
        assert reading_of(tmp_path).added_tokens == {"<e>": 60}, name
        (tmp_path / name).unlink()
    assert reading_of(tmp_path).added_tokens == {}


def test_two_files_disagree_about_a_token(tmp_path):
    make_xlm_r(tmp_path)
    write(tmp_path / "added_tokens.json", {"<e>": 60})
    write(tmp_path / "tokenizer.json", {"added_tokens": [{"content": "<e>", "id": 61}]})
    line = error_of(open_checkpoint, tmp_path)
    assert line.startswith(f"{tmp_path}/tokenizer.json: ")
    assert f"{tmp_path}/added_tokens.json" in line and "'<e>'" in line


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("added_tokens.json", {"<e>": "60"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<e>"}}}),
        ("tokenizer.json", {"added_tokens": [{"content": "<e>"}]}),
        ("tokenizer.json", {"added_tokens": [{"content": "<e>", "id": 60, "single_word": True}]}),
        ("special_tokens_map.json", {"additional_special_tokens": ["<e>"]}),
    ],
)
def test_added_tokens_that_cannot_be_read(tmp_path, name, contents):
    make_xlm_r(tmp_path)
    write(tmp_path / name, contents)
    assert error_of(open_checkpoint, tmp_path).startswith(f"{tmp_path}/{name}: ")


# Prompts


def test_prompts():
    e5 = Reading(prompts={"query": "query: ", "passage": "passage: "})
    assert [e5.prompt(kind) for kind in KINDS] == ["query: ", "passage: ", ""]
    default = replace(e5, default_prompt="passage")
    assert [default.prompt(kind) for kind in KINDS] == ["query: ", "passage: ", "passage: "]
    both = Reading(prompts={"corpus": "c: ", "passage": "p: ", "document": "d: "}, default_prompt="corpus")
    assert [both.prompt(kind) for kind in KINDS] == ["", "d: ", "c: "]
    assert [Reading().prompt(kind) for kind in KINDS] == ["", "", ""]
    for kind in KINDS:
        assert [default.prompt(kind, name) for name in ("query", "")] == ["query: ", ""]
        assert "query, passage" in error_of(e5.prompt, kind, "document")


def test_further_training_keeps_how_texts_are_read():
    start = Reading(
        text_rules="none", separators=2, split_han=False, label_pieces="leading", added_tokens={"<e>": 9},
        pooling="cls", normalize=True, prompts={"query": "q"}, max_seq_len=12,
    )  # fmt: skip
    kept = {"text_rules": "none", "separators": 2, "split_han": False, "label_pieces": "leading"}
    kept |= {"added_tokens": {"<e>": 9}, "max_seq_len": 32}
    assert start.for_task(max_seq_len=32).to_json() == kept
    recorded = start.for_task("q", max_seq_len=32)
    assert [recorded.prompt(kind) for kind in KINDS] == ["", "", "q"]
    assert Reading.from_json(recorded.to_json()) == recorded
