"""The tokenizer goes along with a model, in the form of the target's library."""

import json

import pytest

import convert
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import train_pieces
from tests.helpers.toy_models import CONFIG, make_ours
from utils.errors import UserError


def make_model(folder, **options):
    """Write a model of ours with a piece model, trained with these options, and return its folder."""
    pieces = train_pieces(folder.with_suffix(".model"), **options)
    vocab_size = Tokenizer(None, pieces).vocab_size
    make_ours(folder, config={**CONFIG, "vocab_size": vocab_size})
    pieces.rename(folder / "piece.model")
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
def test_files_of_each_format(tmp_path, target, files):
    """A piece model alone gives the same files as one beside a model."""
    model = make_model(tmp_path / "in")
    convert.main([str(model), str(tmp_path / "out"), "--to", target])
    convert.main([str(tmp_path / "in/piece.model"), str(tmp_path / "alone"), "--to", target])
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == files
    for name in files:
        if name != "tokenizer_config.json":  # it has the model's longest input
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_vocabulary_that_is_named_goes_before_the_one_beside_the_weights(tmp_path):
    model = make_model(tmp_path / "in")
    tokens = list(Tokenizer(None, model / "piece.model").vocab)
    reordered = [*tokens[:4], *reversed(tokens[4:])]  # special tokens, then the pieces the other way round
    lines = [f"{token}\t{id_}\n" for id_, token in enumerate(reordered)]
    (tmp_path / "named.txt").write_text("".join(lines), encoding="utf-8")
    Tokenizer(None, model / "piece.model").write_vocab(model / "vocab.txt")
    flags = ["--to", "ernie-m", "--vocab_path", str(tmp_path / "named.txt")]
    convert.main([str(model), str(tmp_path / "out"), *flags])
    assert (tmp_path / "out/vocab.txt").read_text(encoding="utf-8").splitlines(True) == lines


def test_xlm_r_has_no_tokenizer_for_a_bpe_vocabulary(tmp_path):
    """The advice holds: the form of transformers' ErnieM takes any piece model."""
    model = make_model(tmp_path / "in", model_type="bpe")
    with pytest.raises(UserError) as error:
        convert.main([str(model), str(tmp_path / "out"), "--to", "xlm-roberta"])
    line = str(error.value)
    assert line.startswith(f"{model / 'piece.model'}: not a unigram model, and XLM-R's tokenizer needs one.")
    assert "--to huggingface takes this one" in line
    assert not (tmp_path / "out").exists()
    convert.main([str(model), str(tmp_path / "out"), "--to", "huggingface"])
    pieces = (tmp_path / "out/sentencepiece.bpe.model").read_bytes()
    assert pieces == (model / "piece.model").read_bytes()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    make_ours(tmp_path / "in")
    pieces = train_pieces(tmp_path / "large.model")
    with pytest.raises(UserError, match="large.model: ids up to [0-9]+, but vocab_size is 60 in "):
        convert.main(
            [str(tmp_path / "in"), str(tmp_path / "out"), "--to", "fluid", "--piece_model_path", str(pieces)]
        )


@pytest.mark.parametrize("kind", [{}, {"lm_head": True}, {"head": "classification"}])
def test_pooling_files_of_sentence_transformers(tmp_path, capsys, kind):
    """They belong to an encoder; a task's model gives labels and no vectors."""
    make_ours(tmp_path / "in", **kind)
    convert.main([str(tmp_path / "in"), str(tmp_path / "out"), "--to", "xlm-roberta"])
    report = capsys.readouterr().out
    if "head" in kind:
        assert not (tmp_path / "out/modules.json").exists()
        assert "sentence-transformers" not in report
        return
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]
    pooling = json.loads((tmp_path / "out/1_Pooling/config.json").read_text())
    assert pooling["word_embedding_dimension"] == CONFIG["hidden_size"]
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    assert "a vector is the mean of the top layer over all tokens\n" in report


@pytest.mark.parametrize(
    ("layer", "pooling", "is_noted"), [(1, "specials", True), (2, "mean", True), (2, "specials", False)]
)
def test_a_model_trained_for_other_vectors_is_noted(tmp_path, capsys, layer, pooling, is_noted):
    """Other than the mean of the top layer, 2, over all tokens, [CLS] and [SEP] included ("specials")."""
    make_ours(tmp_path / "in")
    path = tmp_path / "in/config.json"
    settings = {"task": "retrieval", "reading": {"layer": layer, "pooling": pooling}}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    convert.main([str(tmp_path / "in"), str(tmp_path / "out"), "--to", "xlm-roberta"])
    note = f"note: the model was trained for vectors of layer {layer} with --pooling {pooling}\n"
    assert (note in capsys.readouterr().out) == is_noted
