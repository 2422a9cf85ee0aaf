"""The newest transformers and sentence-transformers read the XLM-RoBERTa format and compute our numbers."""

import numpy as np
import paddle
import pytest
import transformers
from sentence_transformers import SentenceTransformer

import convert
from model.checkpoint.formats import tables
from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.ernie_m import ErnieMModel
from reader.tokenization import Tokenizer
from tests.helpers.batches import padded_batch
from tests.helpers.torch_peers import XLM_R_HEADS, assert_close, batch, load_torch, make, of_ours, of_torch
from tests.helpers.toy_models import CONFIG, make_ours

TEXTS = [
    "The quick brown fox jumps over the lazy dog near a river.",
    "  Два  слова — «и» ещё “три”. ",
    "敏捷的棕色狐狸跳过懒狗。他说:‘妈妈’",
    "नमस्ते दुनिया\tand a tab, a soft\u00adhyphen and a\u200bnothing",
    "x",
]


def test_it_is_the_newest():
    assert int(transformers.__version__.split(".")[0]) >= 5
    assert not hasattr(transformers, "ErnieMModel")  # the reason for the XLM-RoBERTa format


@pytest.mark.parametrize("head", XLM_R_HEADS)
def test_every_class(tmp_path, head):
    ids, mask = batch()
    make(tmp_path / "ours", head)
    convert.main([str(tmp_path / "ours"), str(tmp_path / "converted"), "--to", "xlm-roberta"])
    model = load_torch(tables.XLM_R, head, tmp_path / "converted")
    expected = of_torch(model, head, ids, mask)
    assert_close(of_ours(tmp_path / "ours", head, ids), expected, mask)
    model.save_pretrained(tmp_path / "again")
    checkpoint = open_checkpoint(tmp_path / "again")
    assert checkpoint.task == (None if head == "lm" else head)
    assert checkpoint.unknown == []
    assert_close(of_ours(tmp_path / "again", head, ids), expected, mask)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    with open(folder / "piece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20),
            model_writer=file,
            vocab_size=170,
            hard_vocab_limit=False,
            character_coverage=1.0,
            num_threads=1,
            normalization_rule_name="nmt_nfkc",
            minloglevel=2,
        )
    return folder / "piece.model"


@pytest.fixture(scope="module")
def converted(tmp_path_factory, pieces):
    """A folder of ours with a tokenizer, and its conversion to XLM-RoBERTa."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(piece_model_path=pieces)
    make_ours(
        folder / "ours", config={**CONFIG, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 130}
    )
    paths = [str(folder / "ours"), str(folder / "converted"), "--to", "xlm-roberta", "--piece_model_path"]
    convert.main([*paths, str(pieces)])
    return folder, tokenizer


def test_the_tokenizer_gives_our_ids(converted):
    folder, tokenizer = converted
    peer = transformers.AutoTokenizer.from_pretrained(folder / "converted")
    for text in TEXTS:
        assert peer(text)["input_ids"] == tokenizer.build(text), text
    assert peer(TEXTS[0], TEXTS[1])["input_ids"] == tokenizer.build(TEXTS[0], TEXTS[1])
    for name in ("cls", "sep", "pad", "mask"):
        assert getattr(peer, f"{name}_token_id") == getattr(tokenizer, f"{name}_id")
    assert peer("a <mask> b")["input_ids"].count(tokenizer.mask_id) == 1


def test_sentence_transformers(converted):
    """The pooling that we write is read: a vector is the mean over all tokens."""
    folder, tokenizer = converted
    peer = SentenceTransformer(str(folder / "converted"), device="cpu")
    assert (folder / "converted/modules.json").is_file()  # the library would make modules of its own
    assert [type(module).__name__ for module in peer] == ["Transformer", "Pooling"]
    vectors = peer.encode(TEXTS)
    checkpoint = open_checkpoint(folder / "ours")
    model = ErnieMModel(checkpoint.config)
    load_from(model, checkpoint)
    model.eval()
    for text, vector in zip(TEXTS, vectors):
        with paddle.no_grad():
            sequence = model.encode(padded_batch([tokenizer.build(text)])).sequence.numpy()
        np.testing.assert_allclose(vector, sequence.mean(0), atol=1e-4)
