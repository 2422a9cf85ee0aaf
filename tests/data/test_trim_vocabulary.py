"""--trim_vocab_to: on the text, a trimmed model computes what the whole model does."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import pytest
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.commands import convert
from ernie_m.data.trim_vocabulary import trim_vocabulary
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.model_card import format_model_card, read_card
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS
from ernie_m.model.checkpoint.write_foreign import ENCODER_TARGETS, shrink_vocabulary
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.batching import pad
from ernie_m.reader.token_offsets import encode_with_offsets
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import write_vocab
from ernie_m.utils.checksums import CARD
from tests import toys
from tests.helpers.batches import padded_batch
from tests.helpers.checkpoints import change_config, stored
from tests.helpers.files import flip_last_bit, write_file
from tests.launching import error_of
from tests.toys import CONFIG, make_ours, sentences, train_piece_model, write_lines

LONGEST = toys.LONGEST  # tokens of a line


class Sample(NamedTuple):
    """A SentencePiece model, and a text that does not have all of its pieces."""

    piece_model: Path
    path: Path  # of the text
    text: list[str]  # its lines


@pytest.fixture(scope="module")
def toy(module_folder):
    """A small sample. Some of its subwords have a digit and a comma."""
    numbers = ["in 1, 12, 123, and 7, are 1,5 or 20,000", "1, 12, 123, 7,"] * 20
    piece_model = train_piece_model(
        module_folder / "piece.model", sentences(500, seed=99) + numbers, vocab_size=230
    )
    text = ["1, 12, 123, 7, and Ω", *sentences(30, seed=4)]
    write_lines(module_folder / "text.txt", text)
    return Sample(piece_model, module_folder / "text.txt", text)


def make_models(folder, piece_model):
    """Write a classifier and a pre-trained model with this tokenizer to `classify` and `full` in a folder."""
    for kind in ("classify", "full"):
        toys.make_model(folder / kind, kind, piece_model, toys.SETTINGS[kind])


def filled(kind: str, folder):
    """A model of our own classes with the weights of a folder."""
    checkpoint = open_checkpoint(folder)
    model = toys.model(kind, ErnieMConfig(**checkpoint.config.to_dict()))
    load_weights(model, checkpoint)
    return model.eval()


def tokenizer_in(folder) -> Tokenizer:
    """The tokenizer next to the weights of a folder."""
    checkpoint = open_checkpoint(folder)
    return Tokenizer(checkpoint.vocab_path, checkpoint.piece_model_path)


def make_batches(folder, text: list[str]):
    """Yield the batches of 50 lines each, as ids of the classifier in a folder of `make_models`."""
    tokenizer = tokenizer_in(folder / "classify")
    for start in range(0, len(text), 50):
        rows = [tokenizer.build_inputs(line, max_seq_len=LONGEST) for line in text[start : start + 50]]
        yield padded_batch(pad(rows, 1))


def assert_same_logits(whole, trimmed, text: list[str]) -> None:
    """The logits of the classifiers in two folders of `make_models` have the same bits."""
    classifiers = [filled("classify", folder / "classify") for folder in (whole, trimmed)]
    for batches in zip(make_batches(whole, text), make_batches(trimmed, text)):
        logits, trimmed_logits = [model(batch).numpy() for model, batch in zip(classifiers, batches)]
        assert logits.tobytes() == trimmed_logits.tobytes()


def assert_same_tokens(whole: Tokenizer, trimmed: Tokenizer, text: list[str]) -> None:
    """The trimmed tokenizer has fewer subwords, and cuts the text alike, with the same offsets."""
    assert trimmed.vocab_size < whole.vocab_size
    for line in text:
        assert trimmed.tokenize(line) == whole.tokenize(line)
        ids, offsets = encode_with_offsets(whole, line)
        trimmed_ids, trimmed_offsets = encode_with_offsets(trimmed, line)
        assert trimmed.convert_ids_to_tokens(trimmed_ids) == whole.convert_ids_to_tokens(ids)
        assert trimmed_offsets == offsets


@paddle.no_grad()
def assert_same_outputs(whole, trimmed, text: list[str]) -> None:
    """The models in two folders of `make_models` compute the same for a text.

    Logits of the classifier and hidden states have the same bits. The logits of the words that are in both
    vocabularies differ by at most 1e-5 of the largest: products with a smaller table may be summed in another
    order.
    """
    assert_same_logits(whole, trimmed, text)
    word_models = [filled("full", folder / "full") for folder in (whole, trimmed)]
    whole_vocab = tokenizer_in(whole / "full").vocab
    # The id of each token of the trimmed model in the vocabulary of the whole one.
    old_ids = [whole_vocab[token] for token in tokenizer_in(trimmed / "full").vocab]
    for batches in zip(make_batches(whole, text), make_batches(trimmed, text)):
        states = [model.encode(batch) for model, batch in zip(word_models, batches)]
        assert states[0].numpy().tobytes() == states[1].numpy().tobytes()
        # Of 200 tokens: with all, the logits would take much memory.
        whole_model, trimmed_model = word_models
        word_logits = whole_model.lm_head(states[0][:200]).numpy()
        differences = word_logits[:, old_ids] - trimmed_model.lm_head(states[1][:200]).numpy()
        assert np.abs(differences).max() <= 1e-5 * np.abs(word_logits).max()


def test_a_trimmed_model_computes_the_same(toy, tmp_path, capsys):
    """The report says how many tokens, parameters and megabytes both models have."""
    make_models(tmp_path / "whole", toy.piece_model)
    for kind in ("classify", "full"):
        source = tmp_path / "whole" / kind
        convert.main([str(source), str(tmp_path / "trimmed" / kind), "--trim_vocab_to", str(toy.path)])
    assert_same_tokens(Tokenizer(None, toy.piece_model), tokenizer_in(tmp_path / "trimmed/full"), toy.text)
    assert_same_outputs(tmp_path / "whole", tmp_path / "trimmed", toy.text)
    report = capsys.readouterr().out
    row = re.compile(r"^ *(?:before|after) +([\d,]+) +([\d,]+) +([\d,.]+)$", re.MULTILINE)
    before, after = row.findall(report)[-2:]  # of the model "full", which is the last
    tokenizers = {
        "whole": Tokenizer(None, toy.piece_model),
        "trimmed": tokenizer_in(tmp_path / "trimmed/full"),
    }
    for name, (tokens, parameters, megabytes) in (("whole", before), ("trimmed", after)):
        assert tokens == f"{tokenizers[name].vocab_size:,}"
        assert float(megabytes) == pytest.approx(4 * int(parameters.replace(",", "")) / 1e6, abs=0.05)
        size = (tmp_path / name / "full/model.safetensors").stat().st_size
        assert float(megabytes) == pytest.approx(size / 1e6, abs=0.06)


@pytest.mark.parametrize("target", ENCODER_TARGETS)
def test_every_format_is_trimmed(toy, tmp_path, target):
    """A folder of each format is trimmed to the same format. All tensors but two keep their size."""
    make_models(tmp_path / "made", toy.piece_model)
    for kind in ("classify", "full"):
        flags = ["--to", target, "--allow_lossy"]
        convert.main([str(tmp_path / "made" / kind), str(tmp_path / "whole" / kind), *flags])
        flags += ["--trim_vocab_to", str(toy.path)]
        convert.main([str(tmp_path / "whole" / kind), str(tmp_path / "trimmed" / kind), *flags])
    assert_same_tokens(Tokenizer(None, toy.piece_model), tokenizer_in(tmp_path / "trimmed/full"), toy.text)
    assert_same_logits(tmp_path / "whole", tmp_path / "trimmed", toy.text)
    whole = open_checkpoint(tmp_path / "whole/full").tensors
    trimmed = open_checkpoint(tmp_path / "trimmed/full").tensors
    assert set(whole) == set(trimmed)
    vocab_size = tokenizer_in(tmp_path / "trimmed/full").vocab_size
    for name in trimmed:
        has_a_row_per_token = name in ("embeddings.word_embeddings.weight", "lm_head.bias")
        assert (trimmed.shape(name)[0] == vocab_size) == has_a_row_per_token


@pytest.mark.parametrize("is_trimmed", [True, False])
def test_a_manifest_covers_what_was_written(toy, tmp_path, is_trimmed):
    make_models(tmp_path, toy.piece_model)
    source = tmp_path / "classify"
    means = {"en": np.ones((toys.LAYERS + 1, toys.HIDDEN_SIZE), np.float32)}
    safetensors.write(source / LANGUAGE_MEANS, means)
    flags = ["--trim_vocab_to", str(toy.path)] if is_trimmed else []
    folder = tmp_path / "new"
    convert.main([str(source), str(folder), *flags])
    names = {path.name for path in folder.iterdir()} - {"README.md", "manifest.json"}
    assert names == {"config.json", "model.safetensors", "piece.model", "vocab.txt", LANGUAGE_MEANS}
    for name in names:
        flip_last_bit(folder / name)
        assert f"{folder / name}: " in error_of(open_checkpoint, folder)
        flip_last_bit(folder / name)
    assert open_checkpoint(folder)


def write_piece_model(path: Path, scores: dict[str, float]) -> Path:
    """Write a unigram model with these subwords and log probabilities, and return its path."""
    model = ModelProto()  # a unigram model by default
    piece_type = ModelProto.SentencePiece
    model.pieces.add(piece="<unk>", score=0, type=piece_type.UNKNOWN)
    for subword in ("<s>", "</s>"):
        model.pieces.add(piece=subword, score=0, type=piece_type.CONTROL)
    for subword, score in scores.items():
        model.pieces.add(piece=subword, score=score)
    return write_file(path, model.SerializeToString())


# A text may be split otherwise if a subword goes that it does not contain. Case -> scores of a piece.model,
# the text, and the subwords that go.
NEEDED = {
    # An unknown character has the lowest score of a subword less 10. "ab" and "cd" have -30 together. Without
    # "zz" an unknown "a" would have -25, and with "bcd" -27, which is higher. So "zz" stays.
    "the lowest score": ({"ab": -15, "cd": -15, "bcd": -2, "▁": -1, "zz": -30, "y": -3}, "abcd bcd", {"y"}),
    "digits before a comma": ({"▁12,": -1, "▁12": -5, "12": -9, ",": -9.5}, "12,", {"12"}),
    "digits in a word": ({"12,": -1, "▁12": -1, "12": -9, "▁a": -2, ",": -1, "▁12,": -9.5}, "a12,", set()),
    "digits whose own piece is better": (
        {"12,": -1, "▁12": -1, "12": -9, "▁a": -2, ",": -1, "▁12,": -1.5},
        "a12,",
        {"▁12,"},
    ),
    # After a letter they are 12, which vocab.txt has, and the model does not.
    "digits that are no piece": ({"12,": -1, "▁12": -2, ",": -1.5, "▁a": -3}, "a12,", set()),
    "characters": ({"▁ab": -1, "▁": -5, "a": -5, "b": -5, "c": -5.5, "d": -6}, "ab", {"c"}),
}


@pytest.mark.parametrize("case", NEEDED)
def test_subwords_that_are_needed_and_not_in_the_text(case, tmp_path):
    scores, text, removed = NEEDED[case]
    piece_model = write_piece_model(tmp_path / "whole.model", scores)
    vocab = Tokenizer(None, piece_model).vocab
    vocab.setdefault("12", len(vocab))
    write_vocab(vocab, tmp_path / "whole.txt")
    whole = Tokenizer(tmp_path / "whole.txt", piece_model)
    trimmed, _ = trim_vocabulary(whole, [Path(write_lines(tmp_path / "text.txt", [text]))], tmp_path)
    assert trimmed.tokenize(text) == whole.tokenize(text)
    tokens = whole.convert_ids_to_tokens(whole.encode(text))
    assert trimmed.convert_ids_to_tokens(trimmed.encode(text)) == tokens
    assert set(whole.list_ordinary_subwords()) - set(trimmed.list_ordinary_subwords()) == removed


def test_rare_subwords_go_and_their_characters_stay(tmp_path):
    """With min_count=2, "▁cd", which comes once, goes. "x" stays because it has the lowest score."""
    scores = {"▁ab": -0.5, "▁cd": -1, "▁xx": -2, **dict.fromkeys("▁abcde", -5), "x": -9}
    whole = Tokenizer(None, write_piece_model(tmp_path / "whole.model", scores))
    text = Path(write_lines(tmp_path / "text.txt", ["ab cd ab", "ab"]))
    trimmed, _ = trim_vocabulary(whole, [text], tmp_path, min_count=2)
    assert trimmed.tokenize("ab cd") == ["▁ab", "▁", "c", "d"]
    assert set(whole.list_ordinary_subwords()) - set(trimmed.list_ordinary_subwords()) == {"▁cd", "▁xx", "e"}


def test_trim_by_two_files_with_a_reordered_vocabulary(toy, tmp_path):
    """The subwords of all files stay; vocab.txt keeps its own order, and [PAD] its role."""
    texts = [sentences(10, seed=1), sentences(10, seed=2)]
    files = [Path(write_lines(tmp_path / f"{number}.txt", lines)) for number, lines in enumerate(texts)]
    tokens = list(Tokenizer(None, toy.piece_model).vocab)
    reordered = [*tokens[5:], *reversed(tokens[:5])]  # special tokens at the end
    write_lines(tmp_path / "vocab.txt", reordered)
    whole = Tokenizer(tmp_path / "vocab.txt", toy.piece_model)
    trimmed, old_ids = trim_vocabulary(whole, files, tmp_path)
    assert_same_tokens(whole, trimmed, [*texts[0], *texts[1]])
    in_order = [token for token in reordered if token in trimmed.vocab]
    assert list(trimmed.vocab) == in_order
    assert [whole.vocab[token] for token in in_order] == old_ids.tolist()

    config = {**CONFIG, "vocab_size": whole.vocab_size, "pad_token_id": whole.pad_id}
    make_ours(tmp_path / "model", config=config)
    checkpoint = open_checkpoint(tmp_path / "model")
    smaller = shrink_vocabulary(checkpoint, old_ids, trimmed.pad_id, added_tokens={"<e>": 7})
    assert smaller.pipeline_config.added_tokens == {"<e>": 7}
    assert smaller.config.pad_token_id == trimmed.vocab["[PAD]"] != whole.pad_id


def test_reject_tokenizers_that_cannot_be_trimmed(toy, tmp_path):
    """Other text rules than ours, and another kind of SentencePiece model; tests/mistakes.tsv has more."""
    make_models(tmp_path, toy.piece_model)
    source = tmp_path / "classify"
    shutil.copytree(source, tmp_path / "theirs", ignore=shutil.ignore_patterns("manifest.json"))
    change_config(tmp_path / "theirs", pipeline=stored(text_rules="paddlenlp"))
    bpe = train_piece_model(tmp_path / "bpe.model", vocab_size=200, model_type="bpe")
    keep = ["--trim_vocab_to", str(toy.path)]
    for model, flags, message in (
        (tmp_path / "theirs", keep, "piece.model: cannot trim text rules paddlenlp"),
        (source, [*keep, "--piece_model_path", str(bpe)], "bpe.model: not a unigram model, "),
    ):
        assert message in error_of(convert.main, [str(model), str(tmp_path / "out"), *flags])
        assert not (tmp_path / "out").exists()


def test_trimmed_model_card_drops_scores(toy, tmp_path):
    """Its license stays, and it says how many tokens do. A conversion without trimming keeps both."""
    make_models(tmp_path, toy.piece_model)
    facts = {"metadata": {"license": "mit"}, "scores": {"dev.%s.tsv": {"en": {"acc": 84.13}}}}
    (tmp_path / "classify" / CARD).write_text(format_model_card(facts, CONFIG, 1), encoding="utf-8")
    convert.main([str(tmp_path / "classify"), str(tmp_path / "whole")])
    texts = f"{toy.path},{write_lines(tmp_path / 'second.txt', sentences(9, seed=5))}"
    flags = ["--trim_vocab_to", texts, "--min_count", "2"]
    convert.main([str(tmp_path / "classify"), str(tmp_path / "trimmed"), *flags])
    kept, before = (open_checkpoint(tmp_path / name).config.vocab_size for name in ("trimmed", "classify"))
    line = f"{kept} of {before} tokens were kept, those in text.txt, second.txt with at least 2 occurrences"
    assert line in (tmp_path / "trimmed" / CARD).read_text(encoding="utf-8")
    convert.main([str(tmp_path / "classify"), str(tmp_path / "all"), *flags[:2]])
    assert open_checkpoint(tmp_path / "all").config.vocab_size > kept
    metadata, scores = read_card(tmp_path / "whole")
    assert metadata["license"] == "mit" and "84.13" in scores
    metadata, scores = read_card(tmp_path / "trimmed")
    assert metadata["license"] == "mit" and scores is None
