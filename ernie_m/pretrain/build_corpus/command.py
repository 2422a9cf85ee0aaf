"""Build a pre-training corpus from monolingual text and sentence pairs. See docs/pretraining.md.

    ernie-m build_corpus --output data/corpus --piece_model_path piece.model \\
        --mono "en<=news.en.txt.gz" --mono "de<=news.de.txt.gz" --parallel "en-de<=pairs.tsv.gz"

The same command resumes an interrupted build. The corpus is bitwise identical with any number of workers, on
this machine or on a Ray cluster.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from ernie_m.pretrain.build_corpus.build import CorpusBuild
from ernie_m.pretrain.build_corpus.build_args import BuildOptions, get_modification_times, make_plan
from ernie_m.pretrain.build_corpus.encode_chunks import WORK
from ernie_m.pretrain.build_corpus.report import format_pair_report, format_summary
from ernie_m.pretrain.build_corpus.source_files import merge_source_options, resolve_sources
from ernie_m.pretrain.build_corpus.text_chunks import check_sources
from ernie_m.pretrain.build_corpus.workers import LocalWorkers, RayWorkers
from ernie_m.reader.corpus import Corpus, open_corpus_tokenizer, read_manifest
from ernie_m.reader.files.find_files import expand_path
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import parse_options
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger, setup_console
from ernie_m.utils.output_lock import check_fingerprint, lock_output


def build_corpus(options: BuildOptions) -> dict:
    """Build a corpus, resume an unfinished build, or verify the checksums of a finished corpus.

    Returns:
        The manifest of the corpus.

    Raises:
        UserError: the text or an option is invalid, or --output contains other files.
    """
    output = Path(expand_path(options.output)).absolute()  # workers may run in another directory
    options = replace(options, output=str(output))
    streams = resolve_sources(options.mono, options.parallel)
    vocab_path = None if options.vocab_path is None else expand_path(options.vocab_path)
    tokenizer = Tokenizer(vocab_path, expand_path(options.piece_model_path), options.text_rules)
    plan = make_plan(options, streams, tokenizer)
    modified = get_modification_times(streams)
    manifest_file = output / MANIFEST
    if manifest_file.exists() and not options.overwrite:
        # A finished corpus is verified and left unchanged.
        manifest = read_manifest(output)
        made_with = {key: manifest[key] for key in plan}
        check_fingerprint(output, made_with, plan, "give another --output, or --overwrite true")
        logger.info("%s: already built; verifying its checksums", output)
        finished = manifest_file.stat().st_mtime_ns
        newer = ", ".join(path for path, time in modified.items() if time > finished)
        if newer:
            logger.warning(
                "%s: modified after the corpus was built. If the text changed, add --overwrite true", newer
            )
        shutil.rmtree(output / WORK, ignore_errors=True)  # left if the build was killed at its end
        Corpus(output, verify=True)  # raises an error if a file is corrupt
        return manifest

    # A model also has a file of this name, but without "pieces". Search the file instead of parsing it,
    # because a corpus with a corrupt manifest is replaced as well.
    is_corpus = manifest_file.is_file() and b'"pieces"' in manifest_file.read_bytes()
    is_free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not (is_corpus or is_free or (output / WORK).exists()):
        raise UserError(
            f"{output}: expected an empty directory, a corpus or an unfinished build. Choose another --output"
        )
    check_sources(streams, options)
    workers = (
        RayWorkers(options.workers, options.ray_address)
        if options.engine == "ray"
        else LocalWorkers(options.workers)
    )
    with lock_output(output / WORK), workers:
        manifest_file.unlink(missing_ok=True)  # without it, no command treats the rest as a corpus
        corpus_build = CorpusBuild(options, plan, streams, workers, tokenizer)
        corpus_build.encode()
        changed = ", ".join(dict(get_modification_times(streams).items() - modified.items()))
        if changed:
            raise UserError(f"{changed}: changed while being read. Run the same command again")
        corpus_build.find_duplicates()
        counts = corpus_build.assign_splits()
        return corpus_build.finish(corpus_build.write_shards(counts))


def main() -> None:
    """Build the corpus of the command line, and log a summary and sample pairs."""
    setup_console()
    options = parse_options(BuildOptions, merge_source_options(sys.argv[1:]), __name__)
    table = format_summary(build_corpus(options))
    corpus = Corpus(expand_path(options.output))
    for line in table + format_pair_report(corpus, open_corpus_tokenizer(corpus.path)):
        logger.info("%s", line)
