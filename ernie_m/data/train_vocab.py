"""Training of a SentencePiece unigram vocabulary as in XLM-R (paper, appendix A.2).

Languages are sampled by temperature; a pair counts for both languages. The text is read twice, to count and
to sample lines, and never loaded into memory.
"""

import io
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import sentencepiece

from ernie_m.pretrain.build_corpus.build_args import TextOptions
from ernie_m.pretrain.build_corpus.source_files import merge_source_options, resolve_sources
from ernie_m.pretrain.build_corpus.text_chunks import check_sources, read_chunks, read_lines
from ernie_m.reader.files.plain_text import LONGEST_LINE
from ernie_m.reader.sampling import apply_temperature
from ernie_m.reader.tokenization import Tokenizer, normalize
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, lock_for_writing, translate_write_errors
from ernie_m.utils.logging import ON_CONSOLE, Progress, logger, setup_console
from ernie_m.utils.value_types import PositiveInt, Range, UnitInterval

_CHUNK_BYTES = 4 << 20  # text per chunk
_SEED = 1
# SentencePiece's error for an invalid vocabulary size -> advice, with the number in the error.
_SIZE_ERRORS = {
    r"Vocabulary size too high .* <= (\d+)": (
        "the text has too few words for it. Set --vocab_size {} or less, or provide more text"
    ),
    r"smaller than required_chars\. \d+ vs (\d+)": (
        "the text has more characters. Set --vocab_size {} or more, or a lower --character_coverage"
    ),
}


@dataclass
class VocabOptions(TextOptions):
    """Command-line options of `ernie-m train_vocab`."""

    output: str
    """Output directory for piece.model and vocab.txt."""

    vocab_size: PositiveInt = option(250_000, needed=True)
    """SentencePiece vocabulary size, including the unknown, begin and end tokens, but not [PAD] and
    [MASK]."""

    hard_vocab_limit: bool = True
    """Whether --vocab_size must be reached; otherwise, too little text gives a smaller vocabulary."""

    character_coverage: Annotated[float, Range(above=0, at_most=1)] = 0.9995
    """Fraction of characters covered by the vocabulary; the rest become unknown tokens."""

    alpha: UnitInterval = 0.3
    """Exponent alpha for sampling languages in proportion to lines^alpha (XLM-R: 0.3; 1: no resampling)."""

    sentences: PositiveInt = 5_000_000
    """Approximate maximum number of lines to train on."""

    threads: PositiveInt = 16
    """Number of training threads, which affects the result through rounding."""


def train_vocab(options: VocabOptions) -> Tokenizer:
    """Train a vocabulary, write piece.model and vocab.txt, and return the tokenizer.

    Raises:
        UserError: the text is invalid or too short for the vocabulary size, or the output directory already
            has a vocabulary or cannot be written.
    """
    model_path = Path(options.output, "piece.model")
    if model_path.exists():
        raise UserError(
            f"{model_path}: already exists, and a corpus may depend on it. Choose another --output"
        )
    with translate_write_errors(model_path):  # before reading the text, which takes long
        model_path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=model_path.parent).close()
    check_sources(resolve_sources(options.mono, options.parallel), options)
    lines: Counter[str] = Counter()  # language -> number of lines
    for side in read_language_lines(options, "counting"):
        lines[side.language] += len(side.lines)
    empty = [language for language, count in lines.items() if count == 0]
    if empty:
        raise UserError(f"no text in {', '.join(empty)}. Remove it")
    total = min(options.sentences, lines.total())  # lines to train on
    probabilities = apply_temperature(lines, options.alpha)
    # Language -> mean number of samples per line.
    repeats = {language: probabilities[language] * total / lines[language] for language in probabilities}
    logger.info(", ".join(f"{language}: {count:,} lines" for language, count in lines.items()))
    logger.info("training SentencePiece on ~%s lines (no progress output)", f"{total:,}")
    model = io.BytesIO()
    # SentencePiece returns to Python only at its end, so Ctrl-C must end the process. Nothing is written yet.
    at_interrupt = signal.getsignal(signal.SIGINT)
    if at_interrupt is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sample_lines(options, repeats),
            model_writer=model,
            model_type="unigram",
            vocab_size=options.vocab_size,
            hard_vocab_limit=options.hard_vocab_limit,
            character_coverage=options.character_coverage,
            # XLM-R's layout. The tokenizer adds [PAD] and [MASK].
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,  # not used
            normalization_rule_name="nmt_nfkc",
            max_sentence_length=LONGEST_LINE,  # by default lines above 4 KB are dropped
            num_threads=options.threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        message = " ".join(str(error).split())
        for pattern, advice in _SIZE_ERRORS.items():
            match = re.search(pattern, message)
            if match:
                raise UserError(f"--vocab_size {options.vocab_size}: {advice.format(match[1])}") from error
        raise UserError(f"SentencePiece: {message}") from error
    finally:
        signal.signal(signal.SIGINT, at_interrupt)
    with atomic_file(model_path) as file:
        file.write(model.getvalue())
        file.flush()
        # piece.model appears last: if the disk is full before, the same command can run again.
        Tokenizer(piece_model_path=file.name).write_vocab(model_path.with_name("vocab.txt"))
    return Tokenizer(piece_model_path=model_path)


class LanguageLines(NamedTuple):
    """The lines of one language in a chunk of the training text.

    Attributes:
        key: the indices of stream, source, chunk and side, which seed the sampling of these lines.
    """

    language: str
    lines: list[str]
    key: tuple[int, int, int, int]


def sample_lines(options: VocabOptions, repeats: Mapping[str, float]) -> Iterator[str]:
    """Yield each line of a language `repeats[language]` times on average, normalized by rules 1 to 3."""
    for side in read_language_lines(options, "sampling"):
        uniform = np.random.default_rng([_SEED, *side.key]).random(len(side.lines))  # in [0, 1)
        # With 2.3 repeats, a line is sampled three times with probability 0.3, and twice otherwise.
        counts = np.floor(repeats[side.language] + uniform).astype(int)
        for line, count in zip(side.lines, counts.tolist()):
            text = normalize(line)
            for _ in range(count):
                yield text


def read_language_lines(options: VocabOptions, description: str) -> Iterator[LanguageLines]:
    """Yield the lines of each chunk of the text; the two languages of a chunk of pairs are separate items.

    Args:
        description: the label of the progress bar.
    """
    streams = resolve_sources(options.mono, options.parallel)
    total = sum(source.size for stream in streams for source in stream.sources)  # bytes
    with closing(Progress(total, description, unit="bytes")) as progress:
        for stream_number, stream in enumerate(streams):
            for source_number, source in enumerate(stream.sources):
                for chunk_number, chunk in enumerate(read_chunks(source, _CHUNK_BYTES, options)):
                    rows = read_lines(chunk, source, stream.languages, options).rows
                    for side_number, language in enumerate(stream.languages):
                        key = (stream_number, source_number, chunk_number, side_number)
                        yield LanguageLines(language, [row[side_number] for row in rows], key)
                    progress.update(chunk.bytes_read)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ernie-m train_vocab`."""
    setup_console()
    options = parse_options(VocabOptions, merge_source_options(arguments or sys.argv[1:]), __name__)
    with lock_for_writing(Path(options.output, "piece.model")):
        tokenizer = train_vocab(options)
    line = "wrote %s and vocab.txt: vocabulary size %s"
    logger.info(line, tokenizer.piece_model_path, f"{tokenizer.vocab_size:,}", extra=ON_CONSOLE)
