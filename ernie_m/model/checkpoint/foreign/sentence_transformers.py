"""The files by which sentence-transformers defines an embedding model in a folder of transformers.

modules.json                        the parts of the model, in order
1_Pooling/config.json               pooling of token states into an embedding
2_Normalize/                        unit-length embeddings
sentence_bert_config.json           maximum length; old versions name it after other encoders
config_sentence_transformers.json   prompts
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.format import Checkpoint, Format
from ernie_m.model.checkpoint.key_mapping import ModelClass
from ernie_m.model.checkpoint.weights import CONFIG, WEIGHTS, Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import DOCUMENT, MEAN_OF_TOKENS, PreprocessingConfig
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import Folder, as_json, read_json, read_object

MODULES = "modules.json"
# All names of this file, in the library's order of precedence.
_LENGTHS = [
    f"sentence_{encoder}_config.json"
    for encoder in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
_LENGTH = _LENGTHS[0]  # the name that is written
_PROMPTS = "config_sentence_transformers.json"
_POOLING = "1_Pooling"
_NORMALIZE = "2_Normalize"
_LIBRARY = "sentence_transformers.models"
_POOLINGS = (MEAN_OF_TOKENS, "cls")  # poolings supported here
# Boolean pooling keys of most files -> name of the pooling.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_READ = "read"  # read by a function below
_ANY = "any"  # no value affects embeddings
# Kind of file -> key -> _READ, _ANY, or the one value that does not affect embeddings. Other nonempty values
# and unknown keys are rejected. After each key: the versions that write it.
_KEYS: dict[str, dict[str, Any]] = {
    _PROMPTS: {
        "__version__": _ANY,  # 2.0 -
        "prompts": _READ,  # 2.4 -
        "default_prompt_name": _READ,  # 2.4 -
        "similarity_fn_name": _READ,  # 3.0 -
        "model_type": "SentenceTransformer",  # 5.0 -
        "truncate_dim": None,  # 5.4 -
    },
    _LENGTH: {
        "max_seq_length": _READ,  # 0.4 - 5.3, and then in tokenizer_config.json
        "do_lower_case": None,  # 1.2 - 5.3
        "transformer_task": "feature-extraction",  # 5.4 -
        "modality_config": {"text": _FORWARD},  # 5.4 -
        "module_output_name": "token_embeddings",  # 5.4 -
        "unpad_inputs": _ANY,  # 5.4 -
        "processing_kwargs": None,  # 5.4 -
        "query_length": None,  # 6.0 -
        "document_length": None,  # 6.0 -
        "query_expansion": None,  # 6.0 -
    },
    _POOLING: {
        "word_embedding_dimension": _READ,  # 0.4 - 5.3
        "embedding_dimension": _READ,  # 5.4 -
        **dict.fromkeys(_FLAGS, _READ),  # 0.4 - 5.3; the last two 2.3 - 5.3
        "pooling_mode": _READ,  # 5.4 -
        "include_prompt": _READ,  # 2.4 -
    },
    _NORMALIZE: {
        "module_input_name": "sentence_embedding",  # 6.0 -
        "module_output_name": "sentence_embedding",  # 6.0 -
    },
}


def encoder_folder(folder: Folder) -> Folder:
    """Return the folder of the encoder: that of the first module, in old versions a subfolder."""
    modules = [] if folder.named else _modules(folder)
    encoder = modules[0][1] if modules else folder.path
    return folder if encoder == folder.path else Folder(encoder)


def read_embedding_fields(
    folder: Folder, config: ErnieMConfig
) -> tuple[dict[str, tuple[Any, Path]], list[str]]:
    """Return the embedding settings in the library's files; empty without them.

    Args:
        config: the encoder's config; the library uses the last layer.

    Returns:
        fields: field name of `PreprocessingConfig` -> its value, and the file that contains it.
        errors: descriptions of unsupported settings; usually empty.

    Raises:
        UserError: a file is corrupt, or does not match the encoder.
    """
    modules = _modules(folder)
    if not modules:
        return {}, []
    path = folder.path / MODULES
    errors: list[str] = []
    fields: dict[str, tuple[Any, Path]] = {
        "pooling": (None, path),
        "layer": (config.num_hidden_layers, path),
        "normalize": (False, path),
    }
    for number, (kind, module_folder) in enumerate(modules):
        if kind == "Transformer" and number == 0:
            fields |= _length(Folder(module_folder).first(_LENGTHS), errors)
        elif kind == "Pooling" and number == 1:
            pooling_path = module_folder / CONFIG
            fields["pooling"] = (_pooling(pooling_path, config.hidden_size, errors), pooling_path)
        elif kind == "Normalize" and number == len(modules) - 1:
            fields["normalize"] = (True, path)
            normalize_path = module_folder / CONFIG
            if normalize_path.is_file():  # since version 6
                _settings(_NORMALIZE, normalize_path, errors)
        else:
            errors.append(f"{path}: the module {shown(kind)}")
    if _PROMPTS in folder:
        has_length_1, _ = fields["normalize"]
        fields |= _prompts(folder.path / _PROMPTS, has_length_1, errors)
    return fields, errors


def _modules(folder: Folder) -> list[tuple[str, Path]]:
    """Return class name and folder of each module in modules.json; empty without the file.

    Raises:
        UserError: it is malformed, or refers to folders elsewhere.
    """
    if MODULES not in folder:
        return []
    path = folder.path / MODULES
    modules = []
    try:
        for module in folder.read(MODULES, read_json):
            name = Path(module["path"])
            if name.is_absolute() or ".." in name.parts:
                raise ValueError("a folder elsewhere")
            with suppress(FileNotFoundError):  # a module's folder may be missing, but not invalid
                (folder.path / name).stat()
            is_of_library = module["type"].startswith("sentence_transformers.")
            # The class of another package has its full name, so that it is not mistaken for the library's.
            kind = module["type"].split(".")[-1] if is_of_library else module["type"]
            modules.append((kind, folder.path / name))
        if not modules:
            raise ValueError("no module")
    except (TypeError, KeyError, AttributeError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: not a list of modules ({shown(repr(error))}). Restore or download it again"
        ) from error
    return modules


def _settings(kind: str, path: Path, errors: list[str]) -> dict[str, Any]:
    """Return the contents of a file. Unknown keys that may affect embeddings are added to the errors.

    Args:
        kind: a key of `_KEYS`.

    Raises:
        UserError: the file is missing or corrupt.
    """
    settings = read_object(path)
    for key, value in settings.items():
        is_set = value not in (None, False, "", [], {})
        if is_set and _KEYS[kind].get(key) not in (_READ, _ANY, value):
            errors.append(f"{path}: {shown(key)} {shown(value)}")
    return settings


def _pooling(path: Path, hidden_size: int, errors: list[str]) -> str | None:
    """Return the pooling; None, with an error added, if it is not supported.

    Raises:
        UserError: the file is missing or corrupt, has two poolings, or is for another embedding size.
    """
    settings = _settings(_POOLING, path, errors)
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if settings.get(key) not in (None, hidden_size):
            raise UserError(
                f"{path}: {key} {shown(settings[key])} does not match the encoder's hidden_size "
                f"{hidden_size} in config.json. Restore the files of one model"
            )
    by_flags = [name for flag, name in _FLAGS.items() if settings.get(flag)]
    names = settings.get("pooling_mode")
    if names is None:
        names = by_flags or [MEAN_OF_TOKENS]
    elif isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        raise UserError(f"{path}: invalid pooling_mode {shown(names)} (expected a string)")
    if by_flags and sorted(map(str, names)) != sorted(by_flags):
        raise UserError(
            f"{path}: pooling_mode {shown(settings['pooling_mode'])} contradicts {' and '.join(by_flags)} in "
            "the keys pooling_mode_... Remove the wrong one"
        )
    if not settings.get("include_prompt", True):
        names = [*names, "without the prompt"]
    if len(names) == 1 and names[0] in _POOLINGS:
        return names[0]
    errors.append(f"{path}: the pooling {' and '.join(map(shown, names[:9]))}")
    return None


def _length(path: Path | None, errors: list[str]) -> dict[str, tuple[Any, Path]]:
    """Return the maximum length from a file of `_LENGTHS`, if any.

    Raises:
        UserError: the file is corrupt, or the length is not an integer.
    """
    if path is None:
        return {}
    settings = _settings(_LENGTH, path, errors)
    length = settings.get("max_seq_length")
    if length is None:
        return {}
    if type(length) is not int or length < 1:
        raise UserError(f"{path}: invalid max_seq_length {shown(length)} (expected a number of tokens)")
    return {"max_seq_len": (length, path)}


def _prompts(path: Path, has_length_1: bool, errors: list[str]) -> dict[str, tuple[Any, Path]]:
    """Return the prompts, and the name of the default one.

    Args:
        has_length_1: whether embeddings have unit length, so that their dot product is the cosine.

    Raises:
        UserError: the file is corrupt, or the default prompt is not among the prompts.
    """
    settings = _settings(_PROMPTS, path, errors)
    similarity = settings.get("similarity_fn_name") or "cosine"
    is_cosine = similarity == "cosine" or (similarity == "dot" and has_length_1)
    if not is_cosine:
        errors.append(f"{path}: similarity_fn_name {shown(similarity)}")
    text_of = settings.get("prompts") or {}
    if not isinstance(text_of, dict) or not all(isinstance(text, str | None) for text in text_of.values()):
        raise UserError(f"{path}: invalid 'prompts' (expected an object of name: text)")
    prompts = {name: text for name, text in text_of.items() if text}  # "" and null: no prompt
    default = settings.get("default_prompt_name")
    is_there = isinstance(default, str) and default in text_of
    if default is not None and not is_there:
        there = ", ".join(map(shown, list(prompts)[:9])) or "none"
        raise UserError(f"{path}: default_prompt_name is {shown(default)}, but 'prompts' has {there}")
    if default not in prompts:  # empty or null
        default = None
    return {"prompts": (prompts, path), "default_prompt": (default, path)}


def as_written(preprocessing: PreprocessingConfig, config: ErnieMConfig) -> PreprocessingConfig:
    """Return the settings that `read_embedding_fields` reads from the output of `write`.

    A model without pooling gets the mean over all tokens of the last layer. Without a prompt "document" the
    library uses no prompt for documents, even if there is a prompt "passage".
    """
    prompts = dict(preprocessing.prompts)
    document = preprocessing.prompt(DOCUMENT)
    if document:
        prompts.setdefault(DOCUMENT, document)
    layer = config.num_hidden_layers if preprocessing.layer is None else preprocessing.layer
    return replace(
        preprocessing, pooling=preprocessing.pooling or MEAN_OF_TOKENS, layer=layer, prompts=prompts
    )


def write(folder: Path, config: ErnieMConfig, preprocessing: PreprocessingConfig) -> list[str]:
    """Write the embedding settings: pooling, normalization, maximum length, prompts.

    The library only supports the last layer, and no mean without special tokens.

    Args:
        folder: contains the encoder in transformers format.

    Returns:
        Names of the files; empty if the model's embeddings are not supported.
    """
    written = as_written(preprocessing, config)
    if written.pooling not in _POOLINGS or written.layer != config.num_hidden_layers:
        return []
    pooling: dict[str, Any] = {"word_embedding_dimension": config.hidden_size}
    common_flags = list(_FLAGS.items())[:4]  # supported by every version of the library
    pooling |= {flag: name == written.pooling for flag, name in common_flags}
    files: dict[str, Any] = {
        f"{_POOLING}/{CONFIG}": pooling,
        _LENGTH: {"max_seq_length": written.max_seq_len or config.longest_input, "do_lower_case": False},
    }
    return _write_modules(folder, {"Transformer": "", "Pooling": _POOLING}, written, files)


def _write_modules(
    folder: Path, folder_of: Mapping[str, str], preprocessing: PreprocessingConfig, files: dict[str, Any]
) -> list[str]:
    """Write modules.json, prompts and other files, and return their names.

    Args:
        folder_of: class of each module in order -> its folder; "": the folder itself.
        files: name -> content of each other file.
    """
    folders = {**folder_of, "Normalize": _NORMALIZE} if preprocessing.normalize else folder_of
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_LIBRARY}.{kind}"}
        for number, (kind, path) in enumerate(folders.items())
    ]
    files = {MODULES: modules} | files
    if preprocessing.prompts:
        files[_PROMPTS] = {
            "prompts": dict(preprocessing.prompts),
            "default_prompt_name": preprocessing.default_prompt,
            "similarity_fn_name": "cosine",
        }
    for name, contents in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(as_json(contents), encoding="utf-8")
    if preprocessing.normalize:
        (folder / _NORMALIZE).mkdir()  # the module has no file
    return list(files)


class Static(Format):
    """A static model, as the library's StaticEmbedding; write-only."""

    name = "static"
    encoder = {"embeddings.word_embeddings": "embedding"}
    classes = {None: ModelClass(has_pooler=False)}
    has_tables = True
    library = "sentence-transformers"
    tokenizer_form = "static"
    keeps_added_tokens = True

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write the embedding matrix and its prompts. The maximum length is in tokenizer.json.

        An embedding is the mean over the subwords of a text, without special tokens.
        """
        safetensors.write(folder / WEIGHTS, weights, dtype=np.float32)
        return _write_modules(folder, {"StaticEmbedding": ""}, checkpoint.preprocessing, {})
