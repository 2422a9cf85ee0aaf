"""Text and pairs to a corpus for pre-training: python -m pretrain.build_corpus --help; docs/corpus.md.

    python -m pretrain.build_corpus --output data/corpus --piece_model_path piece.model \\
        --mono "en<=news.en.txt.gz" --mono "de<=news.de.txt.gz" --parallel "en-de<=pairs.tsv.gz"

The text is read twice: once to count it and to find duplicates, once to cut it into ids. The work is divided
into units that hang on the text alone, each written whole or not at all; the same command goes on where a
killed one stopped, and the corpus has the same bytes with any number of workers, here or on a Ray cluster.
"""

import sys
from pathlib import Path

from pretrain.corpus.build import Build
from pretrain.corpus.engine import open_engine
from pretrain.corpus.inputs import resolve
from pretrain.corpus.options import BuildOptions, gather_notation, modification_times, plan_of
from pretrain.corpus.passes import find_all_duplicates, finish, scan, summary, tokenize, write_shards
from pretrain.corpus.work import claim, discard, finished_manifest, forget
from reader.corpus import check_files
from reader.tokenization import Tokenizer
from utils.config import load_config
from utils.errors import run
from utils.logging import logger, setup_console


def build_corpus(options: BuildOptions) -> dict:
    """Build a corpus, go on with one, or check the one that is there.

    Returns:
        Its manifest.

    Raises:
        UserError: bad input or options.
    """
    output = Path(options.output)
    streams = resolve(options.mono, options.parallel)
    tokenizer = Tokenizer(options.vocab_path, options.piece_model_path)
    plan = plan_of(options, streams, {"digest": tokenizer.digest, "size": tokenizer.vocab_size})
    if options.overwrite:
        discard(output)
    manifest = finished_manifest(output, plan)
    if manifest is not None:
        logger.info("%s: built already; comparing its checksums", output)
        forget(output)
        check_files(output, manifest, checksums=True)
        return manifest
    with (
        claim(output, plan | {"modified": modification_times(streams)}) as work,
        open_engine(options.engine, options.workers, options.ray_address, work.folder) as workers,
    ):
        build = Build(options, streams, work, workers, tokenizer)
        scan(build)
        find_all_duplicates(build)
        tokenize(build)
        write_shards(build)
        return finish(build, plan)


def main() -> None:
    setup_console()
    options = load_config(BuildOptions, gather_notation(sys.argv[1:]), "Text and pairs to a corpus.")
    logger.info("%s", summary(build_corpus(options)))


if __name__ == "__main__":
    run(main)
