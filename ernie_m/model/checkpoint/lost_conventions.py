"""What of a model's reading the form of another library cannot say: how that library will read otherwise."""

from collections.abc import Iterator

from ernie_m.model.checkpoint.tensor_names import (
    HUGGING_FACE,
    OFFICIAL,
    OURS,
    PADDLENLP,
    STATIC,
    XLM_R,
)
from ernie_m.model.conventions import ERNIE_M_RULES, NO_RULES, Reading
from ernie_m.model.tasks import QUESTION_ANSWERING, TOKEN_CLASSIFICATION

# The format -> the text rules of its library's tokenizer.
_RULES = {OFFICIAL: ERNIE_M_RULES, PADDLENLP: "paddlenlp", HUGGING_FACE: "transformers"}
# The text rules -> what they do, for a sentence.
_RULES_IN_WORDS = {
    ERNIE_M_RULES: "the official ones of ERNIE-M",
    NO_RULES: "those of sentencepiece alone, as in XLM-R",
    "paddlenlp": "those of PaddleNLP's ErnieMTokenizer",
    "transformers": "those of the ErnieMTokenizer of transformers",
}


def differences(
    format_name: str, reading: Reading, faults: list[str], task: str | None, cuts_digit_comma: bool
) -> list[str]:
    """What will be read otherwise after a conversion, each in a sentence; mostly nothing.

    If a model with ERNIE-M's own text rules gets the form of PaddleNLP or transformers, the other rules of
    their tokenizers are no difference: ERNIE-M itself is published there in this way. `note` tells them.

    Args:
        format_name: the format of the new folder.
        faults: what `Checkpoint.reading_faults` says of the source.
        task: what the head is for; None: there is none.
        cuts_digit_comma: whether rule 5 of `ernie_m.tokenizer.tokenizer` changes any piece of the vocabulary.
    """
    left_out = [f"{fault} is left out" for fault in faults]
    return [*left_out, *_of_form(format_name, reading, task, cuts_digit_comma)]


def note(format_name: str, reading: Reading) -> str | None:
    """What the library's tokenizer does otherwise, although it is not refused; None: nothing."""
    if format_name in (PADDLENLP, HUGGING_FACE) and reading.text_rules == ERNIE_M_RULES:
        return "the ErnieMTokenizer of these libraries gives other ids for many texts"
    return None


def _of_form(format_name: str, reading: Reading, task: str | None, cuts_digit_comma: bool) -> Iterator[str]:
    """What a format cannot say of a reading; the arguments are those of `differences`."""
    if format_name == OURS:
        return
    rules = reading.text_rules
    if format_name in (XLM_R, STATIC):
        if rules == ERNIE_M_RULES and cuts_digit_comma:
            yield "pieces such as '12,' are not cut before the comma, as ERNIE-M's rules ask"
        elif rules not in (ERNIE_M_RULES, NO_RULES):
            yield f"its text rules are {_RULES_IN_WORDS[rules]}; the new ones are {_RULES_IN_WORDS[NO_RULES]}"
    elif rules != _RULES[format_name] and note(format_name, reading) is None:  # what `note` says is enough
        new_rules = _RULES_IN_WORDS[_RULES[format_name]]
        yield f"its text rules are {_RULES_IN_WORDS[rules]}; the new ones are {new_rules}"
    if reading.added_tokens and format_name not in (XLM_R, STATIC):
        yield f"its added tokens ({', '.join(reading.added_tokens)}) are cut into pieces"
    if task == QUESTION_ANSWERING:
        new_separators = {OFFICIAL: 1, XLM_R: reading.separators}.get(format_name, 2)
        if reading.separators != new_separators:
            yield f"{new_separators} [SEP] stand before a context, and in training {reading.separators}"
        if reading.split_han:
            yield "Han characters of questions and contexts are no tokens of their own; in training they were"
    pieces = "leading" if reading.official_compat else reading.label_pieces
    if task == TOKEN_CLASSIFICATION and pieces != "leading":
        trained = "each piece of a word" if pieces == "all" else "its first piece that is no lone '▁'"
        yield f"a pipeline takes a word's tag from its first piece, and in training it was of {trained}"
