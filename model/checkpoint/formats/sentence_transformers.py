"""The files with which sentence-transformers makes a folder of transformers a model of sentence vectors.

modules.json                        the parts of the model, in order
1_Pooling/config.json               how the states of the tokens become one vector
2_Normalize/                        empty: vectors have length 1
sentence_bert_config.json           the longest input
config_sentence_transformers.json   prompts
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from model.config import ErnieMConfig
from model.reading import DOCUMENT, Reading
from utils.errors import UserError, shown
from utils.files import as_json, read_json, read_object

MODULES = "modules.json"
_CONFIG = "config.json"
_LENGTH = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_POOLING = "1_Pooling"
_NORMALIZE = "2_Normalize"
_LIBRARY = "sentence_transformers.models"
# The library's name of a pooling -> ours.
_POOLINGS = {"mean": "specials", "cls": "cls"}
_NAMES = {ours: name for name, ours in _POOLINGS.items()}
# The keys that say the pooling by true or false in most files -> the name of the pooling.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class _Module(NamedTuple):
    """A part of the model: the name of its class, and its folder."""

    kind: str
    folder: Path


def encoder_folder(folder: Path) -> Path:
    """The folder of the encoder: the first module's, which old versions of the library put in a subfolder."""
    modules = _modules(folder)
    return modules[0].folder if modules else folder


def read(folder: Path, reading: Reading, layers: int) -> tuple[Reading, list[str]]:
    """Complete a reading with what the library's files in a folder say; without them it stays as it is.

    Args:
        layers: the number of layers of the encoder; the library takes the vectors of the top one.

    Returns:
        The reading, and what the files say of vectors that a reading cannot hold, in words; mostly nothing.

    Raises:
        UserError: a file is damaged.
    """
    modules = _modules(folder)
    if not modules:
        return reading, []
    faults = []
    values: dict[str, Any] = {"pooling": None, "layer": layers, "normalize": False}
    for number, (kind, module_folder) in enumerate(modules):
        if kind == "Transformer" and number == 0:
            values |= _length(module_folder / _LENGTH, faults)
        elif kind == "Pooling" and number == 1:
            values["pooling"] = _pooling(module_folder / _CONFIG, faults)
        elif kind == "Normalize" and number == len(modules) - 1:
            values["normalize"] = True
        else:
            faults.append(f"{folder / MODULES}: the module {shown(kind)}")
    prompts_path = folder / _PROMPTS
    if prompts_path.is_file():
        values |= _prompts(prompts_path)
    return replace(reading, **values), faults


def _modules(folder: Path) -> list[_Module]:
    """The parts that modules.json lists; none without it.

    Raises:
        UserError: it has another form, or names a folder elsewhere.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        modules = [
            _Module(module["type"].split(".")[-1], folder / module["path"]) for module in read_json(path)
        ]
        if not modules or any(".." in module.folder.parts for module in modules):
            raise ValueError("no module, or a folder elsewhere")
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: it does not list the modules of a model ({error!r})") from error
    return modules


def _pooling(path: Path, faults: list[str]) -> str | None:
    """Our name of the pooling; None if there is none, and then it is added to the faults.

    Raises:
        UserError: the file is missing or damaged.
    """
    settings = read_object(path)
    names = settings.get("pooling_mode")
    if names is None:
        names = [name for flag, name in _FLAGS.items() if settings.get(flag)] or ["mean"]
    elif isinstance(names, str):
        names = [names]
    if settings.get("include_prompt") is False and isinstance(names, list):
        names = [*names, "without the prompt"]
    if isinstance(names, list) and len(names) == 1 and names[0] in _NAMES.values():
        return _POOLINGS[names[0]]
    if not isinstance(names, list):
        raise UserError(f"{path}: pooling_mode is {shown(names)}; it must be the name of a pooling")
    faults.append(f"{path}: the pooling {' and '.join(map(shown, names[:9]))}")
    return None


def _length(path: Path, faults: list[str]) -> dict[str, Any]:
    """The longest input, if sentence_bert_config.json says it.

    Raises:
        UserError: the file is damaged, or the length is no whole number.
    """
    if not path.is_file():
        return {}
    settings = read_object(path)
    if settings.get("do_lower_case"):
        faults.append(f"{path}: do_lower_case")
    length = settings.get("max_seq_length")
    if length is None:
        return {}
    if type(length) is not int or length < 1:
        raise UserError(f"{path}: max_seq_length is {shown(length)}; it must be a number of tokens")
    return {"max_seq_len": length}


def _prompts(path: Path) -> dict[str, Any]:
    """The prompts, and the name of the default one.

    Raises:
        UserError: the file is damaged, or the default one is not among them.
    """
    settings = read_object(path)
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{path}: 'prompts' must give each name a text")
    prompts = {name: text for name, text in prompts.items() if text}  # "" and null: nothing is put before
    if not isinstance(default, str | None) or default not in (None, *(settings.get("prompts") or {})):
        there = ", ".join(map(shown, list(prompts)[:9])) or "none"
        raise UserError(f"{path}: default_prompt_name is {shown(default)}, but 'prompts' has {there}")
    return {"prompts": prompts, "default_prompt": default if default in prompts else None}


def write(folder: Path, config: ErnieMConfig, reading: Reading) -> list[str]:
    """Write what says how a text gets its vector: pooling, length 1, the longest input, prompts.

    The library has the top layer only, and no mean without the special tokens. A model that does not say how
    its vectors are made gets the mean over all tokens.

    Args:
        folder: holds the encoder in the form of transformers.

    Returns:
        The names of the files; none if the model's vectors are of another kind.
    """
    pooling_name = _NAMES.get(reading.pooling or "specials")
    if pooling_name is None or reading.layer not in (None, config.num_hidden_layers):
        return []
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{_LIBRARY}.Transformer"},  # "": the folder itself
        {"idx": 1, "name": "1", "path": _POOLING, "type": f"{_LIBRARY}.Pooling"},
    ]
    if reading.normalize:
        modules.append({"idx": 2, "name": "2", "path": _NORMALIZE, "type": f"{_LIBRARY}.Normalize"})
    pooling: dict[str, Any] = {"word_embedding_dimension": config.hidden_size}
    for flag, name in list(_FLAGS.items())[:4]:  # the flags that every version of the library has
        pooling[flag] = name == pooling_name
    files: dict[str, Any] = {
        MODULES: modules,
        f"{_POOLING}/{_CONFIG}": pooling,
        _LENGTH: {"max_seq_length": reading.max_seq_len or config.longest_input, "do_lower_case": False},
    }
    if reading.prompts:
        prompts = dict(reading.prompts)
        document = reading.prompt(DOCUMENT)
        if document:
            # Without a prompt of this name the library puts nothing before a document, even if there is a
            # prompt "passage".
            prompts.setdefault(DOCUMENT, document)
        files[_PROMPTS] = {
            "prompts": prompts,
            "default_prompt_name": reading.default_prompt,
            "similarity_fn_name": "cosine",
        }
    for name, contents in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(as_json(contents), encoding="utf-8")
    if reading.normalize:
        (folder / _NORMALIZE).mkdir()
    return list(files)
