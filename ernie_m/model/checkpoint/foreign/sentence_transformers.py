"""The files of sentence-transformers that define how an encoder computes embeddings.

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
from ernie_m.model.checkpoint.convert_names import ModelClass
from ernie_m.model.checkpoint.format import Checkpoint, Format
from ernie_m.model.checkpoint.weights import CONFIG, WEIGHTS, WITHOUT_UNKNOWN, Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import DOCUMENT, MEAN_OF_TOKENS, PipelineConfig
from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import Folder, format_json, read_json, read_object

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

# `PipelineConfig.regression` -> the activation of a CrossEncoder's output.
ACTIVATIONS = {True: "torch.nn.modules.linear.Identity", False: "torch.nn.modules.activation.Sigmoid"}
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


def find_encoder_folder(folder: Folder) -> Folder:
    """Return the folder of the encoder, the first module in modules.json; by default `folder` itself."""
    modules = [] if folder.named else _read_modules(folder)
    encoder = modules[0][1] if modules else folder.path
    return folder if encoder == folder.path else Folder(encoder)


def read_embedding_fields(
    folder: Folder, config: ErnieMConfig
) -> tuple[dict[str, tuple[Any, Path]], list[str]]:
    """Read the embedding settings of sentence-transformers; empty without modules.json.

    Args:
        config: the encoder's config.

    Returns:
        fields: field of `PipelineConfig` -> value, and the file that contains it.
        errors: descriptions of unsupported settings; usually empty.

    Raises:
        UserError: a file is corrupt, or does not match the encoder.
    """
    modules = _read_modules(folder)
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
            fields |= _read_max_length(Folder(module_folder).find_first(_LENGTHS), errors)
        elif kind == "Pooling" and number == 1:
            pooling_path = module_folder / CONFIG
            fields["pooling"] = (_read_pooling(pooling_path, config.hidden_size, errors), pooling_path)
        elif kind == "Normalize" and number == len(modules) - 1:
            fields["normalize"] = (True, path)
            normalize_path = module_folder / CONFIG
            if normalize_path.is_file():  # since version 6
                _read_settings(_NORMALIZE, normalize_path, errors)
        else:
            errors.append(f"{path}: the module {format_value(kind)}")
    if _PROMPTS in folder:
        is_normalized, _ = fields["normalize"]
        fields |= _read_prompts(folder.path / _PROMPTS, is_normalized, errors)
    return fields, errors


def _read_modules(folder: Folder) -> list[tuple[str, Path]]:
    """Read modules.json: the class name and the folder of each module; empty without the file.

    Raises:
        UserError: the file is malformed, or a module is outside of the folder.
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
            f"{path}: not a list of modules ({format_value(repr(error))}). Restore or download it again"
        ) from error
    return modules


def _read_settings(kind: str, path: Path, errors: list[str]) -> dict[str, Any]:
    """Read a JSON file of the library, and append unsupported settings to `errors`.

    Args:
        kind: kind of the file, a key of `_KEYS`.
        errors: descriptions of settings that may change embeddings and are not supported.

    Raises:
        UserError: the file is missing or corrupt.
    """
    settings = read_object(path)
    for key, value in settings.items():
        is_set = value not in (None, False, "", [], {})
        if is_set and _KEYS[kind].get(key) not in (_READ, _ANY, value):
            errors.append(f"{path}: {format_value(key)} {format_value(value)}")
    return settings


def _read_pooling(path: Path, hidden_size: int, errors: list[str]) -> str | None:
    """Read the pooling mode from the config of a Pooling module.

    Returns:
        The pooling mode; None if it is not supported, with a description appended to `errors`.

    Raises:
        UserError: the file is missing or corrupt, contradicts itself, or has the wrong hidden size.
    """
    settings = _read_settings(_POOLING, path, errors)
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if settings.get(key) not in (None, hidden_size):
            raise UserError(
                f"{path}: {key} {format_value(settings[key])} does not match the encoder's hidden_size "
                f"{hidden_size} in config.json. Restore the files of one model"
            )
    by_flags = [name for flag, name in _FLAGS.items() if settings.get(flag)]
    names = settings.get("pooling_mode")
    if names is None:
        names = by_flags or [MEAN_OF_TOKENS]
    elif isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        raise UserError(f"{path}: invalid pooling_mode {format_value(names)} (expected a string)")
    if by_flags and sorted(map(str, names)) != sorted(by_flags):
        raise UserError(
            f"{path}: pooling_mode {format_value(settings['pooling_mode'])} contradicts "
            f"{' and '.join(by_flags)} in "
            "the keys pooling_mode_... Remove the wrong one"
        )
    if not settings.get("include_prompt", True):
        names = [*names, "without the prompt"]
    if len(names) == 1 and names[0] in _POOLINGS:
        return names[0]
    errors.append(f"{path}: the pooling {' and '.join(map(format_value, names[:9]))}")
    return None


def _read_max_length(path: Path | None, errors: list[str]) -> dict[str, tuple[Any, Path]]:
    """Read the maximum length from sentence_bert_config.json or a file with an older name; {} if not set.

    Args:
        path: path of the file; None: missing.

    Raises:
        UserError: the file is corrupt, or the length is not a positive integer.
    """
    if path is None:
        return {}
    settings = _read_settings(_LENGTH, path, errors)
    length = settings.get("max_seq_length")
    if length is None:
        return {}
    if type(length) is not int or length < 1:
        raise UserError(
            f"{path}: invalid max_seq_length {format_value(length)} (expected a number of tokens)"
        )
    return {"max_seq_len": (length, path)}


def _read_prompts(path: Path, is_normalized: bool, errors: list[str]) -> dict[str, tuple[Any, Path]]:
    """Read the prompts and the name of the default prompt from config_sentence_transformers.json.

    Args:
        is_normalized: whether embeddings are normalized, so that their dot product is the cosine.

    Raises:
        UserError: the file is corrupt, or the default prompt is not among the prompts.
    """
    settings = _read_settings(_PROMPTS, path, errors)
    similarity = settings.get("similarity_fn_name") or "cosine"
    is_cosine = similarity == "cosine" or (similarity == "dot" and is_normalized)
    if not is_cosine:
        errors.append(f"{path}: similarity_fn_name {format_value(similarity)}")
    text_of = settings.get("prompts") or {}
    if not isinstance(text_of, dict) or not all(isinstance(text, str | None) for text in text_of.values()):
        raise UserError(f"{path}: invalid 'prompts' (expected an object of name: text)")
    prompts = {name: text for name, text in text_of.items() if text}  # "" and null: no prompt
    default = settings.get("default_prompt_name")
    is_there = isinstance(default, str) and default in text_of
    if default is not None and not is_there:
        there = ", ".join(map(format_value, list(prompts)[:9])) or "none"
        raise UserError(f"{path}: default_prompt_name is {format_value(default)}, but 'prompts' has {there}")
    if default not in prompts:  # empty or null
        default = None
    return {"prompts": (prompts, path), "default_prompt": (default, path)}


def read_score_scale(
    root: Folder, raw_config: Mapping[str, Any], config_path: Path | None, drop_unknown: bool
) -> dict[str, tuple[Any, Path | None]]:
    """Read the activation of a CrossEncoder with one output: the setting "regression" and its file.

    Args:
        root: the folder of the CrossEncoder.
        raw_config: contents of config.json.
        drop_unknown: whether to ignore an unknown activation.

    Returns:
        As `read_embedding_fields`; empty if no file has an activation.

    Raises:
        UserError: the activation is unknown.
    """
    in_config = raw_config.get("sentence_transformers")
    activations = [  # with the versions that write it
        (root.read_object(_PROMPTS).get("activation_fn"), root.path / _PROMPTS),  # 5.4 -
        (in_config.get("activation_fn") if isinstance(in_config, dict) else None, config_path),  # 4.0 - 5.3
        (raw_config.get("sbert_ce_default_activation_function"), config_path),  # - 3.4
    ]
    activation, path = next((row for row in activations if row[0] is not None), (None, None))
    if activation in ACTIVATIONS.values():
        return {"regression": (activation == ACTIVATIONS[True], path)}
    if activation is not None and not drop_unknown:
        raise UserError(
            f"{path}: activation_fn {format_value(activation)}: unknown (expected "
            f"{' or '.join(ACTIVATIONS.values())}). {WITHOUT_UNKNOWN}"
        )
    return {}


def get_written_settings(pipeline_config: PipelineConfig, config: ErnieMConfig) -> PipelineConfig:
    """Return the pipeline settings that the files written by `write` represent.

    The default pooling is the mean over all tokens of the last layer. A prompt "passage" or "corpus" is also
    stored as "document", because the library uses no other prompt for documents.
    """
    prompts = dict(pipeline_config.prompts)
    document = pipeline_config.get_prompt(DOCUMENT)
    if document:
        prompts.setdefault(DOCUMENT, document)
    layer = config.num_hidden_layers if pipeline_config.layer is None else pipeline_config.layer
    return replace(
        pipeline_config, pooling=pipeline_config.pooling or MEAN_OF_TOKENS, layer=layer, prompts=prompts
    )


def write(folder: Path, config: ErnieMConfig, pipeline_config: PipelineConfig) -> list[str]:
    """Write the settings of sentence-transformers: pooling, normalization, maximum length, prompts.

    The library supports neither layers other than the last nor the mean without special tokens.

    Args:
        folder: folder with the encoder in the format of transformers.
        config: the encoder's config.

    Returns:
        Names of the written files; empty if the library does not support the embedding settings.
    """
    written = get_written_settings(pipeline_config, config)
    if written.pooling not in _POOLINGS or written.layer != config.num_hidden_layers:
        return []
    pooling: dict[str, Any] = {"word_embedding_dimension": config.hidden_size}
    common_flags = list(_FLAGS.items())[:4]  # supported by every version of the library
    pooling |= {flag: name == written.pooling for flag, name in common_flags}
    files: dict[str, Any] = {
        f"{_POOLING}/{CONFIG}": pooling,
        _LENGTH: {"max_seq_length": written.max_seq_len or config.max_input_length, "do_lower_case": False},
    }
    return _write_modules(folder, {"Transformer": "", "Pooling": _POOLING}, written, files)


def _write_modules(
    folder: Path, module_folders: Mapping[str, str], pipeline_config: PipelineConfig, files: dict[str, Any]
) -> list[str]:
    """Write modules.json, the prompts and other JSON files; return the file names.

    Args:
        module_folders: class of each module in order -> its subfolder; "": `folder` itself.
        files: file name -> contents, of the other files.
    """
    folders = {**module_folders, "Normalize": _NORMALIZE} if pipeline_config.normalize else module_folders
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_LIBRARY}.{kind}"}
        for number, (kind, path) in enumerate(folders.items())
    ]
    files = {MODULES: modules} | files
    if pipeline_config.prompts:
        files[_PROMPTS] = {
            "prompts": dict(pipeline_config.prompts),
            "default_prompt_name": pipeline_config.default_prompt,
            "similarity_fn_name": "cosine",
        }
    for name, contents in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(format_json(contents), encoding="utf-8")
    if pipeline_config.normalize:
        (folder / _NORMALIZE).mkdir()  # the module has no file
    return list(files)


class StaticFormat(Format):
    """The format of static models in sentence-transformers, StaticEmbedding; write-only."""

    name = "static"
    encoder = {"embeddings.word_embeddings": "embedding"}
    classes = {None: ModelClass(has_pooler=False)}
    has_tables = True
    library = "sentence-transformers"
    tokenizer_format = "static"
    keeps_added_tokens = True

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write the word embeddings, modules.json and the prompts.

        StaticEmbedding computes the mean over the subwords of a text, without special tokens. The maximum
        length is stored in tokenizer.json.
        """
        safetensors.write(folder / WEIGHTS, weights, dtype=np.float32)
        return _write_modules(folder, {"StaticEmbedding": ""}, checkpoint.pipeline_config, {})
