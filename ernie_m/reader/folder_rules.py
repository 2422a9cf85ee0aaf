"""How the texts of our own folders become ids: a vocabulary, a corpus, a model, an export."""

from collections.abc import Mapping
from pathlib import Path

from ernie_m.reader.tokenizer_json import TOKENIZER_JSON
from ernie_m.reader.tokenizer_rules import ERNIE_M, TEXT_RULES
from ernie_m.reader.vocabulary import DICT
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import Folder

_CONFIG = "config.json"
_FOREIGN = {"tokenizer_config.json", "model_config.json"}  # other libraries write them
_ALONE = {TOKENIZER_JSON, DICT}  # without config.json these are of other libraries, too


def rules_of_folder(path: Path) -> tuple[str, Mapping[str, int]]:
    """The text rules of a folder, one of `TEXT_RULES`, and its added tokens, token -> id.

    A corpus says them in its manifest, and a model below "reading" in config.json; else they are the official
    ones.

    Raises:
        UserError: another library wrote the folder; a file is damaged, or says rules that are not known.
    """
    folder = Folder(path)
    place = folder.path / MANIFEST
    settings = folder.json(MANIFEST).get("vocabulary")  # of a corpus; a model's manifest has no such key
    if settings is None:
        place = folder.path / _CONFIG
        config = folder.json(_CONFIG)
        is_of_others = config.get("model_type") not in (None, "ernie_m") or "architectures" in config
        if is_of_others or folder.names & (_FOREIGN if config else _FOREIGN | _ALONE):
            raise UserError(
                f"{path}: another library wrote this folder, and several of its files say how texts are "
                "read. open_model(open_checkpoint(folder)).tokenizer reads them all, with "
                "ernie_m.model.open_model and ernie_m.model.checkpoint.open"
            )
        settings = {} if config.get("reading") is None else config["reading"]
    if not isinstance(settings, dict):
        raise UserError(f"{place}: {shown(settings)} does not say how texts were read; put back a good copy")
    rules = settings.get("text_rules", ERNIE_M)
    added_tokens = settings.get("added_tokens", {})
    if rules not in TEXT_RULES:
        raise UserError(f"{place}: 'text_rules' is {shown(rules)}; it is one of {', '.join(TEXT_RULES)}")
    if not isinstance(added_tokens, dict) or not all(type(id_) is int for id_ in added_tokens.values()):
        raise UserError(f"{place}: 'added_tokens' must give each token its id")
    return rules, added_tokens
