"""How a folder says that its model reads: each format by its own files."""

import json
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pytest

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.pipeline_config import (
    PipelineConfig,
    TextKind,
    get_stored_pipeline_config,
    read_pipeline_config,
)
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_json import make_normalizer_steps
from ernie_m.reader.tokenizer_rules import PIPELINE_FORMAT
from ernie_m.utils.checksums import UnsupportedFormatError
from tests.foreign import make_bert, make_paddlenlp, make_xlm_r, tokenizer_json, xlm_r_json
from tests.helpers.checkpoints import change_config, stored
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.toys import make_ours, train_piece_model

KINDS = get_args(TextKind)  # query, document, neither
MODULES = ("Transformer", "Pooling", "Normalize")
SPECIAL = {"content": "<s>", "id": 0, "single_word": True}
XLM_R_JSON = xlm_r_json([["▁a", 0.0]])
XLM_R_VOCAB = XLM_R_JSON["model"]["vocab"]
METASPACE = XLM_R_JSON["pre_tokenizer"]["pretokenizers"][-1]
INPUTS = XLM_R_JSON["post_processor"]
XLM_R = PipelineConfig.for_xlm_r()


def write(path, contents):
    write_file(path, json.dumps(contents))


def make_sentence_transformer(folder, modules=MODULES, pooling=None, length=20, prompts=None, default=None):
    """An XLM-R with the files of sentence-transformers."""
    make_xlm_r(folder)
    names = ["", *(f"{number}_{name}" for number, name in enumerate(modules) if number)]
    kinds = [name if "." in name else f"sentence_transformers.models.{name}" for name in modules]
    write(folder / "modules.json", [{"path": path, "type": kind} for path, kind in zip(names, kinds)])
    write(folder / "1_Pooling/config.json", pooling or {"pooling_mode_mean_tokens": True})
    write(folder / "sentence_bert_config.json", {"max_seq_length": length})
    if prompts is not None:
        write(
            folder / "config_sentence_transformers.json",
            {"prompts": prompts, "default_prompt_name": default},
        )
    return folder


def open_pipeline_config(folder):
    return open_checkpoint(folder).pipeline_config


def add_key(path, key, value):
    """Set a key of a JSON file, which may be missing."""
    contents = json.loads(path.read_text()) if path.is_file() else {}
    write(path, {**contents, key: value})


def test_stores_only_differences_from_ernie_m():
    assert PipelineConfig().to_json() == {}
    assert XLM_R.to_json() == {
        "text_rules": "none",
        "separators": 2,
        "split_han": False,
        "label_pieces": "leading",
    }
    for pipeline_config in (
        XLM_R,
        PipelineConfig(pooling="cls", prompts={"query": "q: "}, added_tokens={"<e>": 9}),
    ):
        raw_config = json.loads(json.dumps({"pipeline": get_stored_pipeline_config(pipeline_config)}))
        assert [read_pipeline_config(raw_config, None) for _ in range(2)] == [pipeline_config] * 2


@pytest.mark.parametrize(
    "values",
    [
        ["text_rules"],
        {"text_rules": "bert"},
        {"text_rules": None},
        {"pooling": "max"},
        {"chunk_scheme": "IOB3"},
        {"language_embedding": "some"},
        {"camlm_context": "masked"},
        {"pseudo_positions": "last"},
        {"separators": 3},
        {"max_seq_len": "9"},
        {"max_seq_len": True},
        {"multi_label": 1},
        {"added_tokens": {"<e>": -1}},
        {"prompts": {"query": 1}},
        {"default_prompt": "query"},
        {"unknown": 1},
        {"unknown": None},
    ],
)
def test_corrupt_pipeline_settings(tmp_path, values):
    folder = tmp_path / "made"
    make_ours(folder)
    change_config(folder, pipeline=stored(**values) if isinstance(values, dict) else values)
    line = error_of(open_checkpoint, folder)
    assert line.startswith(f"{folder}/config.json: 'pipeline'")
    if isinstance(values, dict):
        assert f"'{next(iter(values))}'" in line


@pytest.mark.parametrize(
    ("key", "number"),
    [("pipeline", None), ("pipeline", PIPELINE_FORMAT - 1), ("reading", 2)],
)
@pytest.mark.parametrize("make", [make_ours, make_xlm_r])
def test_reject_pipeline_settings_from_another_revision(tmp_path, make, key, number):
    """Its "mean" may be another one. Nothing else says so: the formats of libraries have no manifest."""
    make(tmp_path / "made")
    change_config(tmp_path / "made", **{key: stored(format=number, pooling="mean")})
    with pytest.raises(UnsupportedFormatError) as error:
        open_checkpoint(tmp_path / "made")
    line = str(error.value)
    assert line.startswith(f"{tmp_path}/made/config.json: ") and f"'{key}'" in line


def test_reject_pipeline_settings_without_a_format(tmp_path):
    with pytest.raises(UnsupportedFormatError, match="config.json: 'pipeline'"):
        read_pipeline_config({"pipeline": {"pooling": "mean"}}, tmp_path / "config.json")


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": ""}
OF_ERNIE_M = {"type": "Sequence", "normalizers": [*make_normalizer_steps(), PRECOMPILED]}
STRIPPED = [{"type": "Strip", "strip_left": True, "strip_right": True}, *OF_ERNIE_M["normalizers"]]
CLASS = "tokenizer_config.json"
# A head with one output, and its activations in sentence-transformers.
SHAPES = {
    "classifier.weight": (1, 16),
    "classifier.bias": 1,
    "pooler.dense.weight": (16, 16),
    "pooler.dense.bias": 16,
}
ONE_OUTPUT = partial(
    make_bert,
    arrays={name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()},
    architectures=["BertForSequenceClassification"],
)
LOGIT = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
SCORE = {"activation_fn": "torch.nn.modules.linear.Identity"}
CROSS_ENCODER = "config_sentence_transformers.json"
# What makes a folder, what else is in its files, and how it reads.
READ = [
    (partial(make_ours, head="token-classification"), {}, PipelineConfig()),
    (make_paddlenlp, {}, PipelineConfig()),
    # One that a library has fine-tuned reads as its tokenizer does.
    (partial(make_paddlenlp, head="token-classification"), {}, replace(XLM_R, text_rules="paddlenlp")),
    (
        partial(make_paddlenlp, head="token-classification"),
        {CLASS: {"model_max_length": 12}},
        replace(XLM_R, text_rules="paddlenlp", max_seq_len=12),
    ),
    (make_xlm_r, {}, XLM_R),
    (make_xlm_r, {"tokenizer.json": {**XLM_R_JSON, "normalizer": PRECOMPILED}}, XLM_R),
    (
        make_xlm_r,
        {"tokenizer.json": {**XLM_R_JSON, "normalizer": OF_ERNIE_M}},
        replace(XLM_R, text_rules="ernie-m"),
    ),
    (
        make_xlm_r,
        {"tokenizer.json": {**XLM_R_JSON, "normalizer": {**OF_ERNIE_M, "normalizers": STRIPPED}}},
        replace(XLM_R, text_rules="ernie-m"),
    ),
    # The length of the position table says nothing more, and 10^30 is none.
    (make_xlm_r, {CLASS: {"model_max_length": 12}}, replace(XLM_R, max_seq_len=12)),
    (make_xlm_r, {CLASS: {"model_max_length": 38}}, XLM_R),
    (make_xlm_r, {CLASS: {"model_max_length": 10**30}}, XLM_R),
    (partial(make_xlm_r, architectures=[]), {}, XLM_R),
    (partial(make_xlm_r, id2label={"0": "a", "1": "b"}, label2id={"a": "0", "b": "1"}), {}, XLM_R),
    (partial(make_xlm_r, problem_type="multi_label_classification"), {}, replace(XLM_R, multi_label=True)),
    *(
        (make_bert, {CLASS: {"tokenizer_class": name}}, XLM_R)
        for name in (
            "XLMRobertaTokenizer", "XLMRobertaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend",
        )
    ),
    # As transformers 4 loads the tokenizer of paraphrase-multilingual-MiniLM-L12-v2.
    (
        make_bert,
        {CLASS: {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, "tokenizer.json": XLM_R_JSON},
        XLM_R,
    ),
    # By default a logit, as in sentence-transformers, which has stored its activation in three places.
    *(
        (partial(ONE_OUTPUT, **settings), {CROSS_ENCODER: file}, replace(XLM_R, regression=is_score))
        for settings, file, is_score in (
            ({}, {}, False),
            ({"problem_type": "regression"}, {"activation_fn": None}, True),
            ({"problem_type": "regression"}, LOGIT, False),
            ({}, SCORE, True),
            ({"sentence_transformers": SCORE}, {}, True),
            ({"sentence_transformers": SCORE}, LOGIT, False),
            ({"sbert_ce_default_activation_function": SCORE["activation_fn"]}, {}, True),
        )
    ),
    (
        partial(make_sentence_transformer, prompts={"query": "q: ", "document": ""}, default="document"),
        {},
        replace(XLM_R, pooling="mean", layer=2, normalize=True, max_seq_len=20, prompts={"query": "q: "}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "files", "pipeline_config"), READ)
def test_how_a_folder_reads(tmp_path, make, files, pipeline_config):
    make(tmp_path / "made")
    for name, contents in files.items():
        write(tmp_path / "made" / name, contents)
    assert open_pipeline_config(tmp_path / "made") == pipeline_config


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["cls"], "pooling_mode_cls_token": True, "embedding_dimension": 16}, "cls"),
        ({"embedding_dimension": 16}, "mean"),
    ],
)
def test_sentence_transformers(tmp_path, pooling, expected):
    prompts = {"query": "query: ", "document": ""}
    folder = make_sentence_transformer(tmp_path, pooling=pooling, prompts=prompts, default="query")
    checkpoint = open_checkpoint(folder)
    pipeline_config = replace(
        XLM_R,
        pooling=expected,
        layer=2,
        normalize=True,
        max_seq_len=20,
        prompts={"query": "query: "},
        default_prompt="query",
    )
    assert (checkpoint.pipeline_config, checkpoint.pipeline_errors) == (pipeline_config, [])


def test_encoder_in_a_subfolder(tmp_path):
    """As old versions of the library wrote it."""
    make_xlm_r(tmp_path / "0_Transformer")
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    write(
        tmp_path / "modules.json",
        [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()],
    )
    write(tmp_path / "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    write(tmp_path / "0_Transformer/sentence_xlnet_config.json", {"max_seq_length": 14})
    # XLNet's name is looked for after this one.
    write(
        tmp_path / "0_Transformer/sentence_xlm-roberta_config.json",
        {"max_seq_length": 12, "do_lower_case": True},
    )
    (error,) = open_checkpoint(tmp_path).pipeline_errors
    assert error.startswith(f"{tmp_path}/0_Transformer/sentence_xlm-roberta_config.json: do_lower_case")
    pipeline_config = open_pipeline_config(tmp_path)
    assert (pipeline_config.pooling, pipeline_config.max_seq_len, pipeline_config.normalize) == (
        "cls",
        12,
        False,
    )
    write(tmp_path / "0_Transformer/adapter_config.json", {})
    assert error_of(open_checkpoint, tmp_path).startswith(f"{tmp_path}/0_Transformer/adapter_config.json: ")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"modules": ("Transformer", "Pooling", "Dense", "Normalize")}, "modules.json: the module Dense"),
        *(
            ({"pooling": {f"pooling_mode_{flag}": True}}, f"1_Pooling/config.json: the pooling {name}")
            for flag, name in (
                ("max_tokens", "max"),
                ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
                ("weightedmean_tokens", "weightedmean"),
                ("lasttoken", "lasttoken"),
            )
        ),
        ({"pooling": {"pooling_mode": ["mean", "cls"]}}, "1_Pooling/config.json: the pooling mean and cls"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "1_Pooling/config.json: the pooling lasttoken"),
        ({"pooling": {"include_prompt": False}}, "1_Pooling/config.json: the pooling mean and without"),
        ({"modules": ("custom.Transformer", "Pooling")}, "modules.json: the module custom.Transformer"),
    ],
)
def test_warn_about_unsupported_pooling(tmp_path, options, error):
    (said,) = open_checkpoint(make_sentence_transformer(tmp_path, **options)).pipeline_errors
    assert said.startswith(f"{tmp_path}/{error}")


def test_warn_about_normalize_before_another_module(tmp_path):
    checkpoint = open_checkpoint(make_sentence_transformer(tmp_path, modules=(*MODULES, "Dense")))
    modules = [f"{tmp_path}/modules.json: the module {name}" for name in ("Normalize", "Dense")]
    assert (checkpoint.pipeline_config.normalize, checkpoint.pipeline_errors) == (False, modules)


# A file, and a key that is set and may change a vector.
OTHER_KEYS = [
    ("config_sentence_transformers.json", "truncate_dim", 8),
    ("config_sentence_transformers.json", "model_type", "SparseEncoder"),
    ("config_sentence_transformers.json", "similarity_fn_name", "euclidean"),
    ("config_sentence_transformers.json", "new_key", 1),
    ("sentence_bert_config.json", "transformer_task", "fill-mask"),
    ("sentence_bert_config.json", "modality_config", {"text": {"method": "forward"}, "image": {}}),
    ("sentence_bert_config.json", "module_output_name", "sentence_embedding"),
    ("sentence_bert_config.json", "query_length", 32),
    ("sentence_bert_config.json", "do_lower_case", True),
    ("sentence_bert_config.json", "model_args", {"torch_dtype": "float16"}),
    ("1_Pooling/config.json", "new_key", "x"),
    ("tokenizer_config.json", "truncation_side", "left"),
    ("2_Normalize/config.json", "module_input_name", "token_embeddings"),
]


@pytest.mark.parametrize(("file", "key", "value"), OTHER_KEYS)
def test_warn_about_unknown_keys(tmp_path, file, key, value):
    make_sentence_transformer(tmp_path, prompts={})
    add_key(tmp_path / file, key, value)
    (said,) = open_checkpoint(tmp_path).pipeline_errors
    assert said.startswith(f"{tmp_path / file}: {key} ")


@pytest.mark.parametrize("empty", [None, False, "", [], {}])
def test_a_key_that_is_not_handled_but_empty_says_nothing(tmp_path, empty):
    make_sentence_transformer(tmp_path, prompts={})
    pipeline_config = open_pipeline_config(tmp_path)
    for file, key, _ in OTHER_KEYS:
        add_key(tmp_path / file, key, empty)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.pipeline_config, checkpoint.pipeline_errors) == (pipeline_config, [])


def test_keys_that_change_no_embedding(tmp_path):
    """As version 6.2 writes them for a model of text."""
    make_sentence_transformer(tmp_path, pooling={"pooling_mode": "mean", "include_prompt": True})
    pipeline_config = open_pipeline_config(tmp_path)
    write(
        tmp_path / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "6.2.0"},
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    write(
        tmp_path / "sentence_bert_config.json",
        {
            "max_seq_length": 20,
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
            "unpad_inputs": True,
        },
    )
    name = "sentence_embedding"
    write(tmp_path / "2_Normalize/config.json", {"module_input_name": name, "module_output_name": name})
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.pipeline_config, checkpoint.pipeline_errors) == (pipeline_config, [])


@pytest.mark.parametrize("normalize", [True, False])
def test_dot_product_requires_normalized_embeddings(tmp_path, normalize):
    make_sentence_transformer(tmp_path, modules=MODULES[: 3 if normalize else 2])
    path = tmp_path / "config_sentence_transformers.json"
    write(path, {"similarity_fn_name": "dot"})
    errors = [] if normalize else [f"{path}: similarity_fn_name dot"]
    assert open_checkpoint(tmp_path).pipeline_errors == errors


# Added tokens


def test_read_added_tokens_from_each_file(tmp_path):
    """In the order of their ids. A special token may be what it likes; its id is that of a piece."""
    make_xlm_r(tmp_path)
    entry = {"content": "<e>", "single_word": False, "special": True}
    other = {"content": "<d>", "normalized": True}
    files = {
        "added_tokens.json": {"<d>": 61, "<e>": 60, "<mask>": 59},
        "tokenizer_config.json": {
            "added_tokens_decoder": {"61": other, "60": entry, "0": {"content": "<s>"}}
        },
        "tokenizer.json": {**XLM_R_JSON, "added_tokens": [{**other, "id": 61}, {**entry, "id": 60}, SPECIAL]},
    }
    for name, contents in files.items():
        write(tmp_path / name, contents)
        assert list(open_pipeline_config(tmp_path).added_tokens.items()) == [("<e>", 60), ("<d>", 61)], name
        (tmp_path / name).unlink()
    assert open_pipeline_config(tmp_path).added_tokens == {}


@pytest.mark.parametrize(
    ("token", "change"),
    [
        ("'<e>'", lambda contents: contents["added_tokens"].append({"content": "<e>", "id": 301})),
        ("'<mask>'", lambda contents: contents["added_tokens"].append({"content": "<mask>", "id": 200})),
        ("'▁x'", lambda contents: contents["model"]["vocab"].insert(9, ["▁x", 0.0])),
        (
            "'ba'",
            lambda contents: [
                pair.__setitem__(1, 0) for pair in contents["model"]["vocab"] if pair[0] == "ba"
            ],
        ),
        ("normalizer", lambda contents: contents["normalizer"].update(precompiled_charsmap="AAAA")),
        ("normalizer", lambda contents: contents.update(normalizer=None)),
        ("never", lambda contents: contents.update(pre_tokenizer=METASPACE | {"prepend_scheme": "never"})),
        ("byte_fallback", lambda contents: contents["model"].update(byte_fallback=True)),
    ],
)
def test_two_files_disagree_about_a_token(tmp_path, token, change):
    """Or about the rules by which a text is split."""
    piece_model = train_piece_model(tmp_path / "sentencepiece.bpe.model")
    make_xlm_r(tmp_path, vocab_size=Tokenizer(None, piece_model).vocab_size + 120)
    contents = tokenizer_json(piece_model)
    write(tmp_path / "added_tokens.json", {"<e>": 300})
    write(tmp_path / "tokenizer.json", contents)
    open_checkpoint(tmp_path).load_tokenizer()
    change(contents)
    write(tmp_path / "tokenizer.json", contents)
    check_error(
        error_of(open_checkpoint(tmp_path).load_tokenizer),
        piece_model.name,
        token,
        start=f"{tmp_path}/tokenizer.json: ",
    )


@pytest.mark.parametrize("key, id_", [("bos_token_id", 0), ("eos_token_id", 2)])
def test_check_config_json_ids(tmp_path, key, id_):
    piece_model = train_piece_model(tmp_path / "p.model")
    make_xlm_r(tmp_path / "in", piece_model, **{key: id_})
    open_checkpoint(tmp_path / "in").load_tokenizer()
    make_xlm_r(tmp_path / "in", piece_model, **{key: 1})
    assert f"{tmp_path}/in/config.json: " in error_of(open_checkpoint(tmp_path / "in").load_tokenizer)


@pytest.mark.parametrize("special_ids", [{}, {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}])
def test_a_subword_has_its_number_in_the_piece_model_plus_one(tmp_path, special_ids):
    tokenizer = Tokenizer(None, train_piece_model(tmp_path / "piece.model", **special_ids))
    assert tokenizer.encode("bada gona") == [n + 1 for n in tokenizer.processor.encode("bada gona")]
    assert tokenizer.mask_id == tokenizer.processor.get_piece_size() + 1


DAMAGED = {
    ONE_OUTPUT: [
        (CROSS_ENCODER, {"activation_fn": name}) for name in ("torch.nn.Tanh", "their.module", ["x"])
    ],
    make_sentence_transformer: [
        ("modules.json", {"0": 1}),
        ("modules.json", [{"path": "../elsewhere", "type": "sentence_transformers.models.Transformer"}]),
        ("modules.json", [{"path": "/etc", "type": "sentence_transformers.models.Transformer"}]),
        ("modules.json", [{"path": "x" * 5000, "type": "sentence_transformers.models.Transformer"}]),
        ("modules.json", [{"path": "\0", "type": "sentence_transformers.models.Transformer"}]),
        ("modules.json", []),
        ("1_Pooling/config.json", [1]),
        ("1_Pooling/config.json", {"word_embedding_dimension": 32}),
        ("1_Pooling/config.json", {"embedding_dimension": 32}),
        ("1_Pooling/config.json", {"pooling_mode": "cls", "pooling_mode_mean_tokens": True}),
        ("1_Pooling/config.json", {"pooling_mode": 3}),
        *(("sentence_bert_config.json", {"max_seq_length": length}) for length in ("512", True, 0)),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}),
        ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "query"}),
        ("config_sentence_transformers.json", {"prompts": {"query": "q"}, "default_prompt_name": 3}),
    ],
    make_xlm_r: [
        ("added_tokens.json", {"<e>": "60"}),
        ("added_tokens.json", {"": 60}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<e>"}}}),
        ("tokenizer.json", {**XLM_R_JSON, "added_tokens": [{"content": "<e>"}]}),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": [*XLM_R_VOCAB, "piece"]}}),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": [["<s>", 10**400]]}}),
        (
            "tokenizer.json",
            {**XLM_R_JSON, "added_tokens": [{"content": "<e>", "id": 60, "single_word": True}]},
        ),
        (
            "tokenizer.json",
            {
                **XLM_R_JSON,
                "pre_tokenizer": METASPACE,
                "added_tokens": [{"content": "<e>", "id": 60, "normalized": True}],
            },
        ),
        (
            "tokenizer.json",
            {
                **XLM_R_JSON,
                "normalizer": {**OF_ERNIE_M, "normalizers": STRIPPED},
                "pre_tokenizer": METASPACE,
                "added_tokens": [{"content": "<e>", "id": 60, "normalized": True}],
            },
        ),
        ("special_tokens_map.json", {"additional_special_tokens": ["<e>"]}),
        ("tokenizer_config.json", {"extra_special_tokens": ["<e>"]}),
        ("adapter_config.json", {"peft_type": "LORA"}),
    ],
}


@pytest.mark.parametrize(
    ("make", "name", "contents"), [(make, *row) for make, rows in DAMAGED.items() for row in rows]
)
def test_reject_damaged_files_by_name(tmp_path, make, name, contents):
    make(tmp_path)
    write(tmp_path / name, contents)
    assert error_of(open_checkpoint, tmp_path).startswith(f"{tmp_path}/{name}: ")


@pytest.mark.parametrize(
    "changes, errors",
    [
        ({"architectures": ["BertForMaskedLM"]}, []),
        *(
            (
                {"architectures": names},
                ["unknown architectures BertForRanking. Inferred from the tensors: embeddings"],
            )
            for names in (["BertForRanking"], "BertForRanking")
        ),
        ({"problem_type": ["regression"]}, []),
        ({"id2label": {"first": "a"}}, ["invalid id2label {'first': 'a'}"]),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}},
            ["id2label maps 0 to 'a', but label2id maps that name to 1"],
        ),
    ],
)
def test_names_in_a_config_that_are_not_known(tmp_path, caplog, changes, errors):
    make_bert(tmp_path, **changes)
    if "id2label" in changes:
        assert f"{tmp_path}/config.json: {errors[0]}" in error_of(open_checkpoint, tmp_path)
    else:
        open_checkpoint(tmp_path)
        assert caplog.messages == [f"{tmp_path}/config.json: {error}" for error in errors]


# A tokenizer of another kind

WORD_PIECE = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n##s\n"


@pytest.mark.parametrize("make", [make_bert, make_xlm_r])
@pytest.mark.parametrize("has_pieces", [True, False])
@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("vocab.txt", WORD_PIECE),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"[PAD]": 0}}}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"<s>": 0}}}),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": [["<pad>", 0.0], ["</s>", 0.0]]}}),
        ("tokenizer.json", {**XLM_R_JSON, "normalizer": {"type": "Lowercase"}}),
        (
            "tokenizer.json",
            {**XLM_R_JSON, "normalizer": {"type": "Sequence", "normalizers": make_normalizer_steps()[1:]}},
        ),
        ("tokenizer.json", {**XLM_R_JSON, "pre_tokenizer": {"type": "Digits"}}),
        ("tokenizer.json", {**XLM_R_JSON, "pre_tokenizer": {**METASPACE, "prepend_scheme": "first"}}),
        ("tokenizer.json", {**XLM_R_JSON, "post_processor": None}),
        ("tokenizer.json", {**XLM_R_JSON, "post_processor": {**INPUTS, "single": INPUTS["single"][:2]}}),
        (
            "tokenizer.json",
            {**XLM_R_JSON, "post_processor": {**INPUTS, "pair": [*INPUTS["single"], *INPUTS["pair"][4:]]}},
        ),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}),
        ("config.json", {"tokenizer_class": "BertTokenizer"}),
    ],
)
def test_reject_other_tokenizer_types(tmp_path, make, has_pieces, name, contents):
    """Also if XLM-R's subwords lie next to it, which would give its texts other ids in silence."""
    make(tmp_path)
    piece_model = write_file(tmp_path / "sentencepiece.bpe.model", b"")
    if not has_pieces:
        piece_model.unlink()
    if name == "vocab.txt":
        (tmp_path / name).write_text(contents)
    else:
        before = json.loads((tmp_path / name).read_text()) if name == "config.json" else {}
        write(tmp_path / name, before | contents)
    line = error_of(open_checkpoint, tmp_path)
    assert line.startswith(f"{tmp_path}/{name}: ") and "its ids differ from XLM-R's" in line
    assert "beside" not in line  # no advice to put other subwords there


# Prompts


E5 = PipelineConfig(prompts={"query": "query: ", "passage": "passage: "})
E5_WITH_DEFAULT = replace(E5, default_prompt="passage")


@pytest.mark.parametrize(
    ("pipeline_config", "prompts"),
    [
        (E5, ["query: ", "passage: ", ""]),
        (E5_WITH_DEFAULT, ["query: ", "passage: ", "passage: "]),
        (E5_WITH_DEFAULT.replace_prompts("x: "), ["x: ", "x: ", "x: "]),
        (
            PipelineConfig(
                prompts={"corpus": "c: ", "passage": "p: ", "document": "d: "}, default_prompt="corpus"
            ),
            ["", "d: ", "c: "],
        ),
        (PipelineConfig(), ["", "", ""]),
        (PipelineConfig(prompts={"corpus": "c: "}), ["", "c: ", ""]),
    ],
)
def test_the_prompt_of_each_kind(pipeline_config, prompts):
    assert [pipeline_config.get_prompt(kind) for kind in KINDS] == prompts


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_named(kind):
    assert [E5_WITH_DEFAULT.get_prompt(kind, name) for name in ("query", "")] == ["query: ", ""]
    assert "query, passage" in error_of(E5.get_prompt, kind, "document")
    assert E5_WITH_DEFAULT.replace_prompts("") == PipelineConfig()


def test_further_training_keeps_how_texts_are_read():
    start = PipelineConfig(
        text_rules="none", separators=2, split_han=False, label_pieces="leading", added_tokens={"<e>": 9},
        pooling="cls", normalize=True, prompts={"query": "q"}, max_seq_len=12,
    )  # fmt: skip
    assert start.adapt_for_task(max_seq_len=32).to_json() == {
        "text_rules": "none",
        "separators": 2,
        "split_han": False,
        "label_pieces": "leading",
        "added_tokens": {"<e>": 9},
        "max_seq_len": 32,
    }
    recorded = start.adapt_for_task("q", max_seq_len=32)
    assert [recorded.get_prompt(kind) for kind in KINDS] == ["", "", "q"]
    assert PipelineConfig.from_json(recorded.to_json()) == recorded
