"""Text rules other than the official ones: ids are those of the tokenizers of PaddleNLP and transformers."""

import paddlenlp.transformers as paddlenlp
import pytest
import transformers
from transformers.models.deprecated.ernie_m import ErnieMConfig, ErnieMModel
from transformers.models.deprecated.ernie_m.tokenization_ernie_m import ErnieMTokenizer

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.token_offsets import encode_with_offsets
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.write_tokenizer import write_ernie_m
from tests.helpers.real_lines import real_lines

# Typographic quotes, full width, decomposed letters, zero width, digits before a comma, what NFKC expands.
ODD = [
    "“Curly” ‘quotes’ — and a dash, 12, 345,678 in １２，３４５ ＡＢＣ",
    "한국어 ガギグ Việt Nam ½ ﷺ",
    "zero\u200bwidth soft\u00adhyphen \ufeffmark \u2028line\u2029 tab\there",
    "，，《中国》2008年8月8日、北京。",
    "   spaces   at the ends   ",
    " , ",
    "a ▁ b ▁▁ c▁",
]


@pytest.fixture(scope="module")
def lines(data_dir):
    return [*ODD, *real_lines(data_dir, 200)]


@pytest.fixture(scope="module")
def piece_model(data_dir):
    return data_dir / "vocab/xnli15-32k.model"


def test_text_rules_none_equals_the_slow_xlm_r_tokenizer(piece_model, lines):
    reference = transformers.XLMRobertaTokenizer(str(piece_model))
    tokenizer = Tokenizer(None, piece_model, "none")
    rows = tokenizer.encode_batch(lines)
    assert rows == [reference.encode(line, add_special_tokens=False) for line in lines]
    assert [encode_with_offsets(tokenizer, line)[0] for line in lines] == rows
    assert Tokenizer(None, piece_model).encode_batch(lines) != rows


def test_added_tokens_equal_the_slow_tokenizer(piece_model):
    reference = transformers.XLMRobertaTokenizer(str(piece_model))
    reference.add_tokens(["<e1>", "</e1>", "<e1>x"])
    added = {token: id_ for token, id_ in reference.get_added_vocab().items() if "e1" in token}
    tokenizer = Tokenizer(None, piece_model, "none", added)
    for text in ("<e1>", "He saw <e1>Anna</e1> there.", "<e1>x</e1><e1> y", " <e1>  z", "none of them", ""):
        ids = reference.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == tokenizer.encode_batch([text])[0] == ids
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids
        with_spans, spans = encode_with_offsets(tokenizer, text)
        assert with_spans == ids
        for id_, (start, end) in zip(ids, spans):
            if id_ in added.values():
                assert text[start:end] == tokenizer.convert_ids_to_tokens([id_])[0]


@pytest.mark.parametrize("library", ["paddlenlp", "transformers"])
def test_ernie_m_tokenizer_equals_the_library(piece_model, lines, tmp_path, library):
    write_ernie_m(tmp_path, Tokenizer(None, piece_model))
    peer_class = paddlenlp.ErnieMTokenizer if library == "paddlenlp" else ErnieMTokenizer
    reference = peer_class.from_pretrained(str(tmp_path))
    tokenizer = Tokenizer(tmp_path / "vocab.txt", piece_model, library)
    rows = tokenizer.encode_batch(lines)
    assert rows == [reference.convert_tokens_to_ids(reference.tokenize(line)) for line in lines]
    assert [encode_with_offsets(tokenizer, line)[0] for line in lines] == rows
    assert [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line)) for line in lines] == rows


def test_without_a_head_an_ernie_m_is_ernie_m_itself(tmp_path, piece_model):
    """The released weights in the format of a library keep the official rules."""
    tokenizer = Tokenizer(None, piece_model)
    write_ernie_m(tmp_path, tokenizer)
    config = ErnieMConfig(tokenizer.vocab_size, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    ErnieMModel(config).save_pretrained(str(tmp_path))
    assert open_checkpoint(tmp_path).pipeline_config.to_json() == {}
