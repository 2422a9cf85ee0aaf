"""What is known of the words in tables: names of columns, codes of languages, verdicts, splits."""

import re

# What the cells of a column are. A side of a pair is never of a language or of one value.
EMPTY = "nothing"
NUMBERS = "numbers"
VERDICTS = "verdicts"
ONE = "one value"
SPLIT = "splits"
LANGUAGE = "languages"
ID = "ids"
ALIKE = "cells that begin alike"
CLASSES = "classes"
TEXTS = "texts"

# What a column is for, by its name; also LANGUAGE, SPLIT, ID, and NUMBERS, which judge a pair.
TEXT = "text"
SECOND = "second text"
LABEL = "label"
QUERY = "query"
POSITIVE = "positive"
NEGATIVE = "negative"
IN_LANGUAGE = "text in a language"
NOT_READ = "not read"

# The names are in small letters, with _ for all that is neither letter nor digit.
_NAMES = {
    TEXT: "text texts text_a texta sentence sentences sentence1 sentence_1 sentence_a sent sent1 sent_1 "
    "premise text1 text_1 s1 question1 question_1 comment comments comment_text review reviews "
    "review_text review_body tweet tweets tweet_text content body message msg utt utterance sms "
    "post statement description full_text raw_text clean_text data document string input inputs "
    "title_text first text_original",
    SECOND: "text_b textb sentence2 sentence_2 sentence_b sent2 sent_2 hypothesis hypo text2 text_2 s2 "
    "question2 question_2 second",
    LABEL: "label labels gold_label gold target class classes category categories sentiment intent "
    "emotion topic stars rating polarity is_duplicate tag tags annotation choice sentiment_label "
    "label_text score_label classification gold_labels majority_label toxicity language_label "
    "feeling kategorie etiqueta",
    QUERY: "query anchor question source src source_sentence source_text src_text source_sent src_sent "
    "original input quelle original_text",
    POSITIVE: "positive pos answer target tgt trg translation target_sentence target_text tgt_text "
    "target_sent tgt_sent output translated translated_text response reply passage reference ref "
    "ziel trans",
    NEGATIVE: "negative neg hard_negative negatives",
    SPLIT: "split partition fold set subset dataset_split",
    LANGUAGE: "language lang locale language_code lang_code lang1 lang2 source_lang target_lang src_lang "
    "tgt_lang source_language target_language iso lid",
    ID: "group group_id doc_id document_id promptid pairid sentence_id text_id id ids pair_id "
    "prompt_id idx index nr number line uid uuid guid qid qid1 qid2 query_id source_id target_id "
    "row row_id index_id unnamed_0 annotation_id annotator worker_id user user_id "
    "username author tweet_id id_str sid example_id image_id item_id comment_id review_id "
    "order_id customer_id product_id",
    NUMBERS: "score scores margin similarity sim cosine laser bleu relatedness relatedness_score "
    "confidence probability judgment judgement relevance is_paraphrase paraphrase is_translation "
    "quality",
    NOT_READ: "licence license attribution url link domain date datetime time timestamp created_at "
    "updated_at lead_time year month day filename file genre comment_count likes retweets country "
    "city name age gender source_url target_url notes note version channel device platform email "
    "phone price quantity",
}
_PURPOSES = {name: purpose for purpose, names in _NAMES.items() for name in names.split()}
# Rows with one value in a column of such a name belong together. XNLI has several pairs of one prompt.
ID_NAMES = tuple(_NAMES[ID].split()[:9])
_LANGUAGE_NAMES = (
    "english german french spanish italian portuguese dutch russian chinese japanese korean arabic "
    "turkish hindi polish swedish danish finnish norwegian greek hebrew thai vietnamese czech hungarian "
    "romanian bulgarian ukrainian indonesian swahili urdu persian deutsch englisch francais français "
    "español espanol italiano português nederlands svenska polski türkçe русский 中文 英文 日本語 "
    "한국어 العربية हिन्दी"
)
# ISO 639-1, and the codes of three letters that are common in public data.
_CODES = (
    "aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv "
    "dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie "
    "ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv "
    "mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn nr nv ny oc oj om or os pa pi pl ps pt qu rm rn "
    "ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt "
    "tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu afr ara bul ben deu ger ell eng spa est eus pes "
    "fas fin fra fre heb hin hun ind ita jpn jav kat kaz kor mal mar nld dut por rus swh swa tam tel "
    "tha tgl tur urd vie cmn zho chi pol ces swe dan nob ukr ron slk hrv srp slv lit lav cat glg hau "
    "ibo yor amh orm pcm kin som xho zul"
)
_SPLITS = "train training dev development val valid validation eval test testing"
_VERDICTS = (
    "0 1 0.0 1.0 true false yes no y n ja nein nee j wahr falsch oui non vrai faux sí evet hayır "
    "entailment neutral contradiction contradictory not_entailment "
    "entailed equivalent not_equivalent duplicate not_duplicate paraphrase not_paraphrase relevant "
    "irrelevant not_relevant same different related unrelated good bad correct incorrect match no_match "
    "accept reject up down -1 partial partially_relevant wrong right ok"
)
_LANGUAGES, CODES, SPLITS, VERDICT_WORDS = (
    {*words.split()} for words in (_LANGUAGE_NAMES, _CODES, _SPLITS, _VERDICTS)
)


def purpose_of(name: str) -> str | None:
    """What a column of this name is for; None: nothing that is known."""
    word = re.sub(r"[\W_]+", "_", name.strip().casefold()).strip("_")
    without_number = re.sub(r"_?[123]$|(?<=negative)_?\d+$", "", word)  # sentence1, negative_12
    known = _PURPOSES.get(word) or _PURPOSES.get(without_number)
    if known:
        return known
    words = word.split("_")
    # "German text" names a language; a longer cell, or one that ends as a sentence does, is a text.
    is_named = len(words) <= 4 and not _LANGUAGES.isdisjoint(words) and name.strip()[-1] not in ".!?"
    return IN_LANGUAGE if is_named or is_code(name.strip()) else None


def is_code(word: str) -> bool:
    """Whether a word is the code of a language, as in de, pt-BR, zho_Hans."""
    match = re.fullmatch(r"([a-zA-Z]{2,3})([-_]([A-Z]{2}|[A-Z][a-z]{3}|[a-z]{2}))?", word)
    return match is not None and match[1].lower() in CODES
