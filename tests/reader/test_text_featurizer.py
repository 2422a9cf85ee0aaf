"""Texts become the model inputs of the tokenizer, whole if they fit."""

import pytest

from ernie_m.reader.text_featurizer import Example, Feature, TextFeaturizer, encode_in_chunks


def test_encode_rows(tokenizer, caplog):
    """Many rows at once have the ids of `Tokenizer.build_inputs`; an empty text_b is as none."""
    rows = [
        Example("the fox", "the dog", 2),
        Example("the", "", 2),
        Example("the dog", "the", 2),
        Example("the fox", None, 0),
    ]
    features = TextFeaturizer(tokenizer, max_seq_len=8)(rows)
    assert [(feature.ids, feature.label) for feature in features] == [
        (tokenizer.build_inputs("the fox", "the dog", 8), 2),
        (tokenizer.build_inputs("the", "", 8), 2),
        (tokenizer.build_inputs("the dog", "the", 8), 2),
        (tokenizer.build_inputs("the fox", max_seq_len=8), 0),
    ]
    prompted = TextFeaturizer(tokenizer, 8, prompt="brown ")(rows)
    assert [feature.ids for feature in prompted] == [
        tokenizer.build_inputs(f"brown {row.text_a}", row.text_b, 8) for row in rows
    ]
    assert caplog.messages == []  # no text began with the prompt before


@pytest.mark.parametrize(("fewer", "is_cut"), [(0, False), (1, True)])
@pytest.mark.parametrize("text_b", ["the dog", "", "\u200b"])
def test_texts_that_just_fit_are_not_cut(tokenizer, fewer, is_cut, text_b):
    """They are truncated if --max_seq_len is one token less."""
    size = len(tokenizer.build_inputs("the fox", text_b))
    (feature,) = TextFeaturizer(tokenizer, size - fewer)([Example("the fox", text_b, 2)])
    assert feature.cut == is_cut


def test_texts_in_chunks():
    """The ids of a large vocabulary; the last chunk is not full."""
    features = [Feature([0, 70_000], 1), Feature([5], 0), Feature([], 2)]
    chunks = [*encode_in_chunks(range(3), lambda numbers: [features[number] for number in numbers], 2)]
    found = [[feature._replace(ids=feature.ids.tolist()) for feature in chunk] for chunk in chunks]
    assert found == [features[:2], features[2:]]
