"""The newest transformers and sentence-transformers read the XLM-RoBERTa format and compute our numbers."""

import shutil

import numpy as np
import paddle
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from sentence_transformers import CrossEncoder
from sentence_transformers.losses import MultipleNegativesRankingLoss

import ernie_m
from ernie_m.commands import convert
from ernie_m.finetune.retrieval.contrastive_training import in_batch_softmax_loss
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.token_offsets import encode_with_offsets
from ernie_m.reader.tokenization import Tokenizer
from tests.helpers.checkpoints import change_config, stored
from tests.helpers.torch_peers import XLM_R_HEADS, assert_close, batch, load_torch, make, run_ours, run_torch
from tests.toys import CONFIG, make_ours, train_piece_model

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
def test_every_class_computes_our_numbers(tmp_path, head):
    """A conversion computes our numbers there; and what transformers saves of it computes them here again."""
    ids, mask = batch()
    make(tmp_path / "native", head)
    flags = ["--to", "xlm-roberta", "--allow_lossy"]
    convert.main([str(tmp_path / "native"), str(tmp_path / "converted"), *flags])
    model = load_torch("xlm-roberta", head, tmp_path / "converted")
    expected = run_torch(model, head, ids, mask)
    assert_close(run_ours(tmp_path / "native", head, ids), expected, mask)
    model.save_pretrained(tmp_path / "again")
    checkpoint = open_checkpoint(tmp_path / "again")
    assert checkpoint.task == (None if head == "lm" else head)
    assert checkpoint.unknown == []
    assert_close(run_ours(tmp_path / "again", head, ids), expected, mask)


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    """A SentencePiece model that is trained on TEXTS."""
    path = tmp_path_factory.mktemp("piece_model") / "piece.model"
    return train_piece_model(path, TEXTS * 20, vocab_size=170, normalization_rule_name="nmt_nfkc")


def test_saved_xlm_r_tokenizer_has_sentencepiece_ids(tmp_path, piece_model):
    """It saves tokenizer.json alone."""
    shutil.copy(piece_model, tmp_path / "sentencepiece.bpe.model")
    transformers.XLMRobertaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved/sentencepiece.bpe.model").exists()
    tokenizer = Tokenizer(None, tmp_path / "saved/tokenizer.json", "none")
    expected = Tokenizer(None, piece_model, "none")
    assert tokenizer.vocab == expected.vocab
    for text in TEXTS:
        assert encode_with_offsets(tokenizer, text) == encode_with_offsets(expected, text)


def test_a_published_classifier_gives_our_numbers(tmp_path, piece_model):
    """huggingface_hub reads its card: license and base model. It has no path of this machine."""
    folder, published = tmp_path / "native", tmp_path / "published"
    make_ours(
        folder, "classification", config={**CONFIG, "max_position_embeddings": 130}, piece_model=piece_model
    )
    flags = ["--license", "apache-2.0", "--base_model", "someone/model"]
    convert.main([str(folder), str(published), "--to", "xlm-roberta", *flags])
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(published)
    logits = reference(**tokenizer("A man eats.", return_tensors="pt")).logits
    (prediction,) = ernie_m.load(folder).classify("A man eats.")
    expected = list(prediction["probabilities"].values())
    np.testing.assert_allclose(logits.softmax(-1)[0].tolist(), expected, atol=1e-6)

    card = ModelCard.load(published / "README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "someone/model")
    assert card.data.library_name == "transformers"
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize("regression", [True, False])
def test_a_published_cross_encoder_gives_our_scores(tmp_path, piece_model, regression):
    """sentence-transformers ranks with the same scores, in either scale; and what it saves does here."""
    folder, published, saved = (tmp_path / name for name in ("native", "published", "saved"))
    config = {**CONFIG, "max_position_embeddings": 130}
    make_ours(folder, "choice", ["score"], config=config, piece_model=piece_model)  # one output
    change_config(folder, head="classification", pipeline=stored(text_rules="none", regression=regression))
    convert.main([str(folder), str(published), "--to", "xlm-roberta", "--allow_lossy"])
    peer = CrossEncoder(str(published), device="cpu")
    peer.save_pretrained(str(saved))
    change_config(saved, pipeline=None)
    for place in (folder, published, saved):
        for row, peers in zip(ernie_m.load(place).rank("x", TEXTS), peer.rank("x", TEXTS), strict=True):
            assert (row["index"], row["score"]) == (
                peers["corpus_id"],
                pytest.approx(peers["score"], abs=1e-5),
            )


class Peer(torch.nn.Module):
    """A sentence encoder whose input already is the embeddings."""

    def forward(self, vectors):
        return {"sentence_embedding": vectors}


PAIRS = 6


def pair_vectors(negatives_of_each):
    """Made-up embeddings of a batch of pairs, [PAIRS, 16] float32.

    Args:
        negatives_of_each: how many more candidates each source has next to its target.

    Returns:
        The sources; the candidates [C, 16], of which the first are the targets; and whether a candidate is
        a negative of a source [PAIRS, C].
    """
    rng = np.random.default_rng(negatives_of_each)
    sources = rng.normal(size=(PAIRS, 16)).astype(np.float32)
    candidates = rng.normal(size=(PAIRS + PAIRS * negatives_of_each, 16)).astype(np.float32)
    candidates[:PAIRS] += 0.5 * sources
    is_negative = ~np.eye(PAIRS, len(candidates), dtype=bool)
    return sources, candidates, is_negative


@pytest.mark.parametrize("negatives_of_each", [0, 2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_softmax_loss_is_theirs(negatives_of_each, symmetric):
    """Ours is the sum over the pairs, theirs the mean."""
    sources, candidates, is_negative = pair_vectors(negatives_of_each)
    options = {}
    if symmetric:
        options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    reference = MultipleNegativesRankingLoss(Peer(), scale=20.0, **options)
    columns = [torch.from_numpy(sources), *torch.from_numpy(candidates).split(PAIRS)]
    expected = reference.compute_loss_from_embeddings(columns, None).item()
    embeddings = map(paddle.to_tensor, (sources, candidates, is_negative))
    total, _ = in_batch_softmax_loss(*embeddings, 20.0, symmetric)
    assert expected > 0.1
    assert total.item() / PAIRS == pytest.approx(expected, abs=1e-6)
