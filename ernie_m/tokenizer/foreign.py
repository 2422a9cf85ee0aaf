"""The tokenizers of other libraries: what a folder says of its texts, their pieces, and how they cut them.

`ernie_m.tokenizer.tokenizer` takes from here all that is not ERNIE-M's own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.tokenizer.foreign_files import TokenizerFiles
from ernie_m.tokenizer.paddlenlp_rules import cut_pieces
from ernie_m.tokenizer.text_rules import ERNIE_M, LIBRARY_RULES, NONE, TEXT_RULES
from ernie_m.tokenizer.tokenizer_json import BPE_MODEL, TOKENIZER_JSON, no_piece_model, piece_model_of_json
from ernie_m.tokenizer.vocabulary import DICT
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import read_object

__all__ = [
    "BPE_MODEL",
    "TOKENIZER_JSON",
    "TextsOfFolder",
    "cut_pieces",
    "no_piece_model",
    "piece_model_of_json",
    "texts_of_folder",
]

_OLD_CONFIG = "model_config.json"  # of old PaddleNLP
_FINE_TUNED = ("ErnieMFor", "UIE")  # the beginnings of the names of ErnieM's classes with the head of a task


class TextsOfFolder(NamedTuple):
    """How the texts of a folder become ids.

    Attributes:
        text_rules: one of `TEXT_RULES`.
        added_tokens: token -> id, of tokens that are not in the piece model.
        has_own_vocab: whether vocab.txt or dict.txt gives the ids; XLM-R's are derived from the pieces.
    """

    text_rules: str
    added_tokens: Mapping[str, int]
    has_own_vocab: bool


def texts_of_folder(folder: Path) -> TextsOfFolder:
    """What a folder says of its texts; a folder that says nothing has the official rules.

    What counts first: the manifest of a corpus, our key "reading" of config.json, then the names of XLM-R's
    tokenizer, and dict.txt without config.json, which is fairseq's XLM-R. An ErnieM that a library has
    fine-tuned has the rules of that library.

    Raises:
        UserError: a file is damaged, the tokenizer is of another kind, or nothing says which library's rules
            an ErnieM has.
    """
    manifest_path = folder / MANIFEST
    vocabulary = _read(manifest_path).get("vocabulary")  # of a corpus; a model's manifest has no such key
    if vocabulary is not None:
        return _checked(manifest_path, vocabulary, has_own_vocab=True)
    config_path = folder / "config.json"
    if not config_path.is_file() and (folder / _OLD_CONFIG).is_file():
        config_path = folder / _OLD_CONFIG
    config = _read(config_path)
    files = TokenizerFiles(folder)
    is_fairseq = not config and (folder / DICT).is_file()
    is_xlm_r = config.get("model_type") in ("xlm-roberta", "bert") or files.is_xlm_r or is_fairseq
    reading = config.get("reading")
    if reading is not None:
        return _checked(config_path, reading, has_own_vocab=not is_xlm_r)
    files.check_kind(config, config_path)
    if is_xlm_r:
        added_tokens, _ = files.added_tokens()
        rules = ERNIE_M if files.has_official_rules else NONE
        return TextsOfFolder(rules, added_tokens, has_own_vocab=is_fairseq)
    return TextsOfFolder(_rules_of_ernie_m(config, config_path), {}, has_own_vocab=True)


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    return read_object(path) if path.is_file() else {}


def _checked(path: Path, settings: Any, has_own_vocab: bool) -> TextsOfFolder:
    """What a file of this project says, which someone may have changed.

    Args:
        settings: an object with the keys "text_rules" and "added_tokens"; each may be absent.

    Raises:
        UserError: it is no object, there are no such rules, or the added tokens have no ids.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{path}: {shown(settings)} does not say how texts were read; put back a good copy")
    rules = settings.get("text_rules", ERNIE_M)
    added_tokens = settings.get("added_tokens", {})
    if rules not in TEXT_RULES:
        raise UserError(f"{path}: 'text_rules' is {shown(rules)}; it is one of {', '.join(TEXT_RULES)}")
    if not isinstance(added_tokens, dict) or not all(type(id_) is int for id_ in added_tokens.values()):
        raise UserError(f"{path}: 'added_tokens' must give each token its id")
    return TextsOfFolder(rules, added_tokens, has_own_vocab)


def _rules_of_ernie_m(config: Mapping[str, Any], path: Path) -> str:
    """The rules of an ErnieM, by its class.

    Raises:
        UserError: it was fine-tuned, and nothing says with which library.
    """
    classes = config.get("architectures", [config.get("init_class")])
    is_fine_tuned = isinstance(classes, list) and any(str(name).startswith(_FINE_TUNED) for name in classes)
    if not is_fine_tuned:
        return ERNIE_M
    if "paddlenlp_version" in config or "init_class" in config:
        return "paddlenlp"
    if "transformers_version" in config:
        return "transformers"
    raise UserError(
        f"{path}: {shown(classes[0])} has the text rules of the library that fine-tuned it, which no key "
        f"says; name them: text_rules={' or '.join(map(repr, LIBRARY_RULES))}"
    )
