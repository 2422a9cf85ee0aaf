"""Turn the public Tatoeba test sets into the layout of run_retrieval.py, ./data/tatoeba.

    python scripts/data/prepare_tatoeba.py LASER/data/tatoeba/v1

The source is a folder of tatoeba.<lan>-eng.<lan> and tatoeba.<lan>-eng.eng. Those of XTREME's 36 languages
that are there become <language>-en.<language> and <language>-en.en, line by line translations of each
other, and lang_map.json lists them. (XTREME's own files have a sorted English side and cannot be scored
without labels.)
"""

import argparse
import sys
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reader.bitext import TATOEBA, read_bitexts
from scripts.data.sources import write_numbers
from utils.errors import UserError, run
from utils.files import atomic_file


def main(arguments: list[str] | None = None) -> None:
    """Prepare the folder of the command line, and print what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", type=Path, help="folder of tatoeba.<lan>-eng.* files")
    parser.add_argument("--output", type=Path, default=Path("data/tatoeba"), help="(data/tatoeba)")
    options = parser.parse_args(arguments)

    if not any(options.source.glob("tatoeba.*-eng.eng")):
        raise UserError(f"{options.source}: no tatoeba.<lan>-eng.eng there; name LASER/data/tatoeba/v1")
    bitexts = read_bitexts(options.source)
    for language, sentences, translations in bitexts:
        for side, lines in ((language, sentences), ("en", translations)):
            with atomic_file(options.output / f"{language}-en.{side}", "w", newline="\n") as file:
                file.writelines(f"{line.strip()}\n" for line in lines)
        print(f"{language}  {len(sentences):>5,} pairs")
    languages = [bitext.language for bitext in bitexts]
    write_numbers(options.output / "lang_map.json", languages)
    if absent := sorted(set(TATOEBA) - set(languages)):
        print(f"not there: {' '.join(absent)}")
    print(f"written to {options.output}")


if __name__ == "__main__":
    run(main)
