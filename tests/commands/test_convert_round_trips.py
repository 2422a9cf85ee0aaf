"""There and back: every pair of output formats keeps every bit of what both can store."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ernie_m.commands import convert
from ernie_m.model.checkpoint import safetensors as safe
from ernie_m.model.checkpoint.model_card import read_card
from ernie_m.model.checkpoint.native_names import WORDS
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write_foreign import ENCODER_TARGETS
from ernie_m.utils.checksums import CARD
from tests.helpers.arrays import assert_equal_arrays, assert_same_bits
from tests.helpers.checkpoints import change_config, stored
from tests.launching import check_error, error_of
from tests.toys import CONFIG, make_ours

# Kind of model -> the arguments of `make_ours`.
KINDS = {
    "encoder": {},
    "encoder without pooler": {"pooler": False},
    "pre-training": {"lm_head": True, "languages": 3},
    "classification": {"head": "classification", "labels": ["no", "maybe", "yes"]},
    "token-classification": {"head": "token-classification"},
    "question-answering": {"head": "question-answering"},
    "choice": {"head": "choice"},
}


def without_lost(target: str, kind: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that a format can store."""
    lost = []  # prefixes of the others
    if target != "ernie-m":  # only our own models have languages
        lost.append("language_embeddings.")
    if target in ("paddlenlp", "huggingface"):  # no class of theirs has a masked-LM head
        lost.append("lm_head.")
    # Classes that predict tokens have no pooler.
    if target == "xlm-roberta" and "lm_head.bias" in weights:
        lost.append("pooler.")
    if target in ("huggingface", "xlm-roberta") and kind in ("token-classification", "question-answering"):
        lost.append("pooler.")
    return {name: array for name, array in weights.items() if not name.startswith(tuple(lost))}


def converted(target: str, source, folder, *flags: str):
    """Convert `source` to the format `target` in `folder`, however it is read there, and open the result."""
    convert.main([str(source), str(folder), "--to", target, "--allow_lossy", *flags])
    return open_checkpoint(folder)


def head_flag(source: str, kind: str) -> tuple[str, ...]:
    """The flag that names the head where the files of `source` do not.

    The official names of a choice are those of classification.
    """
    return ("--head", "choice") if source == "fluid" and kind == "choice" else ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ENCODER_TARGETS)
def test_there_and_back(tmp_path, kind, first):
    """From the first format to each other one and back. Embeddings get their files."""
    made = make_ours(tmp_path / "made", **KINDS[kind])
    checkpoint = converted(first, tmp_path / "made", tmp_path / "first")
    weights = without_lost(first, kind, made)
    assert_same_bits(checkpoint.tensors, weights)
    for second in ENCODER_TARGETS:
        converted(second, tmp_path / "first", tmp_path / second, *head_flag(first, kind))
        weights_in_second = without_lost(second, kind, weights)
        is_for_embeddings = second == "xlm-roberta" and "head" not in KINDS[kind]
        assert (tmp_path / second / "modules.json").exists() is is_for_embeddings
        back = converted(first, tmp_path / second, tmp_path / f"{second}-back", *head_flag(second, kind))
        assert_same_bits(back.tensors, weights_in_second)
        assert (back.config, back.task) == (checkpoint.config, checkpoint.task)


@pytest.mark.parametrize("target", ENCODER_TARGETS)
def test_weights_that_were_written_again_are_not_read(tmp_path, target):
    """Their names and shapes were those of another model."""
    make_ours(tmp_path / "made")
    tensors = converted(target, tmp_path / "made", tmp_path / "there").tensors
    for path in (tmp_path / "there").rglob("*"):
        os.utime(path, ns=(0, 0))
    assert f"{tmp_path}/there/" in error_of(tensors.__getitem__, WORDS)


def test_reports_entries_that_official_files_cannot_hold(tmp_path, capsys):
    """Labels and how texts were read are reported; a classifier for several labels would become another."""
    make_ours(tmp_path / "made", head="classification", labels=["no", "maybe", "yes"])
    change_config(tmp_path / "made", pipeline=stored(max_seq_len=32))
    converted("fluid", tmp_path / "made", tmp_path / "there")
    report = capsys.readouterr().out
    for key in ("labels", "pipeline"):
        assert f"not representable in fluid: {key} of config.json\n" in report
    change_config(tmp_path / "made", pipeline=stored(multi_label=True))
    make_ours(tmp_path / "logit", head="choice")  # one output
    change_config(tmp_path / "logit", head="classification")
    for name in ("made", "logit"):
        line = error_of(converted, "fluid", tmp_path / name, tmp_path / "again")
        check_error(line, f"{tmp_path}/{name}: ", "--to ernie-m")


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
@pytest.mark.parametrize("target", ["ernie-m", "paddlenlp", "huggingface", "xlm-roberta"])
def test_a_classifier_of_several_labels_or_a_number_stays_one(tmp_path, target, kind):
    """Its config says so in our key, and to the other library in that library's; labels and task go along."""
    labels = ["no", "maybe", "yes"] if kind == "multi_label" else ["score"]
    make_ours(tmp_path / "made", head="classification" if labels[1:] else "choice", labels=labels)
    pipeline_config = {"label_pieces": "all", kind: True}
    change_config(tmp_path / "made", head="classification", pipeline=stored(**pipeline_config))
    converted(target, tmp_path / "made", tmp_path / "there")
    back = converted("ernie-m", tmp_path / "there", tmp_path / "back")
    assert (back.task, back.labels, back.pipeline_config.to_json(), back.settings["architecture"]) == (
        "classification",
        labels,
        pipeline_config,
        "SequenceClassifier",
    )
    settings = json.loads((tmp_path / "there/config.json").read_text())
    of_library = {"multi_label": "multi_label_classification", "regression": "regression"}
    assert settings.get("problem_type") == (None if target == "ernie-m" else of_library[kind])
    # As a folder that the library has written itself, without our key.
    del settings["pipeline"]
    (tmp_path / "there/config.json").write_text(json.dumps(settings))
    (tmp_path / "there/manifest.json").unlink(missing_ok=True)
    assert getattr(open_checkpoint(tmp_path / "there").pipeline_config, kind) == (target != "ernie-m")


def test_a_pdparams_is_what_paddle_loads(tmp_path):
    import paddle

    weights = make_ours(tmp_path / "made", head="classification")
    converted("paddlenlp", tmp_path / "made", tmp_path / "there")
    state = paddle.load(str(tmp_path / "there/model_state.pdparams"))
    loaded = {name.removeprefix("ernie_m."): np.asarray(tensor) for name, tensor in state.items()}
    assert_equal_arrays(loaded, weights)


def test_a_safetensors_is_what_the_library_writes(tmp_path):
    arrays = {
        "b": np.ones((3, 4), np.float32),
        "a": np.arange(3, dtype=np.int64),
        "é": np.zeros((), np.float16),
        "none": np.zeros((0, 2), np.float32),
    }
    safe.write(tmp_path / "by_us", arrays, metadata={"format": "pt"})
    save_file(arrays, tmp_path / "by_library", metadata={"format": "pt"})
    assert (tmp_path / "by_us").read_bytes() == (tmp_path / "by_library").read_bytes()
    for name, array in load_file(tmp_path / "by_us").items():
        np.testing.assert_array_equal(safe.read(tmp_path / "by_library")[name], array)
    kinds = {kind: np.ones(2, kind) for kind in "?bBhHiIqQefd"}
    safe.write(tmp_path / "kinds", kinds)
    for kind, array in load_file(tmp_path / "kinds").items():
        assert array.dtype == safe.read(tmp_path / "kinds")[kind].dtype == kinds[kind].dtype


NOT_IN_LIBRARIES = (
    *(
        f"lm_head.{name}"
        for name in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
    ),
    "language_embeddings.weight",
)
TOKENIZER = "vocab.txt, sentencepiece.bpe.model, tokenizer_config.json"
OTHER_IDS = "the ErnieMTokenizer of these libraries produces other ids for many texts"
# Format -> names that it cannot store, number of further names, and lines about the tokenizer and embeddings.
PRINTED = {
    "ernie-m": ((), 0, ["tokenizer: vocab.txt, piece.model in OUT"]),
    "fluid": (("language_embeddings.weight",), 0, ["tokenizer: vocab.txt, piece.model in OUT"]),
    "paddlenlp": (NOT_IN_LIBRARIES, 0, [f"tokenizer: {TOKENIZER} in OUT", f"note: {OTHER_IDS}"]),
    "huggingface": (NOT_IN_LIBRARIES, 0, [f"tokenizer: {TOKENIZER} in OUT", f"note: {OTHER_IDS}"]),
    "xlm-roberta": (
        ("pooler.dense.weight", "pooler.dense.bias", "language_embeddings.weight"),
        2,  # the embedding of token types, and a second name of the head's bias
        [
            "for sentence-transformers: modules.json, 1_Pooling/config.json, "
            "sentence_bert_config.json; pooling: mean",
            "tokenizer: tokenizer.json, tokenizer_config.json, sentencepiece.bpe.model in OUT",
        ],
    ),
}


@pytest.mark.parametrize("target", PRINTED)
def test_printed_lines(tmp_path, capsys, target):
    made = make_ours(tmp_path / "made", **KINDS["pre-training"])
    converted(target, tmp_path / "made", tmp_path / "out")
    lost, further, others = PRINTED[target]
    assert capsys.readouterr().out.replace(str(tmp_path / "out"), "OUT").splitlines() == [
        *(f"not representable in {target}: {name}" for name in lost),
        f"{tmp_path}/made (ernie-m) -> OUT ({target}): {len(made) - len(lost) + further} tensors",
        *others,
        "note: OUT/README.md has no license. To publish it, set --license, such as apache-2.0",
    ]


LIBRARY_LABELS = {
    "id2label": {"0": "no", "1": "maybe", "2": "yes"},
    "label2id": {"no": 0, "maybe": 1, "yes": 2},
}
# Format -> keys of config.json besides the sizes; then title, library, parameters and a remark in the card.
WRITTEN = {
    "ernie-m": (
        {
            "architecture": "SequenceClassifier",
            "model_type": "ernie_m",
            "head": "classification",
            "labels": ["no", "maybe", "yes"],
            "layer_norm_eps": 1e-5,
        },
        ("ERNIE-M", "paddle", "8,515", ""),
    ),
    "paddlenlp": (
        {
            "architectures": ["ErnieMForSequenceClassification"],
            "model_type": "ernie_m",
            "type_vocab_size": 16,
            "dtype": "float32",
            **LIBRARY_LABELS,
        },
        ("ERNIE-M for paddlenlp", "paddlenlp", "8,515", f"- Reads otherwise: {OTHER_IDS}\n"),
    ),
    "huggingface": (
        {
            "architectures": ["ErnieMForSequenceClassification"],
            "model_type": "ernie_m",
            "classifier_dropout": None,
            "act_dropout": 0.0,
            "torch_dtype": "float32",
            "layer_norm_eps": 1e-5,
            **LIBRARY_LABELS,
        },
        ("ERNIE-M for transformers", "transformers", "8,515", f"- Reads otherwise: {OTHER_IDS}\n"),
    ),
    "xlm-roberta": (
        {
            "architectures": ["XLMRobertaForSequenceClassification"],
            "model_type": "xlm-roberta",
            "type_vocab_size": 1,
            "position_embedding_type": "absolute",
            "bos_token_id": 0,
            "eos_token_id": 2,
            "classifier_dropout": None,
            "torch_dtype": "float32",
            "use_cache": True,
            "layer_norm_eps": 1e-5,
            **LIBRARY_LABELS,
        },
        ("ERNIE-M for transformers", "transformers", "8,531", ""),
    ),
}
CARD_OF_A_CLASSIFIER = """---
license: unknown
language:
- multilingual
library_name: {1}
pipeline_tag: text-classification
tags:
- ernie-m
- cross-lingual
---

# {0}

An ERNIE-M model: 2 layers, 16 hidden, 60 words, {2} parameters. \
See docs/predict.md and docs/models.md of that project.

- Task: classification
- Labels: no, maybe, yes
- Reads at most: 38 tokens
- Reads: max_seq_len 32
{3}"""


@pytest.mark.parametrize("target", WRITTEN)
def test_written_config_and_card(tmp_path, target):
    """The length of a classifier's training does not limit the tokenizer."""
    make_ours(tmp_path / "made", **KINDS["classification"])
    change_config(tmp_path / "made", pipeline=stored(max_seq_len=32))
    converted(target, tmp_path / "made", tmp_path / "out")
    others, facts = WRITTEN[target]
    assert json.loads((tmp_path / "out/config.json").read_text()) == {
        **{key: value for key, value in CONFIG.items() if key != "layer_norm_eps"},
        "pipeline": stored(max_seq_len=32),
        **others,
    }
    assert (tmp_path / "out" / CARD).read_text() == CARD_OF_A_CLASSIFIER.format(*facts)
    if target == "xlm-roberta":
        tokenizer = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
        assert tokenizer["model_max_length"] == CONFIG["max_position_embeddings"] - 2


def test_write_license_and_base_model_to_card(tmp_path, capsys):
    """A flag wins over the card of the source, and nothing is said then."""
    make_ours(tmp_path / "native")
    flags = ("--license", "mit", "--base_model", "someone/model")
    converted("xlm-roberta", tmp_path / "native", tmp_path / "licensed", *flags)
    converted("ernie-m", tmp_path / "licensed", tmp_path / "changed", "--license", "apache-2.0")
    assert "no license" not in capsys.readouterr().out
    metadata, _ = read_card(tmp_path / "changed")
    assert (metadata["license"], metadata["base_model"]) == ("apache-2.0", "someone/model")


@pytest.mark.parametrize(("target", "weights"), [("ernie-m", "model.safetensors"), ("fluid", "params")])
def test_model_card_counts_if_the_weights_are_named(tmp_path, target, weights):
    make_ours(tmp_path / "native")
    converted(target, tmp_path / "native", tmp_path / "licensed", "--license", "mit")
    converted("huggingface", tmp_path / "licensed" / weights, tmp_path / "out")
    assert read_card(tmp_path / "out")[0]["license"] == "mit"
