"""Vocabularies and piece models."""

import functools
from pathlib import Path

from reader.tokenization import Tokenizer
from reader.tokenizer_files import write_ernie_m, write_xlm_r
from tests.fuzz.attempt import Target, each
from tests.fuzz.edits import protobuf_edit
from tests.helpers.small_corpus import sentences, train_pieces

TEXTS = [
    "",
    " ",
    "a",
    "0,1,2 ½ ㍿ \u200b\ufeffx",
    "नमस्ते दुनिया",
    "\ud800x",
    "e\u0301" * 40,
    "x" * 300,
    *sentences(3),
]


@functools.cache
def _pieces(kind: str) -> bytes:
    import io

    import sentencepiece

    if kind == "plain":
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            return train_pieces(Path(folder) / "piece.model").read_bytes()
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences(60), "10, 20, ½ ㍿"] * 4), model_writer=stream, vocab_size=60,
        hard_vocab_limit=False, num_threads=1, normalization_rule_name="nmt_nfkc", minloglevel=2,
        model_type=kind, user_defined_symbols=["0,"],
    )  # fmt: skip
    return stream.getvalue()


def _vocab_seeds(folder: Path) -> list[bytes]:
    (folder / "piece.model").write_bytes(_pieces("plain"))
    vocab = Tokenizer(None, folder / "piece.model").vocab
    return [
        "".join(f"{token}\n" for token in vocab).encode(),
        "".join(f"{token}\t{id_}\n" for token, id_ in vocab.items()).encode(),
        b"[CLS]\n[PAD]\n[SEP]\n[UNK]\n[MASK]\n",
    ]


def _vocab(path: Path) -> None:
    tokenizer = Tokenizer(path, path.with_name("piece.model"))
    _use(tokenizer)
    if tokenizer.vocab_size < 1 << 16:  # each file has a line for each id
        each(lambda: write_ernie_m(path.parent, tokenizer), lambda: write_xlm_r(path.parent, tokenizer, 512))


def _model(path: Path) -> None:
    tokenizer = Tokenizer(None, path)
    _use(tokenizer)
    written = path.parent / "written"
    written.mkdir(exist_ok=True)
    write_xlm_r(written, tokenizer, 512)


def _use(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        tokenizer.build(text, "a")
        tokenizer.tokenize(text)
        tokenizer.encode_with_offsets(text)
    tokenizer.convert_ids_to_tokens(tokenizer.encode_batch(TEXTS)[0])


TARGETS = {
    "vocab": Target(
        "tokens.txt", _vocab_seeds, _vocab, words=(b"[CLS]", b"[MASK]", b"\t5", b"\t-1", "▁".encode())
    ),
    "piece_model": Target(
        "own.model",
        lambda folder: [_pieces(kind) for kind in ("plain", "unigram", "bpe", "char")],
        _model,
        protobuf_edit,
    ),
}
