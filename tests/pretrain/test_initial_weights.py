"""Initial weights: encoder, head and language embeddings, each from its own source."""

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.pipeline_config import PIPELINE, PipelineConfig, get_stored_pipeline_config
from ernie_m.pretrain.config import InitConfig
from ernie_m.pretrain.initial_weights import initialize_model, open_initial_checkpoint, set_token_frequencies
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import write_vocab
from tests.foreign import make_official, make_xlm_r, official_config
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.checkpoints import change_config, save_model
from tests.launching import ROOT, check_error, error_of
from tests.pretrain.tiny_run import assert_equal_runs, checkpoint, pretrain, records
from tests.toys import make_corpus, sentences, write_lines

# The model of `tiny_run`.
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
# Flags of a command that leave the shape to `init.encoder`.
NO_SHAPE = {f"model__{key}": None for key in SHAPE}
WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus):
    return Tokenizer.from_folder(tiny_corpus)


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    """A run's output folder."""
    return pretrain(
        tiny_corpus, tmp_path_factory.mktemp("trained") / "out", optimizer__steps=4, run__eval_sequences=0
    )


def make_model(tokenizer, languages=("de", "en", "fr")) -> PreTrainingModel:
    """A new model, always with the same weights."""
    paddle.seed(3)
    return PreTrainingModel(ErnieMConfig(vocab_size=tokenizer.vocab_size, **SHAPE), list(languages))


def started(
    tokenizer, languages=("de", "en", "fr"), text_rules="auto", seed=1, **init
) -> dict[str, np.ndarray]:
    """The weights of a model after `initialize_model`."""
    model = make_model(tokenizer, languages)
    config = InitConfig(**{name: str(value) for name, value in init.items()})
    encoder = None if config.encoder == "random" else open_initial_checkpoint(config.encoder, tokenizer)
    initialize_model(model, config, encoder, tokenizer, {"corpus": "another", "seed": seed}, text_rules)
    return {name: value.copy() for name, value in get_weight_arrays(model).items()}


def same(weights: dict, expected: dict, *prefixes: str) -> bool:
    """Whether all weights whose names begin with one of the prefixes are equal."""
    names = [name for name in weights if name.startswith(prefixes)]
    assert names
    return all((weights[name] == expected[name]).all() for name in names)


ENCODER = ("embeddings.", "encoder.")


def test_the_encoder_alone_and_with_its_head(tokenizer, trained):
    """What is loaded is that of the trained model; the rest is that of a fresh one."""
    full = load_file(trained / "full" / "model.safetensors")
    fresh = started(tokenizer)
    # The encoder alone.
    encoder = started(tokenizer, encoder=trained / "full")
    assert same(encoder, full, *ENCODER, "pooler.", "language_embeddings.")
    assert same(encoder, fresh, "lm_head.")
    assert not same(encoder, full, "lm_head.")
    # Both: "" is the beginning of every name.
    assert same(started(tokenizer, encoder=trained / "full", lm_head="same"), full, "")
    # The head alone.
    head = started(tokenizer, lm_head=trained / "full")
    assert same(head, full, "lm_head.")
    assert same(head, fresh, *ENCODER)


@pytest.mark.parametrize(
    ("folder", "head", "lines"),
    [("full", "random", 1), ("full", "{copy}", 1), ("full", "same", 0), ("encoder", "random", 0)],
)
def test_warn_about_unused_head(tokenizer, trained, tmp_path, caplog, info_log, folder, head, lines):
    copy = shutil.copytree(trained / "full", tmp_path / "copy")
    started(tokenizer, encoder=trained / folder, lm_head=head.format(copy=copy))
    said = [line for line in caplog.messages if "init.lm_head same" in line]
    assert len(said) == lines and all(line.startswith(f"{trained / folder}: ") for line in said)


def test_language_embeddings_go_by_name(tokenizer, trained):
    """A model of en, fi and fr takes the rows of en and fr from one of de, en and fr."""
    _, en, fr = load_file(trained / "full" / "model.safetensors")["language_embeddings.weight"]
    assert en.any() and fr.any()
    weights = started(tokenizer, ("en", "fi", "fr"), encoder=trained / "full")
    np.testing.assert_array_equal(weights["language_embeddings.weight"], [en, np.zeros_like(en), fr])
    # The encoder for fine-tuning has no language embeddings.
    assert not started(tokenizer, encoder=trained / "encoder")["language_embeddings.weight"].any()


@pytest.mark.parametrize("error", ["no languages", "another language", "not finite"])
def test_language_embeddings_that_fit_no_language(tokenizer, trained, tmp_path, error):
    """Files of another program, which have no manifest."""
    folder = shutil.copytree(trained / "full", tmp_path / "full")
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    if error == "not finite":
        weights = load_file(folder / "model.safetensors")
        weights["language_embeddings.weight"][1, 0] = np.nan
        save_file(weights, folder / "model.safetensors")
    else:
        config["languages"] = None if error == "no languages" else [*config["languages"], "fi"]
    (folder / "config.json").write_text(json.dumps(config))
    assert str(folder) in error_of(started, tokenizer, encoder=folder)


def test_initialize_drops_unused_embedding_rows(tiny_corpus, tokenizer, tmp_path):
    """Of a model whose table is longer than its vocabulary; and a stopped run resumes with the same bits."""
    rows = tokenizer.vocab_size + 35
    shape = {**SHAPE, "intermediate_size": 40, "layer_norm_eps": 5e-4, "max_position_embeddings": 130}
    xlm_r = make_xlm_r(tmp_path / "xlm-r", vocab_size=rows, **shape)
    (tmp_path / "xlm-r/sentencepiece.bpe.model").write_bytes(tokenizer.piece_model)
    options = {
        "init__encoder": str(tmp_path / "xlm-r"),
        "init__lm_head": "same",
        **NO_SHAPE,
        "data__text_rules": "ernie-m",
        "init__lm_head_warmup_steps": 4,
        "optimizer__steps": 6,
        "run__eval_sequences": 0,
        "run__micro_batch_tokens": 512,
    }
    straight = pretrain(tiny_corpus, tmp_path / "straight", **options)
    frozen = checkpoint(straight, 4)
    table = xlm_r["roberta.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(frozen[WORDS], table[: tokenizer.vocab_size])
    config = open_checkpoint(straight / "full").config
    assert config.vocab_size == len(frozen["lm_head.bias"]) == tokenizer.vocab_size
    assert {key: getattr(config, key) for key in shape} == shape
    for steps in (4, 0):  # 0: to the end
        resumed = pretrain(tiny_corpus, tmp_path / "resumed", **options, run__stop_after_steps=steps)
    assert_equal_runs(straight, resumed, 6)


def test_corpus_and_initial_checkpoint_share_text_rules(tmp_path, tiny_corpus, refused):
    """A run from XLM-R reads as XLM-R, unless it asks for ERNIE-M's rules; from scratch as its corpus."""
    piece_model = tiny_corpus / "piece.model"
    text = write_lines(tmp_path / "en.txt", [*sentences(60, seed=3), "ka\u200bni"])
    make_corpus(tmp_path / "plain", piece_model, mono={"en": text}, text_rules="none")
    english = Corpus(tmp_path / "plain").mono["en"]
    last = english.read_line(english.num_lines - 1).tolist()
    plain, of_ernie_m = (
        Tokenizer(None, piece_model, rules).encode("ka\u200bni") for rules in ("none", "ernie-m")
    )
    assert last == plain != of_ernie_m
    make_xlm_r(tmp_path / "xlm-r", piece_model, max_position_embeddings=514)
    start = {"init__encoder": str(tmp_path / "xlm-r"), "init__lm_head": "same"}
    text_alone = {"objectives__active": ["mmlm"], "optimizer__steps": 1}

    line = refused(**start)  # the corpus has ERNIE-M's rules
    ways_out = ("--text_rules none", "data.text_rules ernie-m")
    assert all(part in line for part in (f"{tiny_corpus}: ", f"{tmp_path}/xlm-r requires none", *ways_out))
    check_error(
        refused(data__corpus=str(tmp_path / "plain"), data__text_rules="ernie-m", **start, **text_alone),
        f"{tmp_path / 'plain'}: ",
        "--text_rules ernie-m",
    )

    cases = {
        "as xlm-r": (tmp_path / "plain", start, "auto", PipelineConfig.for_xlm_r()),
        "as asked": (tiny_corpus, start, "ernie-m", PipelineConfig()),
        "from scratch": (tmp_path / "plain", {}, "auto", PipelineConfig.for_xlm_r()),
    }
    for name, (corpus, init, text_rules, expected) in cases.items():
        out = pretrain(corpus, tmp_path / name, data__text_rules=text_rules, **init, **text_alone)
        assert open_checkpoint(out / "encoder").pipeline_config == expected, name
        pipeline_config = open_checkpoint(out / "full").pipeline_config
        pseudo = {
            "pseudo_proportion": pipeline_config.pseudo_proportion,
            "pseudo_positions": pipeline_config.pseudo_positions,
        }
        assert pipeline_config == expected.adapt_for_task(**pseudo, language_embedding="masks"), name


def test_weights_that_no_run_can_start_from(refused, trained, tmp_path, tokenizer):
    """Without a head, without layers, and with another vocabulary."""
    config = ErnieMConfig(tokenizer.vocab_size, hidden_size=16, num_hidden_layers=0, num_attention_heads=1)
    save_model(tmp_path / "table", ErnieMModel(config), config)
    make_xlm_r(tmp_path / "xlm-r", vocab_size=60, max_position_embeddings=514)
    short = shutil.copytree(trained / "full", tmp_path / "short")  # its table ends before its last token
    weights = load_file(short / "model.safetensors")
    cut = {WORDS: weights[WORDS][:-1], "lm_head.bias": weights["lm_head.bias"][:-1]}
    save_file(weights | cut, short / "model.safetensors")
    (short / "manifest.json").unlink()
    change_config(short, vocab_size=tokenizer.vocab_size - 1)
    for folder, head, location in (
        (trained / "encoder", "same", "init.lm_head: {} has no masked-LM head"),
        (tmp_path / "table", "random", "{}: a static model"),
        (tmp_path / "xlm-r", "random", "{} has another vocabulary than the corpus ("),
        (short, "random", "{} has another vocabulary than the corpus ("),
    ):
        assert refused(init__encoder=str(folder), init__lm_head=head, **NO_SHAPE).startswith(
            f"error: {location.format(folder)}"
        )


def test_reject_permuted_vocabulary(refused, trained, tmp_path, tokenizer):
    """Two tokens have changed places: no shape tells."""
    folder = shutil.copytree(trained / "full", tmp_path / "swapped")
    (folder / "manifest.json").unlink()
    token_10, token_11 = tokenizer.convert_ids_to_tokens([10, 11])
    write_vocab({**tokenizer.vocab, token_10: 11, token_11: 10}, folder / "vocab.txt")
    for key in ("init__encoder", "init__lm_head"):
        check_error(
            refused(**{key: str(folder)}),
            f"{folder} has another vocabulary than the corpus (the tokens differ)",
            f"--piece_model_path {folder}/piece.model and --vocab_path {folder}/vocab.txt",
        )
    # Added tokens are not of the corpus.
    (folder / "vocab.txt").unlink()
    pipeline_config = PipelineConfig(added_tokens={"[NEW]": tokenizer.vocab_size})
    change_config(folder, **{PIPELINE: get_stored_pipeline_config(pipeline_config)})
    assert started(tokenizer, encoder=folder)


def test_continue_a_released_model_on_a_new_language(tmp_path, tokenizer):
    """By configs/pretrain/continue.yaml. A release has neither a head nor language embeddings."""
    config = official_config(vocab_size=tokenizer.vocab_size, **SHAPE)
    make_official(tmp_path / "released", config, seed=5, pooler=False)
    swahili = write_lines(tmp_path / "sw.txt", sentences(1000, seed=31))
    corpus = tmp_path / "corpus"
    make_corpus(corpus, tokenizer.piece_model_path, mono={"sw": swahili}, held_out=10)
    out = pretrain(
        corpus,
        tmp_path / "out",
        config=str(ROOT / "configs/pretrain/continue.yaml"),
        init__encoder=str(tmp_path / "released"),
        init__lm_head_warmup_steps=4,
        optimizer__steps=7,
        run__save_steps=4,
        run__keep_checkpoints=3,
        **NO_SHAPE,
    )
    # While the head is trained alone, the encoder stays that of the release; later it changes.
    released = open_checkpoint(tmp_path / "released").tensors
    head_only = checkpoint(out, 4)
    assert_equal_arrays({name: head_only[name] for name in released}, released)
    # The head's bias began as the logarithm of the frequencies, and a step changes it by at most the rate.
    logarithms = np.log(Corpus(corpus).count_subwords("sw") + 1.0)
    np.testing.assert_allclose(head_only["lm_head.bias"], logarithms - logarithms.mean(), atol=4.1e-3)
    last = checkpoint(out, 7)
    assert (last[WORDS] != released[WORDS]).any()
    language_embeddings = last["language_embeddings.weight"]
    assert language_embeddings.shape == (1, 16) and language_embeddings.any()
    assert "sw" in records(out)[-1]["held_out"]["mmlm"]


def test_a_new_head_begins_with_the_frequencies(tokenizer):
    """What it adds to them costs little, for any states and word vectors of length 1."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1000, size=tokenizer.vocab_size)
    head = make_model(tokenizer).lm_head
    set_token_frequencies(head, counts)
    rows = rng.normal(size=head.word_embeddings.weight.shape).astype("float32")
    head.word_embeddings.weight.set_value(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    states = paddle.to_tensor(rng.normal(size=(100, rows.shape[1])).astype("float32"))
    frequencies = (counts + 1) / (counts + 1).sum()
    losses = frequencies @ -np.log(paddle.nn.functional.softmax(head(states)).numpy().T)  # [100]
    entropy = -(frequencies * np.log(frequencies)).sum()
    assert entropy < losses.mean() < entropy + 0.1


def test_initialize_word_embeddings_from_static_model(tokenizer, tmp_path):
    """Their principal components in another direction, each as long as the random vector that it replaces."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(tokenizer.vocab_size, 16)) @ rng.normal(size=(16, 24))  # 16 components
    rows[9] = 0
    shape = {"hidden_size": 24, "num_hidden_layers": 0, "num_attention_heads": 1}
    table = ErnieMModel(ErnieMConfig(tokenizer.vocab_size, **shape))
    table.embeddings.word_embeddings.weight.set_value(rows.astype("float32"))
    save_model(tmp_path / "table", table, table.config, piece_model_path=tokenizer.piece_model_path)
    fresh = started(tokenizer)
    weights = started(tokenizer, word_embeddings=tmp_path / "table")
    assert same(weights, started(tokenizer, word_embeddings=tmp_path / "table"), "")
    assert not same(weights, started(tokenizer, seed=2, word_embeddings=tmp_path / "table"), WORDS)
    assert [name for name in weights if not (weights[name] == fresh[name]).all()] == [WORDS]
    lengths = np.linalg.norm(fresh[WORDS], axis=1) / np.maximum(np.linalg.norm(rows, axis=1), 1e-9)
    expected = lengths[:, None] * (rows @ rows.T) * lengths
    np.testing.assert_allclose(weights[WORDS] @ weights[WORDS].T, expected, atol=1e-4)


def test_reject_tables_without_word_embeddings_for_the_corpus(tokenizer, tmp_path):
    for size, width, number, error in (
        (tokenizer.vocab_size - 9, 16, 1, "another vocabulary"),
        (tokenizer.vocab_size, 8, 1, "width 8, "),
        (tokenizer.vocab_size, 24, np.inf, WORDS),
    ):
        table = ErnieMModel(ErnieMConfig(size, hidden_size=width, num_hidden_layers=0, num_attention_heads=1))
        table.embeddings.word_embeddings.weight.set_value(np.full([size, width], number, np.float32))
        save_model(tmp_path / str(width), table, table.config)
        check_error(
            error_of(started, tokenizer, word_embeddings=tmp_path / str(width)),
            str(tmp_path / str(width)),
            error,
        )
