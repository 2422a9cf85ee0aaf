"""The tokenizer: official rules in examples worked by hand, spans of tokens in many scripts, bad files."""

import itertools
import json
import pickle
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pytest
import sentencepiece

from ernie_m.reader.token_offsets import encode_with_offsets
from ernie_m.reader.tokenization import (
    TEXT_RULES,
    Tokenizer,
    normalize,
    replace_surrogates,
    truncate_longest_first,
)
from ernie_m.reader.tokenizer_config import check_tokenizer_type, read_max_length
from ernie_m.reader.tokenizer_rules import LIBRARY_RULES, split_subwords
from ernie_m.reader.vocabulary import list_tokens_by_id, parse_vocab, write_vocab
from ernie_m.reader.write_tokenizer import write_ernie_m, write_static_tokenizer
from ernie_m.utils.files import Folder
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.reader.conftest import SENTENCES
from tests.toys import train_piece_model

ALPHABETS = {
    "latin": "The quick brown fox, 0, 25, 1,000.",
    "accents": "éèüßñøçàêïāžŁı",
    "combining": "e\u0301 a\u0308 o\u0323\u0302 n\u0303 u\u031b\u0301",
    "cyrillic_greek": "Быстрая лиса Η γρήγορη καφέ",
    "arabic": "الثعلب البني لا\u064e\u0651 ﷺ ﻻ",
    "indic": "तेज भूरी क्षत्रिय लोमड़ी\u200d\u200c",
    "thai": "สุนัขจิ้งจอก ำ",
    "cjk": "敏捷的棕色狐狸跳过懒狗。，㍿ ①② がガ",
    "hangul": "한국어 \u1112\u1161\u11ab ㄱ",
    "fullwidth": "ＡＢＣ１２３，．！ﬁ ﬂ ½ ² ™ …",
    "emoji": "😀👩\u200d👩\u200d👧\ufe0f🇩🇪👍🏽",
    "spaces": " \u00a0\u2009\u3000\t\n\r\u2028▁",
    "dropped": "a\u0000\u00ad\ufeff\u200bb\u202e\u0007c",
    "quotes": "“x” ‘y’ — z",
}


def random_texts(count: int = 400) -> list[str]:
    """Texts of up to 39 random characters, each from one to three alphabets."""
    rng = np.random.default_rng(7)
    texts = []
    for _ in range(count):
        letters = "".join(rng.choice([*ALPHABETS.values()], size=rng.integers(1, 4))) + " "
        texts.append("".join(rng.choice([*letters], size=rng.integers(0, 40))))
    return texts


TEXTS = ["", " ", "\u200b", "\u200b a", "a\u200b", *ALPHABETS.values(), *SENTENCES, *random_texts()]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("“a” ‘b’ c—d", "\"a\" 'b' c-d"),
        ("a\u0000b\u00adc\ufeffd\u200de\u200cf\u0007", "abcdef"),
        ("a\tb\nc\rd\u00a0e\u3000f\u2009g", "a b c d e f g"),
        ("Straße – naïve\u2028", "Straße – naïve\u2028"),  # an en dash and Zl are not in the rules
        ("\ud800x", "\ufffdx"),
    ],
)
def test_normalize_by_hand(text, expected):
    assert normalize(text) == expected


def test_text_rules_none_replace_only_lone_surrogates():
    assert replace_surrogates("“\ud800x”") == "“\ufffdx”"


def test_library_rules_replace_lone_surrogates(piece_model):
    tokenizer = Tokenizer(None, piece_model, LIBRARY_RULES[0])
    assert tokenizer.encode_batch(["ba\ud800"]) == tokenizer.encode_batch(["ba\ufffd"])


def test_normalize_by_category():
    """The fast path and the table agree with the rule written out, for every character there is."""
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        if character in "“”‘’—" or category == "Cs":
            continue
        is_space = category == "Zs" or character in "\t\n\r"
        expected = " " if is_space else "" if category in ("Cc", "Cf") else character
        assert normalize(character) == expected, hex(code)


def test_derived_ids_equal_xlm_r(piece_model, tokenizer):
    """[CLS] [PAD] [SEP] [UNK] stand for the model's first three subwords, so subword n has the id n + 1."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(piece_model))
    size = model.GetPieceSize()
    special = {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": size + 1}
    assert tokenizer.vocab == special | {model.IdToPiece(n): n + 1 for n in range(3, size)}
    ids = (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id)
    assert ids == tokenizer.special_ids == tuple(special.values()) and tokenizer.vocab_size == size + 2
    text = "The fox jumps over 狐狸"
    assert tokenizer.encode(text) == [number + 1 for number in model.EncodeAsIds(text)]


def test_unknown_characters_become_unk(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("fox 😀"))[-3:] == ["x", "▁", "[UNK]"]
    assert tokenizer.tokenize("fox 😀")[-1] == "😀"
    assert tokenizer.decode(tokenizer.encode(" the  fox 😀")) == "the fox [UNK]"
    # The name of a special token in a text is text.
    assert not set(tokenizer.encode("[MASK] [CLS]")) & {tokenizer.mask_id, tokenizer.cls_id}


def test_digit_comma_rule(piece_model, tokenizer):
    model = sentencepiece.SentencePieceProcessor(model_file=str(piece_model))
    assert model.EncodeAsPieces("x20, 25,") == ["▁", "x", "2", "0,", "▁25,"]
    # "0," had no ▁: the one that cutting "0" again adds is taken off. "▁25," had one: it stays.
    assert model.EncodeAsPieces("25") == ["▁", "2", "5"]
    assert tokenizer.tokenize("x20, 25,") == ["▁", "x", "2", "0", ",", "▁", "2", "5", ","]
    ids, spans = encode_with_offsets(tokenizer, "x20, 25,")
    assert spans == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (5, 5), (5, 6), (6, 7), (7, 8)]
    assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.tokenize("x20, 25,")


def test_every_way_to_encode_agrees(tokenizer):
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        ids_with_offsets, _ = encode_with_offsets(tokenizer, text)
        assert tokenizer.encode(text) == ids == ids_with_offsets, repr(text)
        assert tokenizer.encode_batch([text]) == [ids], repr(text)  # few texts go another way
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids, repr(text)


def characters(text: str) -> Counter:
    """How often each character is in a text, with marks, ligatures and syllables taken apart."""
    return Counter(unicodedata.normalize("NFKD", normalize(text)))


def test_a_model_that_spells_in_bytes(tmp_path):
    """Each byte of a character that has no subword of its own has the whole character as its span."""
    train_piece_model(tmp_path / "piece.model", SENTENCES[:3] * 20, vocab_size=400, byte_fallback=True)
    _, spans = encode_with_offsets(Tokenizer.from_folder(tmp_path), "a\u200b \u200b😀 x")
    not_empty = [(start, end) for start, end in spans if start < end]
    assert not_empty == [(0, 1), *[(4, 5)] * 4, (6, 7)]  # 😀 has four bytes in UTF-8


@pytest.mark.parametrize("character", ["½", "\ufdfa"])
def test_span_ends_before_the_next_tokens_character(tokenizer, character):
    """½ becomes 1⁄2, which is all in tokens of its own: that of the x before it has the x alone.

    The other character becomes several words.
    """
    ids, spans = encode_with_offsets(tokenizer, f"x{character}")
    tokens = [token.strip("▁") for token in tokenizer.convert_ids_to_tokens(ids)]
    assert (spans[tokens.index("x")], spans[-1]) == ((0, 1), (1, 2))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_token_spans(tokenizer, text):
    """Spans ascend, cover all that is visible, and hold the characters of their tokens."""
    _, spans = encode_with_offsets(tokenizer, text)
    for bounds in zip(*spans):
        assert list(bounds) == sorted(bounds)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    covered = {position for start, end in spans for position in range(start, end)}
    # Neither dropped nor a space.
    visible = {index for index, letter in enumerate(text) if normalize(letter).replace("▁", " ").strip()}
    assert visible <= covered
    for token, (start, end) in zip(tokenizer.tokenize(text), spans, strict=True):
        source = text[start:end]
        assert source == source.strip().strip("▁"), "white space at the ends of a span"
        assert characters(token.strip("▁")) <= characters(source), (token, source)


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["the fox"], "<A>"),
        (["the fox", "the lazy dog"], "<A>>B>"),
        (["", "the lazy dog"], "<>>B>"),
        (["the fox", ""], "<A>"),
        (["", ""], "<>"),
    ],
)
def test_build_inputs_from_text_and_pair(tokenizer, texts, parts):
    """The parts are [CLS], [SEP] and the two texts."""
    encoded = {
        "<": [tokenizer.cls_id],
        ">": [tokenizer.sep_id],
        **dict(zip("AB", map(tokenizer.encode, texts))),
    }
    assert tokenizer.build_inputs(*texts) == [id_ for part in parts for id_ in encoded[part]]


def test_inputs_that_are_too_long(tokenizer):
    """Only the longer text is truncated."""
    fox = tokenizer.encode("the fox")
    assert tokenizer.build_inputs("the fox", max_seq_len=4) == [tokenizer.cls_id, *fox[:2], tokenizer.sep_id]
    ids = tokenizer.build_inputs(SENTENCES[0], "the fox", max_seq_len=20)
    assert len(ids) == 20 and ids[-len(fox) - 1 :] == [*fox, tokenizer.sep_id]
    assert "--max_seq_len 4 " in error_of(tokenizer.build_inputs, "a", "b", max_seq_len=4)


def test_truncation_takes_from_the_longer():
    """Equal to taking one token after the other, for all short lengths."""

    def slowly(length_a, length_b, budget):
        while length_a + length_b > budget:
            if length_a > length_b:
                length_a -= 1
            else:
                length_b -= 1
        return length_a, length_b

    for length_a, length_b, budget in itertools.product(range(8), range(8), range(1, 16)):
        expected = slowly(length_a, length_b, budget)
        assert truncate_longest_first(length_a, length_b, budget) == expected, (length_a, length_b, budget)


def test_read_both_vocab_txt_formats(tokenizer, piece_model, tmp_path):
    """White space is a token; a byte order mark may stand before the first."""
    tokenizer.write_vocab(tmp_path / "tab.txt")
    tokens = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    (tmp_path / "bare.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    (tmp_path / "windows.txt").write_bytes("\ufeff".encode() + "\r\n".join(tokens).encode())
    lines = [f"{token}\t {id_} \n" for token, id_ in reversed(tokenizer.vocab.items())]
    (tmp_path / "blanks.txt").write_text("".join(lines), encoding="utf-8")
    for name in ("tab.txt", "bare.txt", "windows.txt", "blanks.txt"):
        read = Tokenizer(tmp_path / name, piece_model)
        assert read.vocab == tokenizer.vocab and read.digest == tokenizer.digest
        read.write_vocab(tmp_path / "again.txt")
        assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "tab.txt").read_bytes()
    spaces = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "\u3000", "b "]
    assert list(parse_vocab("\n".join(spaces).encode(), "spaces.txt")) == spaces


@pytest.mark.parametrize("layout", ["bare", "tab"])
def test_a_subword_that_vocab_txt_lacks_is_named(tokenizer, piece_model, tmp_path, caplog, layout):
    """Without the line of a bare token all ids after it are other ones, and a model has a row more."""
    size = tokenizer.vocab_size
    path = tmp_path / "vocab.txt"
    lines = [token if layout == "bare" else f"{token}\t{id_}" for token, id_ in tokenizer.vocab.items()]
    lost = tokenizer.list_ordinary_subwords()[7]
    path.write_text("".join(f"{line}\n" for line in lines if line.split("\t")[0] != lost), encoding="utf-8")
    read = Tokenizer(path, piece_model)
    assert [
        line for line in caplog.messages if line.startswith(f"{path} does not match ") and line.endswith(lost)
    ]
    read.check_model(read.vocab_size, read.pad_id, "model")
    rows = read.vocab_size + 1
    assert rows == (size if layout == "bare" else size + 1)
    check_error(
        error_of(read.check_model, rows, read.pad_id, "model"), str(path), f"'{lost}'", start="model: "
    )
    for unused in (0, 1, 35):  # E5-small has rows that no token reads
        tokenizer.check_model(size + unused, tokenizer.pad_id, "model")
    assert error_of(tokenizer.check_model, size, tokenizer.pad_id + 1, "model").startswith("model: ")


def test_ids_are_read_not_assumed(tokenizer, piece_model, tmp_path):
    """A vocab.txt that counts the ids backwards."""
    size = tokenizer.vocab_size
    write_vocab({token: size - 1 - id_ for token, id_ in tokenizer.vocab.items()}, tmp_path / "vocab.txt")
    reversed_ids = Tokenizer(tmp_path / "vocab.txt", piece_model)
    assert (reversed_ids.mask_id, reversed_ids.cls_id, reversed_ids.vocab_size) == (0, size - 1, size)
    ids = tokenizer.encode("The fox 20, 😀")
    assert reversed_ids.encode("The fox 20, 😀") == [size - 1 - id_ for id_ in ids]
    assert reversed_ids.digest != tokenizer.digest


def test_settings_for_other_libraries(tokenizer, tmp_path):
    """Of StaticEmbedding, which adds no [CLS] and [SEP], and of ErnieMTokenizer. An id may have no token."""
    assert write_static_tokenizer(tmp_path, tokenizer, 30) == ["tokenizer.json"]
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["truncation"] == {
        "direction": "Right",
        "max_length": 28,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    assert write_ernie_m(tmp_path, tokenizer)[1:] == ["sentencepiece.bpe.model", "tokenizer_config.json"]
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    settings = {"tokenizer_class": "ErnieMTokenizer", "do_lower_case": False, **tokens}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == settings
    assert list_tokens_by_id({"b": 3, "a": 1}) == ["<no token 0>", "a", "<no token 2>", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[CLS]\n[PAD]\n[SEP]\n[UNK]\na\n", "vocab.txt: missing [MASK] among 5 tokens"),
        (b"[CLS]\t0\na\tx1\n", "vocab.txt, line 2: invalid id 'x1'"),
        (b"[CLS]\t0\na\t16777216\n", "vocab.txt, line 2: invalid id '16777216'"),
        (b"[CLS]\t0\n[PAD]\t0\n[SEP]\t2\n[UNK]\t3\n[MASK]\t4\n", "vocab.txt: two of [CLS] [PAD]"),
        (b"[CLS]\nab\xff\n", "vocab.txt, line 2: not UTF-8 (byte 3 of the line)"),
        (b"[CLS]\n[PAD]\n[SEP]\n[UNK]\n[MASK]\nword\n", "does not match"),
        (b"a 7\nb", "dict.txt, line 2: "),
        (b"a 7\nb\xff 7", "dict.txt, line 2: "),
        (b"a 7\na 8", "dict.txt, line 2: "),
        (b"".join(b"no-piece-%d 7\n" % n for n in range(11)), "dict.txt: 11 subwords"),
    ],
)
def test_rejects_invalid_vocabularies(piece_model, tmp_path, content, message):
    path = write_file(tmp_path / ("dict.txt" if "dict.txt" in message else "vocab.txt"), content)
    assert message in error_of(Tokenizer, path, piece_model)


def test_read_fairseq_dict(tokenizer, piece_model, tmp_path, caplog):
    """Its lines have the ids from 4 on, fillers among them; a subword without a line is unknown."""
    path = tmp_path / "dict.txt"

    def read(*tokens: str) -> Tokenizer:
        path.write_text("".join(f"{token} 7\n" for token in tokens), encoding="utf-8")
        return Tokenizer(path, piece_model)

    subwords = tokenizer.list_ordinary_subwords()
    assert read(*subwords).digest == tokenizer.digest  # the released XLM-R has the order of its model
    absent, *others = reversed(subwords)
    lines = ["madeupword0000", *others]
    ids = {token: id_ for id_, token in enumerate(["[CLS]", "[PAD]", "[SEP]", "[UNK]", *lines, "[MASK]"])}
    trained = read(*lines)
    trained.check_model(len(ids), 1, "model")
    assert "dict.txt" in error_of(trained.check_model, len(ids) + 1, 1, "a row that no line is for")
    assert trained.vocab == ids and trained.convert_tokens_to_ids([absent]) == [3]
    assert caplog.messages == [] and read(*lines, "<mask>").vocab == ids
    shutil.copy(piece_model, tmp_path / "sentencepiece.bpe.model")
    assert Tokenizer.from_folder(tmp_path, "none").vocab == ids
    read(*lines, *"☀☁☂☃☄★☆☇☈☉")
    assert "☃" in caplog.text


def test_last_duplicate_token_or_id_wins(tmp_path, piece_model, tokenizer, caplog):
    """As in the official code, vocab[token] = id and then token_of[id] = token. A warning names the lines."""
    size = len(tokenizer.vocab)
    tokenizer.write_vocab(tmp_path / "vocab.txt")
    first, second, *_ = tokenizer.list_ordinary_subwords()
    with open(tmp_path / "vocab.txt", "a", encoding="utf-8") as file:
        file.write(f"{first}\t{size}\n" + f"more\t{tokenizer.vocab[second]}\n" * 6)
    repeated = Tokenizer(tmp_path / "vocab.txt", piece_model)
    assert repeated.vocab == tokenizer.vocab | {first: size, "more": tokenizer.vocab[second]}
    ids = [size, tokenizer.vocab[second]]
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / 'vocab.txt'}: 7 duplicate ")
    more = "".join(f", {size + number} ('more', {ids[1]})" for number in range(2, 6))
    assert line.endswith(f": line {size + 1} ('{first}', {size}){more}")
    repeated.write_vocab(tmp_path / "again.txt")
    for tokens in (repeated, Tokenizer(tmp_path / "again.txt", piece_model)):
        assert (tokens.vocab, tokens.convert_ids_to_tokens(ids)) == (repeated.vocab, [first, "more"])
    # Other formats have one token for each id.
    assert f"duplicate id {ids[1]} in the vocabulary ('{second}' and 'more'" in error_of(
        write_ernie_m, tmp_path, repeated
    )


def test_rejects_invalid_piece_models(tmp_path, piece_model, tokenizer):
    assert "no such SentencePiece model" in error_of(Tokenizer, None, tmp_path / "none.model")
    # A subword of 5 bytes is replaced by 5 bytes that are no UTF-8, and by the name of a special token.
    subword = next(word.encode() for word in tokenizer.list_ordinary_subwords() if len(word.encode()) == 5)
    content = piece_model.read_bytes()
    for bad, message in (
        (b"this is text", "corrupt or not a SentencePiece model"),
        (content.replace(subword, b"\xe2\x28\xa1xx"), "corrupt or not a SentencePiece model"),
        (content.replace(subword, b"[CLS]"), "unsupported SentencePiece model"),
    ):
        (tmp_path / "bad.model").write_bytes(bad)
        check_error(error_of(Tokenizer, None, tmp_path / "bad.model"), "bad.model: ", message)
    assert "missing --piece_model_path" in error_of(Tokenizer)
    assert "missing piece.model" in error_of(Tokenizer.from_folder, tmp_path)


def test_a_tokenizer_from_a_folder_and_from_a_pickle(
    tokenizer, piece_model, tmp_path, in_tmp_path, monkeypatch
):
    """Its copy is complete in another folder, even if the files are changed after they were read."""
    (tmp_path / "sentencepiece.bpe.model").write_bytes(piece_model.read_bytes())
    alone = Tokenizer.from_folder(tmp_path)  # its vocabulary is derived
    tokenizer.write_vocab(tmp_path / "vocab.txt")
    with_vocab = Tokenizer.from_folder(".")
    monkeypatch.chdir("/")
    assert alone.vocab_path is None and with_vocab.vocab_path is not None
    pickled = pickle.dumps(with_vocab)
    for name in ("vocab.txt", "sentencepiece.bpe.model"):
        (tmp_path / name).write_text("of another model")
    again = pickle.loads(pickled)
    assert again.encode(SENTENCES[3]) == alone.encode(SENTENCES[3]) == tokenizer.encode(SENTENCES[3])
    assert again.digest == with_vocab.digest == alone.digest == tokenizer.digest


def test_rules_and_added_tokens_go_along_and_count(piece_model, tmp_path):
    """In a pickle and in the digest."""
    size = Tokenizer(None, piece_model).vocab_size
    made = [Tokenizer(None, piece_model, rules) for rules in TEXT_RULES]
    for rules, token in itertools.product(("none", "ernie-m"), ("<e1>", "<e2>")):
        made.append(Tokenizer(None, piece_model, rules, {token: size}))
    # With the token that was added: in a text it is letters there.
    made[-1].write_vocab(tmp_path / "vocab.txt")
    made.append(Tokenizer(tmp_path / "vocab.txt", piece_model))
    assert len({tokenizer.digest for tokenizer in made}) == len(made)
    for tokenizer in made:
        facts = [
            (each.text_rules, each.added_tokens, each.digest)
            for each in (tokenizer, pickle.loads(pickle.dumps(tokenizer)))
        ]
        assert facts[0] == facts[1]


@pytest.mark.parametrize(
    ("subword", "tokens"),
    [
        ("▁abc", ["▁abc"]),
        ("▁ab12cd", ["▁ab", "12", "cd"]),
        ("▁12", ["12"]),
        ("3g", ["3", "g"]),
        ("▁狐狸x", ["狐", "狸", "x"]),
        ("a一b鿿c", ["a", "一", "b", "鿿", "c"]),  # the first and the last of the block
        ("㐀䶿", ["㐀䶿"]),  # of the extension before it
        ("がカ", ["がカ"]),
        ("don't-do_it", ["don't-do_it"]),
        *((f"▁a{mark}b", ["▁a", mark, "b"]) for mark in ",;:.?!~，；：。？！《》【】"),
        *((f"▁{mark}", [mark]) for mark in ".。"),
    ],
)
def test_how_the_libraries_cut_a_subword(subword, tokens):
    """By hand: at Han characters, at marks, between digits and others."""
    assert split_subwords([subword], keeps_spaces=False) == [tokens]


@pytest.mark.parametrize(
    ("subwords", "kept"),
    [(["a", "▁", "狐"], True), (["▁", "狐"], False), (["a", "▁", "▁b"], False), (["a", "▁"], False)],
)
def test_a_space_alone_stays_in_transformers(subwords, kept):
    """Between two subwords, if the second does not begin with one."""
    position = subwords.index("▁")
    assert split_subwords(subwords, keeps_spaces=False)[position] == []
    assert split_subwords(subwords, keeps_spaces=True)[position] == (["▁"] if kept else [])


@pytest.mark.parametrize("tokens", [("<e>", "<e>x"), ("<e>x", "<e>")])
def test_the_longest_added_token_is_found(piece_model, tokens):
    """Whatever the order in which they were added; and what is after it has its own positions."""
    size = Tokenizer(None, piece_model).vocab_size
    added = {token: size + number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(None, piece_model, added_tokens=added)
    text = "<e>x<e> b <e> the <e>dog<e>"
    assert Tokenizer(None, piece_model, added_tokens=dict(reversed(added.items()))).digest == tokenizer.digest
    found = [token for token in tokenizer.tokenize(text) if token in added]
    assert found == ["<e>x", "<e>", "<e>", "<e>", "<e>"]
    ids, spans = encode_with_offsets(tokenizer, text)
    assert ids == tokenizer.encode(text)
    assert [text[start:end] for (start, end), id_ in zip(spans, ids) if id_ >= size] == found
    assert "".join(text[start:end] for start, end in spans) == text.replace(" ", "")
    assert "token '<e>' with id 5 " in error_of(Tokenizer, None, piece_model, added_tokens={"<e>": 5})


# What is tested -> the file of a folder, its content, its text rules and added tokens; or why it is refused.
NO_TOKENS: dict = {}
FOLDERS = {
    "nothing says it": (None, {}, ("ernie-m", NO_TOKENS)),
    "our key": (
        "config.json",
        {"model_type": "ernie_m", "pipeline": {"text_rules": "none"}},
        ("none", NO_TOKENS),
    ),
    "added": ("config.json", {"pipeline": {"added_tokens": {"<e1>": 402}}}, ("ernie-m", {"<e1>": 402})),
    "a corpus": (
        "manifest.json",
        {"vocabulary": {"text_rules": "transformers"}},
        ("transformers", NO_TOKENS),
    ),
    "the files of a model": ("manifest.json", {"version": 1, "files": {}}, ("ernie-m", NO_TOKENS)),
    "an older revision's key": ("config.json", {"reading": {"text_rules": "none"}}, "'reading'"),
    "unknown rules": ("config.json", {"pipeline": {"text_rules": "bert"}}, "config.json: "),
    "a list": ("config.json", {"pipeline": {"added_tokens": ["<e1>"]}}, "config.json: "),
    "an id that is true": ("config.json", {"pipeline": {"added_tokens": {"<e1>": True}}}, "config.json: "),
    "no object": ("config.json", {"pipeline": "paddlenlp"}, "config.json: "),
    "a list of rules": ("config.json", {"pipeline": ["none"]}, "config.json: "),
    "unknown rules of a corpus": ("manifest.json", {"vocabulary": {"text_rules": "bert"}}, "manifest.json: "),
    "no object of a corpus": ("manifest.json", {"vocabulary": "bert"}, "manifest.json: "),
    # The vocab.txt or the rules of another library would give other ids in silence.
    "xlm-roberta": ("config.json", {"model_type": "xlm-roberta"}, "open_checkpoint("),
    "converted": ("config.json", {"model_type": "xlm-roberta", "pipeline": {}}, "open_checkpoint("),
    "ErnieMModel": (
        "config.json",
        {"model_type": "ernie_m", "architectures": ["ErnieMModel"]},
        "open_checkpoint(",
    ),
    "UIEM": ("model_config.json", {"init_class": "UIEM"}, "open_checkpoint("),
    "a tokenizer's config": ("tokenizer_config.json", {}, "open_checkpoint("),
    "tokenizer.json": ("tokenizer.json", {}, "open_checkpoint("),
    "fairseq": ("dict.txt", "", "open_checkpoint("),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_says_its_text_rules_and_added_tokens_or_is_refused(piece_model, tmp_path, case):
    """Text rules that are asked for count more than those of the folder."""
    name, content, expected = FOLDERS[case]
    shutil.copy(piece_model, tmp_path / "sentencepiece.bpe.model")
    if name:
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    if isinstance(expected, str):
        check_error(error_of(Tokenizer.from_folder, tmp_path), expected, start=str(tmp_path))
    else:
        tokenizer = Tokenizer.from_folder(tmp_path)
        assert (tokenizer.text_rules, tokenizer.added_tokens) == expected
        assert Tokenizer.from_folder(tmp_path, "none").text_rules == "none"
        assert Tokenizer.from_folder(tmp_path, added_tokens={}).added_tokens == {}


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"model_max_length": 512}, 512),
        *(({"model_max_length": value}, None) for value in (0, -1, 1e30, True, None)),
        ({"tokenizer_class": ""}, None),
    ],
)
def test_read_other_library_settings(tmp_path, settings, length):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    folder = Folder(tmp_path)
    check_tokenizer_type(folder, {}, None)
    assert read_max_length(folder) == length


@pytest.mark.parametrize("rules", LIBRARY_RULES)
def test_ids_and_spans_by_the_rules_of_libraries(piece_model, rules):
    """Those of the parts of each subword. Where NFKC changes no length, a span is the text of its token."""
    tokenizer = Tokenizer(None, piece_model, rules)
    texts = [*SENTENCES, "a 12,5 b3 ， , 2008年8月8日。", "a  b", ""]
    rows = []
    for text in texts:
        subwords = tokenizer.processor.Encode(text, out_type=str)
        tokens = [*itertools.chain(*split_subwords(subwords, keeps_spaces=rules == "transformers"))]
        ids, spans = encode_with_offsets(tokenizer, text)
        assert (tokenizer.tokenize(text), ids) == (tokens, tokenizer.convert_tokens_to_ids(tokens))
        rows.append(ids)
        if unicodedata.is_normalized("NFKC", text):
            assert [text[start:end] for start, end in spans] == [token.lstrip("▁") for token in tokens]
    assert tokenizer.encode_batch(texts) == rows
    assert encode_with_offsets(tokenizer, "㍿")[1] == [(0, 1)] * 4  # of one character NFKC makes four tokens
