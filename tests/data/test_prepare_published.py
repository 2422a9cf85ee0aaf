"""Folders as public data sets unpack: the command of docs/data.md reads them, or its error names the way.

The forms are those of the files, or of the code that reads them, in facebookresearch/LASER,
MicrosoftTranslator/NTREX, hipe-eval/HIPE-2022-data, google-research/xtreme, huggingface/datasets (XNLI,
WikiANN), google-research-datasets/paws, UKPLab/sentence-transformers (TED2020), openlanguagedata/flores, and
readers of MultiATIS++.
"""

import json
import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest

from ernie_m import __main__ as cli
from tests import toys
from tests.launching import call_main, check_error

EN = [f"Boat {number} is waiting in the old harbor" for number in range(30, 0, -1)]
DE = [f"Schiff {number} wartet im alten Hafen" for number in range(30, 0, -1)]
RELATIONS = ["neutral", "entailment", "contradiction"] * 10
XNLI = "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
XNLI = f"{XNLI}sentence1 sentence2 promptID pairID genre".replace(" ", "\t")
HIPE = (
    "TOKEN NE-COARSE-LIT NE-COARSE-METO NE-FINE-LIT NE-FINE-METO NE-FINE-COMP NE-NESTED NEL-LIT NEL-METO MISC"
)


def tag(sentence: str, form: str) -> list[str]:
    """The lines of a sentence, of which the last word is a place; `form`: of a line, from word and tag."""
    *words, last = sentence.split()
    return [*(form.format(word, "O") for word in words), form.format(last, "B-LOC"), ""]


def tag_all(sentences: list[str], form: str = "{}\t{}") -> list[str]:
    return [line for sentence in sentences for line in tag(sentence, form)]


def cut_tabs(*columns: list[str]) -> list[str]:
    return ["\t".join(cells) for cells in zip(*columns)]


def make_mlqa(language: str) -> list[str]:
    qas = [{"id": language, "question": "Where?", "answers": [{"text": "Boat", "answer_start": 0}]}]
    return [json.dumps({"data": [{"title": "t", "paragraphs": [{"context": EN[0], "qas": qas}]}]})]


LASER = {"tatoeba.deu-eng.deu": DE, "tatoeba.deu-eng.eng": EN, "README.md": ["# Tatoeba"]}
NTREX = {"newstest2019-src.eng.txt": EN, "newstest2019-ref.deu.txt": DE, "newstest2019-ref.zho-CN.txt": DE}
HIPE_TABLE = [
    HIPE.replace(" ", "\t"),
    "# hipe2022:document_id = a",
    "# hipe2022:language = de",
    *tag_all(DE, "{}\t{}\tO\t_\t_\t_\t_\t_\t_\tNoSpaceAfter"),
]
TATOEBA = {"de-en.de": DE, "de-en.en": sorted(EN)}  # as XTREME's script sorts them
XNLI_ROWS = cut_tabs(["de"] * 30, RELATIONS, *[[""] * 30] * 4, DE, DE[::-1], *[["1"] * 30] * 2, ["news"] * 30)
PAIRS = "id\tsentence1\tsentence2\tlabel"
PAWS = [PAIRS, *cut_tabs(list(map(str, range(30))), DE, DE[::-1], ["0", "1"] * 15)]
TED = ["en\tde\tit", *cut_tabs(EN, ["", *DE[1:]], EN)]
FLORES = {"dev/dev.eng_Latn": EN, "dev/dev.deu_Latn": DE, "devtest/devtest.eng_Latn": EN}
ATIS = [
    "id\tutterance\tslot_labels\tintent",
    *cut_tabs(list("123"), EN[:3], ["O O O O O O O B-place"] * 3, ["a"] * 3),
]
FIT = "fit {} --model {{encode}} --output out --task token-classification --columns "
NTREX_PAIRS = "en-de<=newstest2019-src.eng.txt,newstest2019-ref.deu.txt"
FLORES_PAIRS = "--parallel en-de<=dev/dev.eng_Latn,dev/dev.deu_Latn --piece_model_path {encode}/piece.model"
PREPARE = "prepare {} . --output out"
FORMS = [  # form, its files, the command, and what the error names; "": the files are read
    ("Tatoeba", LASER, PREPARE.format("pairs"), ""),
    ("Tatoeba, XTREME", TATOEBA, PREPARE.format("pairs"), "de-en.en: ; LASER; --skip_text_checks"),
    ("Tatoeba, XTREME", TATOEBA, "train en-de<=de-en.en,de-en.de --output out", "de-en.en: ; LASER"),
    ("Tatoeba, kept", TATOEBA, PREPARE.format("pairs") + " --skip_text_checks true", ""),
    ("NTREX", NTREX, PREPARE.format("pairs"), ".: ; en-de<="),
    ("NTREX", NTREX, "run_retrieval --pairs . --init_pretraining_params {encode}", ".: ; de-en.de"),
    ("NTREX", NTREX, f"prepare pairs {NTREX_PAIRS} --output out", "a name without"),
    ("HIPE", {"a.tsv": HIPE_TABLE}, FIT.format("a.tsv") + "TOKEN,NE-COARSE-LIT", ""),
    ("HIPE", {"x-train-de.tsv": HIPE_TABLE}, PREPARE.format("conll"), ".: ; ernie-m fit"),
    ("HIPE", {"x-train-de.tsv": HIPE_TABLE}, "fit . --model {encode} --output out", ".: ; docs/data.md"),
    ("XNLI", {"xnli.dev.tsv": [XNLI, *XNLI_ROWS]}, PREPARE.format("xnli"), ""),
    ("XNLI, XTREME", {"dev-de.tsv": cut_tabs(DE, EN, RELATIONS)}, PREPARE.format("xnli"), ""),
    ("XNLI, XTREME", {"test-de.tsv": cut_tabs(DE, EN)}, PREPARE.format("xnli"), "test-de.tsv; release"),
    ("TED2020, no languages", {"x.tsv": TED}, "prepare pairs x.tsv --output out", "x.tsv, line 1; --columns"),
    ("MLQA", {"dev-context-de-question-de.json": make_mlqa("de")}, PREPARE.format("mlqa"), ""),
    ("MLQA, another name", {"other.json": make_mlqa("de")}, PREPARE.format("mlqa"), "ernie-m fit"),
    ("PAWS-X", {"de/translated_train.tsv": PAWS, "de/dev_2k.tsv": PAWS}, PREPARE.format("pawsx"), ""),
    ("WikiANN", {"de/train": tag_all(DE, "de:{}\t{}")}, PREPARE.format("panx"), ""),
    ("PAN-X, XTREME", {"dev-de.tsv": tag_all(DE)}, PREPARE.format("panx"), ""),
    ("PAN-X, XTREME", {"test-de.tsv": tag_all(DE, "{}")}, PREPARE.format("panx"), "test-de.tsv; XTREME"),
    ("TED2020", {"ted.tsv": TED}, "prepare pairs en-de<=ted.tsv --output out", "ted.tsv, line 2: 'de'"),
    ("TED2020", {"ted.tsv": TED}, "prepare pairs en-de<=ted.tsv --output out --on_error skip", ""),
    ("FLORES+", FLORES, PREPARE.format("pairs"), ".: ; en-de<="),
    ("FLORES+", FLORES, f"build_corpus {FLORES_PAIRS} --output out", ""),
    ("MultiATIS++", {"a.tsv": ATIS}, FIT.format("a.tsv") + "utterance,slot_labels", "a.tsv, ; JSON lines"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return toys.make_models(tmp_path_factory.mktemp("forms")) / "encode"


@pytest.mark.parametrize(("form", "files", "command", "names"), FORMS, ids=[row[0] for row in FORMS])
def test_a_published_folder_is_read_or_its_error_names_the_way(
    in_tmp_path, encoder, capsys, form, files, command, names
):
    for name, lines in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with nullcontext() if names == "" else pytest.raises(SystemExit, match="2"):
        call_main(cli, shlex.split(command.format(encode=encoder)))
    assert any(Path("out").rglob("*.*")) == (names == "")
    check_error(capsys.readouterr().err, *filter(None, names.split("; ")))
