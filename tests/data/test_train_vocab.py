"""ernie-m train_vocab: the right ids, the same bytes each time, the share of each language, bad input."""

import signal
from types import SimpleNamespace

import pytest

from ernie_m.data import train_vocab as script
from ernie_m.data.train_vocab import VocabOptions, train_vocab
from ernie_m.reader.tokenization import Tokenizer, normalize
from tests.helpers.files import disk_full_after, read_files
from tests.launching import error_of
from tests.toys import sentences, write_lines


@pytest.fixture(scope="module")
def texts(module_folder):
    """The options that name the text: 1600 lines of English, 100 of Russian, and 50 of English and German."""
    return {
        "mono": {
            "en": write_lines(module_folder / "en", sentences(1600, seed=1)),
            "ru": write_lines(module_folder / "ru", ["баба идёт домой", "дом стоит"] * 50),
        },
        "parallel": {"en-de": write_lines(module_folder / "x.tsv", ["good day\tguten Tag"] * 50)},
    }


def options(output, texts, **changed):
    """The options of a small vocabulary of these texts."""
    few = {"vocab_size": 120, "threads": 2, "skip_text_checks": True}
    return VocabOptions(output=str(output), **texts, **(few | changed))


def test_the_same_ids_and_bytes(tmp_path, texts, capfd):
    tokenizer = train_vocab(options(tmp_path / "one", texts))
    printed = capfd.readouterr().err  # without sentencepiece's own lines
    assert "trainer_interface" not in printed and "WARNING" not in printed
    # 120 subwords, of which three are special tokens of the model; five special tokens of the vocabulary.
    assert (*tokenizer.special_ids, tokenizer.vocab_size) == (0, 1, 2, 3, 121, 122)
    assert Tokenizer.from_folder(tmp_path / "one").digest == tokenizer.digest
    assert tokenizer.unk_id not in tokenizer.encode("баба идёт guten Tag baba")
    train_vocab(options(tmp_path / "two", texts))
    assert read_files(tmp_path / "one") == read_files(tmp_path / "two")
    assert "one/piece.model: " in error_of(train_vocab, options(tmp_path / "one", texts))


def test_lines_are_sampled_as_the_tokenizer_normalizes_them(tmp_path):
    line = "Anna—Bo…"
    text = {"mono": {"en": write_lines(tmp_path / "en", [line])}, "parallel": {}}
    sampled = list(script.sample_lines(options(tmp_path, text), {"en": 1.0}))
    assert sampled == [normalize(line)] and sampled != [line]


def test_each_side_has_its_own_random_numbers(tmp_path, texts):
    keys = [side.key for side in script.read_language_lines(options(tmp_path, texts), "counting")]
    assert len({*keys}) == len(keys) == 4  # two languages, and two sides of pairs


def test_the_same_command_runs_again_after_a_full_disk(tmp_path, texts, monkeypatch):
    """The disk is full when vocab.txt is written, whichever of the two files is first."""
    write_vocab = Tokenizer.write_vocab

    def write_until_full(self, path):
        with disk_full_after(100):
            write_vocab(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "write_vocab", write_until_full)
        assert "vocab.txt" in error_of(train_vocab, options(tmp_path, texts))
    digest = train_vocab(options(tmp_path, texts)).digest
    assert Tokenizer.from_folder(tmp_path).digest == digest


@pytest.mark.parametrize(
    ("before", "during"),
    [(signal.default_int_handler, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)],
)
def test_an_interrupt_ends_sentencepiece_at_once(tmp_path, texts, monkeypatch, before, during):
    """It would take no notice until it has finished. Where Ctrl-C is ignored, as under nohup, it stays so."""
    handlers = []
    trainer = script.sentencepiece.SentencePieceTrainer
    train = trainer.train

    def watched(**arguments):
        handlers.append(signal.getsignal(signal.SIGINT))
        train(**arguments)

    monkeypatch.setattr(trainer, "train", watched)
    of_tests = signal.signal(signal.SIGINT, before)
    try:
        train_vocab(options(tmp_path, texts))
        assert handlers == [during] and signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, of_tests)


def test_lines_are_sampled_by_temperature(tmp_path, texts, monkeypatch):
    """With alpha 0.5 a language has a share in proportion to the root of its lines, within four deviations.

    Instead of training a model, the trainer only lists the lines that it receives.
    """
    sampled = []
    trainer = SimpleNamespace(train=lambda sentence_iterator, **_: sampled.extend(sentence_iterator))
    monkeypatch.setattr(script.sentencepiece, "SentencePieceTrainer", trainer)
    error_of(train_vocab, options(tmp_path, texts, alpha=0.5, sentences=900))  # there is no model

    counts = {
        "ru": sum(line[0] in "бд" for line in sampled),
        "de": sampled.count("guten Tag"),
    }
    counts["en"] = len(sampled) - sum(counts.values())
    roots = {"en": 1650**0.5, "ru": 100**0.5, "de": 50**0.5}  # English has 1600 lines and those of 50 pairs
    for language, root in roots.items():
        expected = 900 * root / sum(roots.values())
        assert abs(counts[language] - expected) < 4 * expected**0.5


def test_long_lines_and_columns_count(tmp_path):
    """A line of more than 4 KB; and pairs in the columns 2 and 3, half of them with a low score."""
    words = sentences(1600, seed=1)
    pairs = ["1.2\tgood day\tguten Tag"] * 50 + ["0.9\tgood day\tбаба"] * 50
    text = {
        "mono": {
            "en": write_lines(tmp_path / "en", words),
            "ru": write_lines(tmp_path / "ru", ["дом " * 2000]),
        },
        "parallel": {"en-de": write_lines(tmp_path / "x.tsv", pairs)},
    }
    columns = {"columns": "2,3", "filter": "1>=1", "character_coverage": 1.0}
    tokenizer = train_vocab(options(tmp_path / "out", text, **columns))
    is_known = {text: tokenizer.unk_id not in tokenizer.encode(text) for text in ("дом", "guten Tag", "баба")}
    assert is_known == {"дом": True, "guten Tag": True, "баба": False}


def test_reject_bad_text_and_write_no_model(tmp_path, texts):
    """tests/mistakes.tsv has more."""
    message = error_of(train_vocab, options(tmp_path, texts, vocab_size=12))
    assert message.startswith("--vocab_size 12: ")
    silent = {**texts, "mono": {**texts["mono"], "fr": write_lines(tmp_path / "fr", [" "])}}
    assert "no text in fr" in error_of(train_vocab, options(tmp_path, silent))
    fewest = int(message.split("et --vocab_size ")[1].split()[0])
    train_vocab(options(tmp_path / "fewest", texts, vocab_size=fewest))
    no_file = {"mono": {"en": str(tmp_path / "none")}}
    # The location of the output is checked before the text is looked for.
    assert error_of(train_vocab, options("/proc/vocab", no_file)).startswith("/proc")
    assert not (tmp_path / "piece.model").exists()
