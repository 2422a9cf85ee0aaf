"""The tokenizer goes along with a model, in the format of the target's library."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.commands import convert
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write_foreign import TARGETS
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.open_model import open_model
from ernie_m.reader.token_offsets import encode_with_offsets
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import SPECIAL_TOKENS
from tests.foreign import make_xlm_r, tokenizer_json
from tests.helpers.checkpoints import change_config, save_model, stored
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.toys import CONFIG, make_ours, train_piece_model


def make_model(folder, **options):
    """Write a model of ours with a SentencePiece model, trained with these options, and return its folder."""
    make_ours(folder, piece_model=train_piece_model(folder.with_suffix(".model"), **options))
    return folder


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("ernie-m", ["piece.model", "vocab.txt"]),
        ("fluid", ["piece.model", "vocab.txt"]),
        ("paddlenlp", ["sentencepiece.bpe.model", "tokenizer_config.json", "vocab.txt"]),
        ("huggingface", ["sentencepiece.bpe.model", "tokenizer_config.json", "vocab.txt"]),
        ("xlm-roberta", ["sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"]),
    ],
)
def test_convert_writes_tokenizer_files_in_each_format(tmp_path, target, files):
    """A SentencePiece model alone gives the same files as one next to a model."""
    convert.main([str(make_model(tmp_path / "in")), str(tmp_path / "out"), "--to", target])
    convert.main([str(tmp_path / "in/piece.model"), str(tmp_path / "alone"), "--to", target])
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == files
    for name in files:
        if name != "tokenizer_config.json":  # it has the model's longest input
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    if target == "xlm-roberta":
        texts = [(tmp_path / folder / "tokenizer_config.json").read_text() for folder in ("out", "alone")]
        lengths = [json.loads(text)["model_max_length"] for text in texts]
        assert lengths == [CONFIG["max_position_embeddings"] - 2, 512]  # two positions are never used


def test_named_vocabulary_overrides_the_one_next_to_the_weights(tmp_path):
    model = make_model(tmp_path / "in")
    tokens = list(Tokenizer(None, model / "piece.model").vocab)
    reordered = [*tokens[:4], *reversed(tokens[4:])]  # special tokens, then the subwords the other way round
    lines = [f"{token}\t{id_}\n" for id_, token in enumerate(reordered)]
    (tmp_path / "named.txt").write_text("".join(reversed(lines)), encoding="utf-8")  # the ids are in them
    Tokenizer(None, model / "piece.model").write_vocab(model / "vocab.txt")
    for target in ("ernie-m", "huggingface"):
        flags = ["--to", target, "--vocab_path", str(tmp_path / "named.txt")]
        convert.main([str(model), str(tmp_path / target), *flags])
    assert (tmp_path / "ernie-m/vocab.txt").read_text(encoding="utf-8").splitlines(True) == lines
    # The line is the id there.
    assert (tmp_path / "huggingface/vocab.txt").read_text(encoding="utf-8").splitlines() == reordered


def test_vocabulary_next_to_the_weights_counts_with_a_named_sentencepiece_model(tmp_path):
    model = make_model(tmp_path / "in")
    tokens = list(Tokenizer(None, model / "piece.model").vocab)
    lines = [f"{token}\n" for token in [*tokens[:4], *reversed(tokens[4:])]]
    (model / "vocab.txt").write_text("".join(lines), encoding="utf-8")
    piece_model = (model / "piece.model").rename(tmp_path / "named.model")
    convert.main([str(model), str(tmp_path / "out"), "--piece_model_path", str(piece_model)])
    assert Tokenizer.from_folder(tmp_path / "out").vocab == Tokenizer(model / "vocab.txt", piece_model).vocab
    # Libraries would derive other ids from the SentencePiece model, so tokenizer.json is alone there.
    flags = ["--to", "xlm-roberta", "--piece_model_path", str(piece_model), "--allow_lossy"]
    convert.main([str(model), str(tmp_path / "theirs"), *flags])
    assert (tmp_path / "theirs/tokenizer.json").is_file()
    assert not (tmp_path / "theirs/sentencepiece.bpe.model").exists()


@pytest.mark.parametrize(
    ("settings", "target", "file"),
    [
        ({"trainer_spec": {"model_type": "BPE"}}, "huggingface", "sentencepiece.bpe.model"),
        ({"normalizer_spec": {"remove_extra_whitespaces": False}}, "ernie-m", "piece.model"),
        ({"normalizer_spec": {"escape_whitespaces": False}}, "ernie-m", "piece.model"),
        ({"trainer_spec": {"treat_whitespace_as_suffix": True}}, "ernie-m", "piece.model"),
    ],
)
def test_xlm_r_has_no_tokenizer_for_other_settings(tmp_path, settings, target, file):
    """The advice holds: the format of transformers' ErnieM takes any SentencePiece model, as ours does."""
    model = make_model(tmp_path / "in")
    piece_model = ModelProto.FromString((model / "piece.model").read_bytes())
    piece_model.MergeFrom(ModelProto(**settings))
    (model / "piece.model").write_bytes(piece_model.SerializeToString())
    check_error(
        error_of(convert.main, [str(model), str(tmp_path / "out"), "--to", "xlm-roberta"]),
        f"--to {target}",
        start=f"{model / 'piece.model'}: ",
    )
    assert not (tmp_path / "out").exists()
    convert.main([str(model), str(tmp_path / "out"), "--to", target])
    assert (tmp_path / "out" / file).read_bytes() == (model / "piece.model").read_bytes()


@pytest.mark.parametrize(
    ("rule", "prefix", "steps", "scheme"),
    [
        ("nmt_nfkc", True, ["NFC", "Precompiled"], ("Sequence", "always")),
        ("identity", True, [], ("Sequence", "always")),
        ("identity", False, ["Strip"], ("Metaspace", "never")),
    ],
)
def test_rules_of_the_model_are_written(tmp_path, rule, prefix, steps, scheme):
    """A character map if it has one, and whether a text begins with a space."""
    model = make_model(tmp_path / "in", normalization_rule_name=rule, add_dummy_prefix=prefix)
    convert.main([str(model), str(tmp_path / "out"), "--to", "xlm-roberta"])
    contents = json.loads((tmp_path / "out/tokenizer.json").read_text(encoding="utf-8"))
    kinds = [step["type"] for step in contents["normalizer"]["normalizers"] if step["type"] != "Replace"]
    assert (kinds, contents["pre_tokenizer"]["type"], contents["decoder"]["prepend_scheme"]) == (
        steps,
        *scheme,
    )


@pytest.fixture
def saved(tmp_path):
    """Save an XLM-R as transformers 5 does, without a SentencePiece model, and return its tokenizer.json."""
    piece_model = train_piece_model(tmp_path / "own.model", normalization_rule_name="nmt_nfkc")
    make_xlm_r(tmp_path / "saved", vocab_size=Tokenizer(None, piece_model).vocab_size)
    contents = tokenizer_json(piece_model)
    (tmp_path / "saved/tokenizer.json").write_text(json.dumps(contents))
    return contents


@pytest.mark.parametrize("has_piece_model", [False, True])
def test_tokenizer_json_is_parsed_once(tmp_path, saved, monkeypatch, has_piece_model):
    """In a model of 250,000 subwords it has 17 MB. Its subwords, rules, added tokens and ids are read."""
    if has_piece_model:
        shutil.copy(tmp_path / "own.model", tmp_path / "saved/sentencepiece.bpe.model")
    parse = json.loads
    parsed = []
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(parse(text)) or parsed[-1])
    open_model(open_checkpoint(tmp_path / "saved"))
    assert parsed.count(saved) == 1


def as_transformers_4(contents):
    """The same rules as transformers 4 wrote them."""
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    contents["normalizer"] = {"type": "Sequence", "normalizers": [contents["normalizer"], strip, spaces]}
    contents["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    del contents["model"]["byte_fallback"]


def as_transformers_4_first(contents):
    """The same rules before they had Strip."""
    as_transformers_4(contents)
    del contents["normalizer"]["normalizers"][1]


@pytest.mark.parametrize("change", [lambda contents: None, as_transformers_4, as_transformers_4_first])
def test_tokenizer_json_alone_gives_the_sentencepiece_ids(tmp_path, saved, change, caplog):
    """Here, and after a conversion in each of our two formats; a conversion to XLM-R can be read again."""
    change(saved)
    (tmp_path / "saved/tokenizer.json").write_text(json.dumps(saved))
    expected = Tokenizer(None, tmp_path / "own.model")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "saved/tokenizer.json", tmp_path / "alone")
    assert Tokenizer.from_folder(tmp_path / "alone", "none").vocab == expected.vocab
    for target in ("ernie-m", "xlm-roberta"):
        convert.main([str(tmp_path / "saved"), str(tmp_path / target), "--to", target])
    (tmp_path / "xlm-roberta/sentencepiece.bpe.model").unlink()
    for folder in ("saved", "ernie-m", "xlm-roberta"):
        tokenizer = open_model(open_checkpoint(tmp_path / folder)).tokenizer
        assert tokenizer.vocab == expected.vocab
        for text in ("bada gan  kofo ", "ｂａda ½ 10, nor", "\u200b", ""):
            assert encode_with_offsets(tokenizer, text) == encode_with_offsets(expected, text)
    assert open_checkpoint(tmp_path / "saved").piece_model_path.name == "tokenizer.json"
    assert ("trailing space" in caplog.text) == (change is as_transformers_4_first)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "dict.txt"])
def test_a_checkpoint_stores_the_tokenizer_as_it_was_read(tmp_path, saved, name):
    """Its files may be replaced while a model is trained."""
    subwords = [*reversed(Tokenizer(None, tmp_path / "own.model").list_ordinary_subwords())]
    path = tmp_path / "saved" / name
    if name == "vocab.txt":
        path.write_text("\n".join([*SPECIAL_TOKENS, *subwords]), encoding="utf-8")
    if name == "dict.txt":
        path.write_text("".join(f"{subword} 7\n" for subword in subwords), encoding="utf-8")
    named = (None, path) if name == "tokenizer.json" else (path, tmp_path / "own.model")
    tokenizer = Tokenizer(*named)
    assert (tokenizer.vocab == tokenizer.derive_vocab()) == (name == "tokenizer.json")
    path.write_text("of another model")
    (tmp_path / "own.model").write_text("of another model")
    config = ErnieMConfig(**CONFIG)
    save_model(tmp_path / "best", ErnieMModel(config), config, tokenizer=tokenizer.files)
    stored_tokenizer = Tokenizer.from_folder(tmp_path / "best")
    assert stored_tokenizer.vocab == tokenizer.vocab and stored_tokenizer.digest == tokenizer.digest


def test_the_digest_has_fields_that_no_reader_knows(tmp_path, saved):
    path = tmp_path / "own.model"
    tokenizer = Tokenizer(None, path)
    path.write_bytes(tokenizer.piece_model + b"\xc0\x3e\x01")
    assert Tokenizer(None, path).vocab == tokenizer.vocab and Tokenizer(None, path).digest != tokenizer.digest


def metaspace(contents: dict) -> dict:
    """The part of tokenizer.json that says whether a text begins with "▁"."""
    return contents["pre_tokenizer"]["pretokenizers"][-1]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("model", lambda contents: contents.update(model={"type": "BPE", "vocab": {"a": 0}})),
        ("model", lambda contents: contents["model"].update(byte_fallback=True)),
        ("model", lambda contents: contents["model"].update(unk_id=0)),
        ("vocab", lambda contents: contents["model"]["vocab"].insert(0, ["x", 0.0])),
        ("normalizer", lambda contents: contents.update(normalizer={"type": "NFC"})),
        ("pre_tokenizer", lambda contents: contents["pre_tokenizer"]["pretokenizers"].pop()),
        ("pre_tokenizer", lambda contents: metaspace(contents).update(prepend_scheme="never")),
        ("pre_tokenizer", lambda contents: metaspace(contents).update(add_prefix_space=False)),
        ("pre_tokenizer", lambda contents: metaspace(contents).update(replacement="_")),
        ("post_processor", lambda contents: contents["post_processor"]["single"].pop()),
        ("post_processor", lambda contents: contents["post_processor"]["special_tokens"].pop("</s>")),
        ("post_processor", lambda contents: contents["post_processor"]["pair"].pop(2)),
        ("KeyError", lambda contents: contents.pop("model")),
        ("TypeError", lambda contents: contents["model"]["vocab"][9].__setitem__(1, "x")),
    ],
)
@pytest.mark.parametrize("has_pieces", [True, False])
def test_reject_tokenizer_json_from_other_models(tmp_path, saved, key, change, has_pieces):
    """Whether or not the SentencePiece model lies next to it."""
    if has_pieces:
        shutil.copy(tmp_path / "own.model", tmp_path / "saved/sentencepiece.bpe.model")
    change(saved)
    path = write_file(tmp_path / "saved/tokenizer.json", json.dumps(saved))
    line = error_of(convert.main, [str(tmp_path / "saved"), str(tmp_path / "out")])
    assert (
        line.startswith(f"{path}: ")
        and key in line
        and ("replace tokenizer.json by" in line or "corrupt" in line)
    )
    assert not (tmp_path / "out").exists()
    if key == "model":
        assert error_of(Tokenizer, None, path).startswith(f"{path}: ")


def test_a_model_without_a_tokenizer_is_not_converted(tmp_path):
    """The error names the file that is missing, and the flag."""
    make_xlm_r(tmp_path / "in")
    for target in TARGETS:
        check_error(
            error_of(convert.main, [str(tmp_path / "in"), str(tmp_path / "out"), "--to", target]),
            "sentencepiece.bpe.model",
            "--piece_model",
            start=f"{tmp_path / 'in'}: ",
        )
        assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    make_ours(tmp_path / "in")
    piece_model = train_piece_model(tmp_path / "large.model")
    flags = ["--to", "fluid", "--piece_model_path", str(piece_model)]
    check_error(
        error_of(convert.main, [str(tmp_path / "in"), str(tmp_path / "out"), *flags]),
        str(piece_model),
        start=f"{tmp_path / 'in'}: vocab_size 60",
    )


def test_a_tokenizer_that_explains_too_few_rows_is_refused(tmp_path, caplog):
    """An embedding matrix may be longer by what tables are rounded up to."""
    size = Tokenizer(None, train_piece_model(tmp_path / "piece.model")).vocab_size
    for rows, is_refused in ((128, False), (129, True)):
        folder = tmp_path / str(rows)
        make_ours(folder, config={**CONFIG, "vocab_size": size + rows})
        shutil.copy(tmp_path / "piece.model", folder / "piece.model")
        arguments = [str(folder), str(tmp_path / f"{rows}-out")]
        if is_refused:
            check_error(
                error_of(convert.main, arguments), "piece.model", start=f"{folder}: vocab_size {size + rows}"
            )
        else:
            convert.main(arguments)
            assert f"{folder}: {rows} " in caplog.text


def test_tokens_without_a_subword_and_the_mask(tmp_path):
    """A token of vocab.txt that is not a subword never occurs in a tokenized text: its score is the lowest.

    The space before a mask belongs to the mask, as in XLM-R's own tokenizer.json.
    """
    model = make_model(tmp_path / "in", normalization_rule_name="nmt_nfkc")
    vocab = Tokenizer(None, model / "piece.model").vocab
    extra = "bada" * 4  # 16 letters, each of them a subword
    assert extra not in vocab and set(extra) <= set(vocab)
    vocab[extra] = len(vocab)
    lines = "".join(f"{token}\t{id_}\n" for token, id_ in vocab.items())
    (model / "vocab.txt").write_text(lines, encoding="utf-8")
    change_config(model, vocab_size=len(vocab))
    arrays = load_file(model / "model.safetensors")
    words = arrays["embeddings.word_embeddings.weight"]
    save_file(
        {**arrays, "embeddings.word_embeddings.weight": np.concatenate([words, words[:1]])},
        model / "model.safetensors",
    )
    convert.main([str(model), str(tmp_path / "out"), "--to", "xlm-roberta"])
    contents = json.loads((tmp_path / "out/tokenizer.json").read_text(encoding="utf-8"))
    scores = dict(contents["model"]["vocab"])
    assert scores[extra] < sum(scores[letter] for letter in extra)
    strips = {token["content"]: token["lstrip"] for token in contents["added_tokens"]}
    assert strips == {"<s>": False, "<pad>": False, "</s>": False, "<unk>": False, "<mask>": True}


@pytest.mark.parametrize(
    ("layer", "pooling", "is_other"),
    [(0, "mean", True), (1, "mean", True), (2, "mean_without_special", True), (2, "mean", False)],
)
def test_reject_conversion_if_trained_for_other_embeddings(tmp_path, capsys, layer, pooling, is_other):
    """Other than the mean of the last layer, 2, over all tokens, [CLS] and [SEP] included."""
    make_ours(tmp_path / "in")
    change_config(tmp_path / "in", task="retrieval", pipeline=stored(layer=layer, pooling=pooling))
    convert.main([str(tmp_path / "in"), str(tmp_path / "out"), "--to", "xlm-roberta"])
    note = f"note: the model was trained for embeddings of layer {layer} with --pooling {pooling}, "
    assert (note in capsys.readouterr().out) == is_other
    assert (tmp_path / "out/modules.json").exists() != is_other
