"""The newest transformers and sentence-transformers read the XLM-RoBERTa format and compute our numbers."""

import shutil

import numpy as np
import paddle
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MSELoss, MultipleNegativesRankingLoss

import convert
import ernie_m
from finetune.pair_losses import in_batch_softmax, teacher_mse
from model.checkpoint.formats import tables
from model.checkpoint.read import open_checkpoint
from reader.tokenization import Tokenizer
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
    """The pooling that we write is read: the vectors are those of "specials" at the top layer."""
    folder, tokenizer = converted
    peer = SentenceTransformer(str(folder / "converted"), device="cpu")
    assert (folder / "converted/modules.json").is_file()  # the library would make modules of its own
    assert [type(module).__name__ for module in peer] == ["Transformer", "Pooling"]
    tokenizer.write_vocab(folder / "ours" / "vocab.txt")
    shutil.copy(tokenizer.piece_model_path, folder / "ours" / "piece.model")
    expected = ernie_m.load(folder / "ours").encode(TEXTS, pooling="specials", layer="top")
    np.testing.assert_allclose(peer.encode(TEXTS), expected, atol=1e-5)


class Peer(torch.nn.Module):
    """A sentence encoder whose vectors are given: the input is the vectors."""

    def forward(self, vectors):
        return {"sentence_embedding": vectors}


def pair_vectors(given):
    """Sources, candidates and a teacher's vectors, [6, 16] and [6 + 6 x given, 16]; which are negatives."""
    rng = np.random.default_rng(given)
    sources, teacher = rng.normal(size=(2, 6, 16)).astype(np.float32)
    candidates = rng.normal(size=(6 + 6 * given, 16)).astype(np.float32)
    candidates[:6] += sources
    return sources, candidates, ~np.eye(6, len(candidates), dtype=bool), teacher


@pytest.mark.parametrize("given", [0, 2])
@pytest.mark.parametrize("both_directions", [False, True])
def test_the_softmax_loss(given, both_directions):
    sources, candidates, negative, _ = pair_vectors(given)
    options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    peer = MultipleNegativesRankingLoss(Peer(), scale=20.0, **(options if both_directions else {}))
    columns = [torch.from_numpy(sources), *torch.from_numpy(candidates).split(6)]
    expected = peer.compute_loss_from_embeddings(columns, None).item()
    vectors = map(paddle.to_tensor, (sources, candidates, negative))
    total, _ = in_batch_softmax(*vectors, 20.0, both_directions)
    assert expected > 0.1
    assert total.item() / 6 == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_a_teacher():
    sources, candidates, negative, teacher = pair_vectors(0)
    expected = MSELoss(Peer())(
        [torch.from_numpy(sources), torch.from_numpy(candidates)], torch.from_numpy(teacher)
    )
    total, _ = teacher_mse(*map(paddle.to_tensor, (sources, candidates, negative, teacher)))
    assert total.item() / 6 == pytest.approx(expected.item(), abs=1e-6)
