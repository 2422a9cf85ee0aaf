"""Turn text and sentence pairs into a corpus for pre-training; see --help and docs/data.md.

    ernie-m build_corpus --output data/corpus --piece_model_path piece.model \\
        --mono "en<=news.en.txt.gz" --mono "de<=news.de.txt.gz" --parallel "en-de<=pairs.tsv.gz"

The text is read twice: once to count it and to find duplicates, once to cut it into ids. The work is divided
into units that depend only on the text. Each is written whole or not at all, so the same command continues a
killed build. The corpus has the same bytes with any number of workers, on this machine or on a Ray cluster.
"""

import shutil
import sys
from pathlib import Path

from ernie_m.pretrain.build_corpus.build import CorpusBuild
from ernie_m.pretrain.build_corpus.inputs import gather_notation, resolve
from ernie_m.pretrain.build_corpus.options import BuildOptions, modification_times, plan_of
from ernie_m.pretrain.build_corpus.report import pair_report, summary
from ernie_m.pretrain.build_corpus.text_units import look_at_sources
from ernie_m.pretrain.build_corpus.work_folder import (
    WORK,
    StreamWork,
    claimed,
    delete_corpus,
    finished_manifest,
)
from ernie_m.pretrain.build_corpus.workers import LocalWorkers, RayWorkers
from ernie_m.reader.corpus import Corpus, tokenizer_of_corpus
from ernie_m.reader.files.find_pairs import expand
from ernie_m.tokenizer.text_rules import ERNIE_M
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.options import parse_options


def build_corpus(options: BuildOptions) -> dict:
    """Build a corpus, continue an unfinished build, or check a finished corpus.

    Returns:
        Its manifest.

    Raises:
        UserError: bad input or options.
    """
    # The plan is all that decides the bytes of the corpus: a folder is continued only with an equal plan.
    output = Path(expand(options.output)).absolute()
    streams = resolve(options.mono, options.parallel)
    vocab_path = None if options.vocab_path is None else expand(options.vocab_path)
    tokenizer = Tokenizer(vocab_path, expand(options.piece_model_path), options.text_rules)
    vocabulary = {"digest": tokenizer.digest, "size": tokenizer.vocab_size}
    if tokenizer.text_rules != ERNIE_M:  # a corpus that names none has the official ones
        vocabulary["text_rules"] = tokenizer.text_rules
    plan = plan_of(options, streams, vocabulary)
    if options.overwrite:
        delete_corpus(output)

    # A finished corpus is checked and left as it is.
    manifest = finished_manifest(output, plan)
    if manifest is not None:
        logger.info("%s: built already; comparing its checksums", output)
        finished = (output / MANIFEST).stat().st_mtime_ns
        newer = [path for path, time in modification_times(streams).items() if time > finished]
        if newer:
            logger.warning(
                "%s: written after the corpus was built; if the text changed, add --overwrite true",
                ", ".join(newer),
            )
        shutil.rmtree(output / WORK, ignore_errors=True)  # still there if the build was killed at its end
        Corpus(output, verify=True)  # raises an error if a file is not as it was written
        return manifest

    look_at_sources(streams, options)
    # Otherwise each stage of the build does what an earlier, stopped build has not done.
    workers = LocalWorkers(options.workers)
    if options.engine == "ray":
        workers = RayWorkers(options.workers, options.ray_address)
    modified = modification_times(streams)
    # These decide whether a build goes on, but are not in the manifest. The work on the files is numbered in
    # their order. The order has a list of its own, because two mappings are equal whatever their order.
    files = {"modified": modified, "order": list(modified), "compared": "normal forms"}
    with claimed(output, plan | files), workers:
        size = tokenizer.vocab_size
        works = [StreamWork(number, stream, output, options, size) for number, stream in enumerate(streams)]
        build = CorpusBuild(options, works, workers, tokenizer)
        build.scan()
        build.find_duplicates()
        build.tokenize()
        if modification_times(streams) != modified:
            raise UserError("a text file changed while it was read; start afresh with --overwrite true")
        build.write_shards()
        return build.finish(plan)


def main() -> None:
    """Build the corpus of the command line, and print a table of it and a few pairs."""
    setup_console()
    options = parse_options(BuildOptions, gather_notation(sys.argv[1:]), __name__)
    table = summary(build_corpus(options))
    corpus = Corpus(expand(options.output))
    for line in table + pair_report(corpus, tokenizer_of_corpus(corpus.path)):
        logger.info("%s", line)
