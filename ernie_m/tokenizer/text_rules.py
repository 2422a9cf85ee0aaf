"""The rules that turn a text into sentencepiece's, by name; `ernie_m.tokenizer.tokenizer` applies them."""

ERNIE_M = "ernie-m"  # the official rules
NONE = "none"
TEXT_RULES = (ERNIE_M, NONE, "paddlenlp", "transformers")
LIBRARY_RULES = TEXT_RULES[2:]
QUOTES = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}  # rule 1 of `ernie_m.tokenizer.tokenizer`
