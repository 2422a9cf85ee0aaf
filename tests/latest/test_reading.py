"""What we write is read by the newest transformers and sentence-transformers as here, and the reverse."""

import json
import re
import shutil
import unicodedata

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer, util

import ernie_m
from ernie_m.commands import convert
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.write_tokenizer import write_xlm_r
from tests.foreign import make_xlm_r
from tests.helpers.checkpoints import change_config, stored
from tests.helpers.files import write_file
from tests.launching import ROOT, check_error, error_of
from tests.toys import CONFIG, make_ours, train_piece_model

# Typographic quotes, full width, decomposed letters, zero width, digits before a comma, what NFKC expands.
TEXTS = [
    "“Curly” ‘quotes’ — and a dash, 12, 345,678 in １２，３４５ ＡＢＣ",
    "한국어 ガギグ Việt Nam ½",
    unicodedata.normalize("NFD", "한국어 ガギグ Việt Nam ½ ﷺ"),
    "zero\u200bwidth soft\u00adhyphen \ufeffmark \u2028line\u2029 tab\there",
    "，，《中国》2008年8月8日、北京。",
    "   spaces   at the ends   ",
    "a ▁ b ▁▁ c▁",
    "plain words",
]
PROMPTS_OF_E5 = {"query": "plain: ", "passage": "words: "}


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("piece_model") / "piece.model"
    return train_piece_model(path, TEXTS * 20, vocab_size=260, normalization_rule_name="nmt_nfkc")


def make_sentence_transformer(folder, piece_model, pooling, normalize, prompts=None, default=None):
    """An XLM-R as sentence-transformers saves it."""
    make_xlm_r(folder / "plain", piece_model, max_position_embeddings=90)
    write_xlm_r(folder / "plain", Tokenizer(None, piece_model, "none"), 88)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    files = {
        "modules.json": modules if normalize else modules[:2],
        "1_Pooling/config.json": {
            "word_embedding_dimension": 16,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
        },
    }
    (folder / "plain/2_Normalize").mkdir()
    if prompts:
        contents = {"prompts": prompts, "default_prompt_name": default}
        files["config_sentence_transformers.json"] = contents
    for name, contents in files.items():
        path = folder / "plain" / name
        write_file(path, json.dumps(contents))
    # Saved by the library itself, in the format of its newest version.
    SentenceTransformer(str(folder / "plain"), device="cpu").save(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_equal_sentence_transformers(tmp_path, piece_model, pooling, normalize):
    """From its folder, after a conversion to our form, and as it reads what we write of that."""
    saved = make_sentence_transformer(tmp_path, piece_model, pooling, normalize, PROMPTS_OF_E5, "query")
    reference = SentenceTransformer(str(saved), device="cpu")
    convert.main([str(saved), str(tmp_path / "native"), "--piece_model_path", str(piece_model)])
    convert.main([str(tmp_path / "native"), str(tmp_path / "back"), "--to", "xlm-roberta"])
    back = SentenceTransformer(str(tmp_path / "back"), device="cpu")
    assert back.max_seq_length == reference.max_seq_length == 88
    assert back.default_prompt_name == "query"
    for options in ({}, {"prompt_name": "passage"}, {"prompt": ""}):
        expected = reference.encode(TEXTS, **options)
        np.testing.assert_allclose(back.encode(TEXTS, **options), expected, atol=1e-5)
        name = "" if "prompt" in options else options.get("prompt_name")
        for folder in (saved, tmp_path / "native", tmp_path / "back"):
            for given in (None, pooling):
                embeddings = ernie_m.load(folder).encode(TEXTS, given, prompt=name)
                np.testing.assert_allclose(embeddings, expected, atol=1e-5, err_msg=str(folder))


# ERNIE-M's rule 5, for digits before a comma, does not exist in the library's format.
WITHOUT_RULE_5 = [text.replace(",", " , ") for text in TEXTS]


@pytest.fixture(params=["XLM-R", "native", "native, as ERNIE-M reads"])
def ours_in_its_form(request, tmp_path):
    """A model in the library's format, of which config.json has our key "pipeline", or not."""
    texts = WITHOUT_RULE_5 * 20
    piece_model = train_piece_model(
        tmp_path / "own.model", texts, vocab_size=250, normalization_rule_name="nmt_nfkc"
    )
    if request.param == "XLM-R":
        return make_sentence_transformer(tmp_path, piece_model, "cls", True, PROMPTS_OF_E5)
    pipeline_config = {
        "pooling": "mean",
        "layer": 2,
        "normalize": True,
        "max_seq_len": 60,
        "prompts": {"query": "a "},
        "text_rules": "none" if request.param == "ours" else "ernie-m",
    }
    config = {**CONFIG, "max_position_embeddings": 90}
    make_ours(tmp_path / "native", config=config, piece_model=piece_model)
    change_config(tmp_path / "native", pipeline=stored(**pipeline_config))
    convert.main([str(tmp_path / "native"), str(tmp_path / "there"), "--to", "xlm-roberta"])
    return tmp_path / "there"


def test_reads_folders_that_the_library_saved_again(tmp_path, ours_in_its_form):
    """In the format of the newest version, whose keys may differ from those of this project."""
    reference = SentenceTransformer(str(ours_in_its_form), device="cpu")
    reference.save(str(tmp_path / "again"))
    model = ernie_m.load(tmp_path / "again")
    assert model.loaded.pipeline_config == ernie_m.load(ours_in_its_form).loaded.pipeline_config
    np.testing.assert_allclose(model.encode(WITHOUT_RULE_5), reference.encode(WITHOUT_RULE_5), atol=1e-5)
    queries = model.encode(WITHOUT_RULE_5, prompt="query")
    np.testing.assert_allclose(queries, reference.encode(WITHOUT_RULE_5, prompt_name="query"), atol=1e-5)


def test_a_length_that_was_changed_in_the_library(tmp_path, ours_in_its_form):
    """If our key of config.json says another, both files are named; without the key the new one counts."""
    reference = SentenceTransformer(str(ours_in_its_form), device="cpu")
    reference.max_seq_length = 12
    reference.save(str(tmp_path / "again"))
    path = tmp_path / "again/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if "pipeline" in config:
        check_error(
            error_of(ernie_m.load, tmp_path / "again"),
            f"{tmp_path}/again/tokenizer_config.json",
            start=f"{path}: 'pipeline' ",
        )
        del config["pipeline"]
        path.write_text(json.dumps(config), encoding="utf-8")
    embeddings = ernie_m.load(tmp_path / "again").encode(WITHOUT_RULE_5)
    np.testing.assert_allclose(embeddings, reference.encode(WITHOUT_RULE_5), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncate_dim": 8}, "config_sentence_transformers.json: truncate_dim 8"),
        ({"similarity_fn_name": "dot"}, "config_sentence_transformers.json: similarity_fn_name dot"),
        (
            {"similarity_fn_name": "euclidean"},
            "config_sentence_transformers.json: similarity_fn_name euclidean",
        ),
    ],
)
def test_rejects_options_that_are_not_supported(tmp_path, piece_model, options, said):
    saved = make_sentence_transformer(tmp_path, piece_model, "mean", False)
    SentenceTransformer(str(saved), device="cpu", **options).save(str(tmp_path / "again"))
    assert error_of(ernie_m.load(tmp_path / "again").encode, TEXTS).startswith(f"{tmp_path}/again/{said}")


def test_another_tokenizer_in_a_folder_that_it_saves(tmp_path, piece_model):
    """A WordPiece, next to which somebody put the subwords of XLM-R."""
    saved = make_sentence_transformer(tmp_path, piece_model, "mean", True)
    write_file(tmp_path / "words/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplain\nword\n##s\n")
    transformers.BertTokenizer.from_pretrained(tmp_path / "words").save_pretrained(saved)
    shutil.copy(piece_model, saved / "sentencepiece.bpe.model")
    assert error_of(ernie_m.load, saved).startswith(f"{saved}/tokenizer.json: ")


def test_queries_and_documents(tmp_path, piece_model):
    saved = make_sentence_transformer(tmp_path, piece_model, "mean", True, PROMPTS_OF_E5)
    reference = SentenceTransformer(str(saved), device="cpu")
    # Its own "document" is an empty prompt, after which it does not look for "passage".
    passages = reference.encode(TEXTS, prompt="words: ")
    expected = (reference.encode_query([TEXTS[-1]]) @ passages.T)[0]
    assert abs(reference.encode_document(TEXTS) - passages).max() > 1e-3
    hits = ernie_m.load(saved).search(TEXTS[-1], TEXTS, top_k=len(TEXTS))
    found = {hit["text"]: hit["score"] for hit in hits}
    np.testing.assert_allclose([found[text] for text in TEXTS], expected, atol=1e-5)
    convert.main([str(saved), str(tmp_path / "native"), "--piece_model_path", str(piece_model)])
    convert.main([str(tmp_path / "native"), str(tmp_path / "back"), "--to", "xlm-roberta"])
    back = SentenceTransformer(str(tmp_path / "back"), device="cpu")
    np.testing.assert_allclose(back.encode_document(TEXTS), passages, atol=1e-5)


@pytest.mark.parametrize("text_rules", ["none", "ernie-m"])
def test_tokenizer_json_gives_our_ids(tmp_path, text_rules):
    """Also of decomposed text; what ERNIE-M's rule 5 cuts is in no subword of this vocabulary."""
    texts = [text.replace(",", " , ") for text in TEXTS]
    piece_model = train_piece_model(
        tmp_path / "piece.model", texts * 20, vocab_size=250, normalization_rule_name="nmt_nfkc"
    )
    tokenizer = Tokenizer(None, piece_model, text_rules)
    assert not tokenizer.digit_comma
    write_xlm_r(tmp_path, tokenizer, 88)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [reference(text)["input_ids"] for text in texts] == [
        tokenizer.build_inputs(text) for text in texts
    ]
    for name in ("cls", "sep", "pad", "mask"):
        assert getattr(reference, f"{name}_token_id") == getattr(tokenizer, f"{name}_id")
    assert reference("a <mask> b")["input_ids"].count(tokenizer.mask_id) == 1


def test_a_question_with_one_separator(tmp_path, piece_model):
    tokenizer = Tokenizer(None, piece_model, "none")
    write_xlm_r(tmp_path, tokenizer, 88, 1)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [*tokenizer.build_inputs("plain"), *tokenizer.encode("words"), tokenizer.sep_id]
    assert reference("plain", "words")["input_ids"] == ids


def test_added_tokens(tmp_path, piece_model):
    plain = Tokenizer(None, piece_model, "none")
    added = {"<e1>": plain.vocab_size, "</e1>": plain.vocab_size + 1}
    tokenizer = Tokenizer(None, piece_model, "none", added)
    write_xlm_r(tmp_path, tokenizer, 88)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("plain <e1>words</e1> plain", "<e1>", "x<e1> </e1>"):
        assert reference(text)["input_ids"] == tokenizer.build_inputs(text), text
    gap = Tokenizer(None, piece_model, "none", {"<e1>": plain.vocab_size + 5})
    assert str(piece_model) in error_of(write_xlm_r, tmp_path, gap, 88)


@pytest.mark.parametrize(
    ("options", "is_written"),
    [
        ({"add_dummy_prefix": False}, True),
        ({"byte_fallback": True, "vocab_size": 500}, True),
        ({"remove_extra_whitespaces": False}, False),
        ({"treat_whitespace_as_suffix": True}, False),
    ],
)
def test_sentencepiece_model_settings(tmp_path, options, is_written):
    options = {"vocab_size": 240, "normalization_rule_name": "nmt_nfkc", **options}
    piece_model = train_piece_model(tmp_path / "piece.model", TEXTS[:4] * 20, **options)
    tokenizer = Tokenizer(None, piece_model, "none")
    if not is_written:
        check_error(
            error_of(write_xlm_r, tmp_path, tokenizer, 88), list(options)[-1], start=f"{piece_model}: "
        )
        return
    write_xlm_r(tmp_path, tokenizer, 88)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "ᚠ unseen ☃ letters"):
        assert reference(text)["input_ids"] == tokenizer.build_inputs(text), text


def test_run_sentence_transformers_table_from_docs(piece_model, tmp_path, in_tmp_path):
    """The assignments of both columns, in the folder of one model: equal embeddings and hits."""
    make_sentence_transformer(tmp_path, piece_model, "mean", normalize=False, prompts=PROMPTS_OF_E5)
    # As E5 is on the hub: what the library saves has an empty prompt "document".
    (tmp_path / "model.folder").symlink_to(tmp_path / "plain")
    page = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+ = .*)` \| `(\w+ = .*)` \|$", page, re.MULTILINE)
    corpus = ["It is warm today.", "La gare est au centre.", "The cat sleeps."]
    given = {"queries": ["How warm is it?", "Wo ist der Bahnhof?"], "corpus": corpus}
    theirs: dict = {**given, "SentenceTransformer": SentenceTransformer, "util": util}
    ours: dict = {**given, "ernie_m": ernie_m}
    for names, lines in zip((theirs, ours), zip(*rows), strict=True):
        exec(compile("\n".join(lines), "docs/quickstart.md", "exec"), names)
    for name in ("query_vectors", "vectors"):
        np.testing.assert_allclose(ours[name], np.asarray(theirs[name]), atol=1e-5)
    for own_hits, hits in zip(ours["hits"], theirs["hits"], strict=True):
        assert [hit["text"] for hit in own_hits] == [corpus[hit["corpus_id"]] for hit in hits]
        np.testing.assert_allclose(
            [hit["score"] for hit in own_hits], [hit["score"] for hit in hits], atol=1e-5
        )
