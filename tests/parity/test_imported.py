"""Taggers of PaddleNLP and transformers are asked here as there."""

import paddle
import paddlenlp.transformers as paddlenlp
import pytest
import torch
import transformers
from transformers.models.deprecated.ernie_m import (
    ErnieMConfig,
    ErnieMForTokenClassification,
)
from transformers.models.deprecated.ernie_m.tokenization_ernie_m import ErnieMTokenizer

from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.write_tokenizer import write_ernie_m
from tests.helpers.checkpoints import change_config

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "initializer_range": 0.5,  # so that different tokens have clearly different outputs
}
TAGS = ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
WORDS = 5000


class Peer:
    """A tagger of a library with random weights, its tokenizer, and the folder that the library saved.

    Args:
        library: "xlm-r", "huggingface" or "paddlenlp".
    """

    def __init__(self, library, piece_model, folder):
        self.library = library
        vocab_size = Tokenizer(None, piece_model).vocab_size
        torch.manual_seed(1)
        paddle.seed(1)
        labels = {"id2label": dict(enumerate(TAGS))}
        folder.mkdir()
        if library == "xlm-r":
            model_class = transformers.XLMRobertaForTokenClassification
            config = transformers.XLMRobertaConfig(
                vocab_size=vocab_size, type_vocab_size=1, **SHAPE, **labels
            )
            (folder / "sentencepiece.bpe.model").write_bytes(piece_model.read_bytes())
            self.tokenizer = transformers.XLMRobertaTokenizer(str(folder / "sentencepiece.bpe.model"))
        else:
            write_ernie_m(folder, Tokenizer(None, piece_model))
            if library == "huggingface":
                model_class = ErnieMForTokenClassification
                config = ErnieMConfig(vocab_size=vocab_size, **SHAPE, **labels)
                self.tokenizer = ErnieMTokenizer.from_pretrained(str(folder))
            else:
                model_class = paddlenlp.ErnieMForTokenClassification
                config = paddlenlp.ErnieMConfig(vocab_size=vocab_size, num_labels=len(TAGS), **SHAPE)
                self.tokenizer = paddlenlp.ErnieMTokenizer.from_pretrained(str(folder))
        self.model = model_class(config)
        self.model.eval()
        self.model.save_pretrained(str(folder))
        self.folder = folder

    def ids(self, text):
        return self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(text))

    def logits(self, ids):
        """The outputs for one input, [T, labels]."""
        if self.library == "paddlenlp":
            # Without a mask the library hides the tokens with the id 0: [CLS].
            mask = paddle.ones([1, len(ids)], "int64")
            with paddle.no_grad():
                return self.model(paddle.to_tensor([ids]), attention_mask=mask).numpy()[0]
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits.numpy()[0]


@pytest.fixture(scope="module")
def piece_model(data_dir):
    return data_dir / "vocab/xnli15-32k.model"


@pytest.mark.parametrize("library", ["xlm-r", "huggingface", "paddlenlp"])
def test_tags_equal_the_library(tmp_path, piece_model, data_dir, library):
    """The tag of a word is that of its first sub-word, also where that is a "▁" alone."""
    sentences = []
    for language, count in (("en", 320), ("zh", 130)):
        text = (data_dir / f"ner/panx/dev-{language}.tsv").read_text(encoding="utf-8")
        blocks = text.strip("\n").split("\n\n")[:count]
        sentences += [[line.split("\t")[0] for line in block.split("\n")] for block in blocks]
    assert sum(map(len, sentences)) >= WORDS
    reference = Peer(library, piece_model, tmp_path / "reference")
    if library == "paddlenlp":  # its config has numbers only
        change_config(reference.folder, id2label={str(i): tag for i, tag in enumerate(TAGS)})
    tagger = make_predictor(
        "token-classification",
        load(reference.folder, task="token-classification"),
        PredictionOptions(max_seq_len=512),
    )
    answers = tagger.predict([tagger.parse({"words": words}) for words in sentences])
    lone = 0
    for words, answer in zip(sentences, answers, strict=True):
        tokenize_words = [reference.ids(word) for word in words]
        ids = [id_ for word_ids in tokenize_words for id_ in word_ids or [reference.tokenizer.unk_token_id]]
        logits = reference.logits(reference.tokenizer.build_inputs_with_special_tokens(ids))
        location = 1
        for word, word_ids, tag in zip(words, tokenize_words, answer["tags"], strict=True):
            assert tag == TAGS[logits[location].argmax()], (word, words)
            location += len(word_ids) or 1
            lone += reference.tokenizer.tokenize(word)[:1] == ["▁"]
    assert (lone > 100) == (library == "xlm-r")  # the others drop a "▁" at the beginning


def test_without_a_head_an_ernie_m_is_ernie_m_itself(tmp_path, piece_model):
    """The released weights in the format of a library keep the official rules."""
    write_ernie_m(tmp_path, Tokenizer(None, piece_model))
    config = ErnieMConfig(vocab_size=Tokenizer(None, piece_model).vocab_size, **SHAPE)
    transformers.models.deprecated.ernie_m.ErnieMModel(config).save_pretrained(str(tmp_path))
    assert open_checkpoint(tmp_path).pipeline_config.to_json() == {}
