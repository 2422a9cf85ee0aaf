"""What the files beside a tokenizer's pieces say of it, in folders of transformers and what builds on it.

tokenizer_config.json     its class, the longest input, added tokens
tokenizer.json            pieces, rules and added tokens, as the fast libraries run them
added_tokens.json, special_tokens_map.json
vocab.txt                 the words of a tokenizer of another kind, BERT's WordPiece; XLM-R's needs none
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ernie_m.tokenizer.tokenizer_json import unknown_steps
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import read_bytes, read_object

_JSON = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_SPECIALS_MAP = "special_tokens_map.json"
_VOCAB = "vocab.txt"
_XLM_R = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
# Those of XLM-R and ERNIE-M, and the names for any tokenizer.json: here, and from transformers 5 on.
_CLASSES = (*_XLM_R, "ErnieMTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_MODEL_TYPES = ("ernie_m", "xlm-roberta", "bert")
_FIRST_PIECES = ["<s>", "<pad>", "</s>", "<unk>"]  # of XLM-R's tokenizer.json
# Tokens that every model has.
_SPECIAL = {*_FIRST_PIECES, "<mask>", "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"}
_OTHER_KIND = (
    "a tokenizer of another kind, which has other ids than XLM-R's pieces; only models with the vocabulary "
    "of XLM-R or ERNIE-M can be read, such as multilingual E5 and BGE-M3"
)


class TokenizerFiles:
    """The tokenizer's files in a folder. Each is read when something asks for it, and once.

    Every method and attribute raises a UserError if a file that it needs is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.json_path = folder / _JSON
        self.config_path = folder / _CONFIG

    @cached_property
    def json(self) -> dict[str, Any] | None:
        """tokenizer.json; None: there is none."""
        return read_object(self.json_path) if self.json_path.is_file() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json; empty if there is none."""
        return read_object(self.config_path) if self.config_path.is_file() else {}

    def check_kind(self, model_config: Mapping[str, Any], model_config_path: Path | None) -> None:
        """Refuse a tokenizer of another kind than XLM-R's and ERNIE-M's, whatever pieces lie beside it.

        tokenizer.json decides where there is one, because libraries run it under any class: the tokenizer of
        paraphrase-multilingual-MiniLM-L12-v2 is XLM-R's, and saved again its class is BertTokenizer.

        Args:
            model_config: config.json, which can also name the class; it was read from `model_config_path`.

        Raises:
            UserError: it is of another kind.
        """
        if self.json is not None:
            try:
                kind = self.json["model"].get("type")
                vocab = self.json["model"]["vocab"] if kind == "Unigram" else []
                first_pieces = [piece for piece, _score in vocab[: len(_FIRST_PIECES)]]
                unknown = unknown_steps(self.json)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.json_path}: damaged ({error!r}); put back a good copy") from error
            if first_pieces != _FIRST_PIECES:
                fault = f"model is {shown(kind)}, and its vocab begins with {shown(first_pieces)}"
                raise UserError(f"{self.json_path}: its {fault}: {_OTHER_KIND}")
            for key, step in unknown:
                raise UserError(f"{self.json_path}: its {key} has {shown(step)}: {_OTHER_KIND}")
            return
        for path, settings, key, known in (
            (self.config_path, self.config, "tokenizer_class", _CLASSES),
            (model_config_path, model_config, "tokenizer_class", _CLASSES),
            (model_config_path, model_config, "model_type", _MODEL_TYPES),
        ):
            if settings.get(key) not in (None, "", *known):
                raise UserError(f"{path}: {key} is {shown(settings[key])}: {_OTHER_KIND}")
        vocab_path = self.folder / _VOCAB
        # In every sentencepiece vocabulary some tokens begin with the mark of a space.
        if vocab_path.is_file() and "▁".encode() not in read_bytes(vocab_path):
            raise UserError(f"{vocab_path}: its tokens are no pieces of sentencepiece: {_OTHER_KIND}")

    @property
    def is_xlm_r(self) -> bool:
        """Whether the files say that the tokenizer is XLM-R's."""
        return self.json is not None or self.config.get("tokenizer_class") in _XLM_R

    @property
    def has_official_rules(self) -> bool | None:
        """Whether tokenizer.json has ERNIE-M's rules for text, as written here; None: it is not there."""
        if self.json is None:
            return None
        normalizer = self.json.get("normalizer")
        steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
        patterns = [step.get("pattern") for step in steps if isinstance(step, dict)]
        # Of all rules that are written and read here, only ERNIE-M's replace a quotation mark.
        return {"String": "“"} in patterns

    @property
    def longest(self) -> int | None:
        """The longest input that tokenizer_config.json says; 10^30 there is "no limit"."""
        length = self.config.get("model_max_length")
        return length if type(length) is int and length > 0 else None

    def added_tokens(self) -> tuple[dict[str, int], Path | None]:
        """The tokens beside the special ones that are added to the pieces, with their ids and in their order.

        Returns:
            The tokens, and the first file that lists any token; None: there is no such file.

        Raises:
            UserError: also if two files disagree, or a token has no id or asks for what is not done here.
        """
        added: dict[str, int] = {}
        file_of: dict[str, Path] = {}
        first_path = None
        for path, token, id_ in self._tokens():
            first_path = first_path or path
            if token in _SPECIAL:
                continue
            if added.get(token, id_) != id_:
                raise UserError(
                    f"{path}: the token '{shown(token)}' has the id {id_}, and in {file_of[token]} "
                    f"{added[token]}; put the tokenizer's files that belong to the weights there"
                )
            added[token] = id_
            file_of.setdefault(token, path)
        self._check_ids_of_specials(added)
        return {token: added[token] for token in sorted(added, key=added.get)}, first_path

    def _check_ids_of_specials(self, added: Mapping[str, int]) -> None:
        """Refuse special tokens of the model's own of which no file gives the id."""
        specials_path = self.folder / _SPECIALS_MAP
        specials_map = read_object(specials_path) if specials_path.is_file() else {}
        for path, settings in ((self.config_path, self.config), (specials_path, specials_map)):
            for key in ("additional_special_tokens", "extra_special_tokens"):  # the second: transformers 5
                tokens = settings.get(key)
                if not isinstance(tokens, list):
                    continue
                for token in tokens:
                    text = token.get("content") if isinstance(token, dict) else token
                    if not isinstance(text, str):
                        raise UserError(f"{path}: {key} must be texts")
                    if text not in added and text not in _SPECIAL:
                        raise UserError(
                            f"{path}: no file gives the id of the added token {shown(text)}; put "
                            "added_tokens.json or tokenizer.json of the model there"
                        )

    def _tokens(self) -> Iterator[tuple[Path, str, int]]:
        """Each added token of each file, with its id.

        Raises:
            UserError: also if a token is to be found in whole words only.
        """
        for path in (self.folder / _ADDED, self.config_path, self.json_path):
            if not path.is_file():
                continue
            try:
                if path == self.json_path:
                    entries = self.json.get("added_tokens") or []
                elif path == self.config_path:
                    decoder = self.config.get("added_tokens_decoder") or {}
                    entries = [{**token, "id": int(id_)} for id_, token in decoder.items()]
                else:
                    entries = [{"content": token, "id": id_} for token, id_ in read_object(path).items()]
                for entry in entries:
                    token, id_ = entry["content"], entry["id"]
                    if not isinstance(token, str) or not token or type(id_) is not int or id_ < 0:
                        raise ValueError(f"the token {shown(token)}")
                    if entry.get("single_word") and token not in _SPECIAL:
                        raise UserError(
                            f"{path}: the added token {shown(token)} is found in whole words only "
                            "(single_word), which is not done here; train with tokens that are found anywhere"
                        )
                    yield path, token, id_
            except (TypeError, KeyError, AttributeError, ValueError) as error:
                raise UserError(
                    f"{path}: its added_tokens are damaged ({shown(repr(error))}); put back a good copy"
                ) from error
