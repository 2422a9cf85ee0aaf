"""The newest transformers and sentence-transformers read the XLM-RoBERTa form and give our numbers."""

import numpy as np
import paddle
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

import convert
from model.checkpoint import load_from, read_weights
from model.ernie_m import ErnieMModel
from model.formats import peers
from model.heads import PreTrainingModel, SequenceClassifier, SpanClassifier, TokenClassifier
from reader.tokenization import Tokenizer
from tests.helpers.toy_models import CONFIG, LABELS, make_ours

HEADS = [None, "lm", "cls", "seq_label", "mrc", "choice"]
TEXTS = [
    "The quick brown fox jumps over the lazy dog near a river.",
    "  Два  слова — «и» ещё “три”. ",
    "敏捷的棕色狐狸跳过懒狗。他说:‘妈妈’",
    "नमस्ते दुनिया\tand a tab, a soft\u00adhyphen and a\u200bnothing",
    "x",
]


def test_it_is_the_newest():
    assert int(transformers.__version__.split(".")[0]) >= 5
    assert not hasattr(transformers, "ErnieMModel")  # which is why the XLM-RoBERTa form is there


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    ids = rng.integers(4, CONFIG["vocab_size"], size=(3, 9))
    ids[:, 0], ids[:, -1] = 0, 2
    ids[1, 6:] = 1
    return ids, (ids != 1).astype("int64")


def ours(folder, head: str | None, ids: np.ndarray) -> list[np.ndarray]:
    config = read_weights(folder).config
    models = {
        None: lambda: ErnieMModel(config),
        "lm": lambda: PreTrainingModel(config, ["en"]),
        "cls": lambda: SequenceClassifier(config, LABELS["cls"]),
        "choice": lambda: SequenceClassifier(config, 1),
        "seq_label": lambda: TokenClassifier(config, LABELS["seq_label"]),
        "mrc": lambda: SpanClassifier(config),
    }
    model = models[head]()
    load_from(model, folder, ("pooler.", "language_embeddings."))
    model.eval()
    tensor = paddle.to_tensor(ids)
    with paddle.no_grad():
        if head == "lm":
            return [model.lm_head(model.ernie_m(tensor, pool=False).sequence).numpy()]
        out = model(tensor)
    if head is None:
        return [out.sequence.numpy(), out.pooled.numpy()]
    found = [value.numpy() for value in (out if isinstance(out, tuple) else (out,))]
    return [found[0].reshape(1, -1)] if head == "choice" else found


def theirs(model, head: str | None, ids, mask) -> list[np.ndarray]:
    arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if head == "choice":
        arguments = {name: tensor[None] for name, tensor in arguments.items()}
    with torch.no_grad():
        out = model.eval()(**arguments)
    if head is None:
        return [out.last_hidden_state.numpy(), out.pooler_output.numpy()]
    return [out.start_logits.numpy(), out.end_logits.numpy()] if head == "mrc" else [out.logits.numpy()]


def assert_close(found, expected, mask) -> None:
    for one, other in zip(found, expected, strict=True):
        if one.shape[:2] == mask.shape:
            one, other = one[mask == 1], other[mask == 1]
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_every_class(tmp_path, batch, head):
    ids, mask = batch
    kind = {"lm_head": True, "pooler": False} if head == "lm" else {"head": head}
    make_ours(tmp_path / "ours", **kind)
    convert.main([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "xlm-roberta"])
    model_class = getattr(transformers, peers.CLASSES[peers.XLM_R][head].name)
    model, told = model_class.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = theirs(model, head, ids, mask)
    assert_close(ours(tmp_path / "ours", head, ids), expected, mask)
    model.save_pretrained(tmp_path / "again")
    found = read_weights(tmp_path / "again")
    assert found.info["head"] == (None if head == "lm" else head) and not found.info["unknown"]
    assert_close(ours(tmp_path / "again", head, ids), expected, mask)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    with open(folder / "piece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20), model_writer=file, vocab_size=170, hard_vocab_limit=False,
            character_coverage=1.0, num_threads=1, normalization_rule_name="nmt_nfkc", minloglevel=2,
        )  # fmt: skip
    return folder / "piece.model"


@pytest.fixture(scope="module")
def converted(tmp_path_factory, pieces):
    """Our folder with a tokenizer, and the same in the XLM-RoBERTa form."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(piece_model_path=pieces)
    make_ours(
        folder / "ours", config={**CONFIG, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 130}
    )
    convert.main(
        [
            str(folder / "ours"),
            str(folder / "theirs"),
            "--to",
            "xlm-roberta",
            "--piece_model_path",
            str(pieces),
        ]
    )
    return folder, tokenizer


def test_the_tokenizer_gives_our_ids(converted):
    folder, tokenizer = converted
    peer = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    for text in TEXTS:
        assert peer(text)["input_ids"] == tokenizer.build(text), text
    assert peer(TEXTS[0], TEXTS[1])["input_ids"] == tokenizer.build(TEXTS[0], TEXTS[1])
    names = {
        "cls": tokenizer.cls_id,
        "sep": tokenizer.sep_id,
        "pad": tokenizer.pad_id,
        "mask": tokenizer.mask_id,
    }
    assert {name: getattr(peer, f"{name}_token_id") for name in names} == names
    assert peer("a <mask> b")["input_ids"].count(tokenizer.mask_id) == 1


def test_sentence_transformers(converted):
    folder, tokenizer = converted
    found = SentenceTransformer(str(folder / "theirs"), device="cpu").encode(TEXTS)
    model = ErnieMModel(read_weights(folder / "ours").config)
    load_from(model, folder / "ours")
    model.eval()
    for text, vector in zip(TEXTS, found):
        with paddle.no_grad():
            sequence = model(paddle.to_tensor([tokenizer.build(text)]), pool=False).sequence.numpy()[0]
        np.testing.assert_allclose(vector, sequence.mean(0), atol=1e-4)
