"""`Checkpoint`, and the base class of checkpoint formats: detection, reading and writing.

Each format has a file in this folder or in foreign/.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint.convert_names import LM, TensorNames
from ernie_m.model.checkpoint.native_names import POSITIONS, WORDS, count_layers, find_axes
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import PipelineConfig, TextRules, read_pipeline_config
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_config import check_ids
from ernie_m.reader.tokenizer_json import make_missing_model_error
from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import Folder
from ernie_m.utils.logging import logger

# Keys of other libraries for which the native model has a single value.
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


@dataclass(frozen=True)
class Source:
    """The files of a checkpoint found in a folder, before conversion to native names.

    Attributes:
        folder: folder with the model card and the language means.
        weights: the tensors under their names in the file.
        raw_config: contents of the config file; empty without one.
        config_path: path of the config file; None without one.
        tokenizer_folders: folders that may contain the tokenizer, most likely first.
        tasks: tasks that the head may be for, by class name or tensor names: keys of `TensorNames.classes`.
            With several, the heads have the same names, so only the user can tell them apart.
        root: the opened folder, which may have modules.json of sentence-transformers.
    """

    folder: Folder
    weights: Weights
    raw_config: dict[str, Any]
    config_path: Path | None
    tokenizer_folders: tuple[Folder, ...]
    tasks: list[str]
    root: Folder

    @property
    def path(self) -> Path:
        """Return the file of the weights, or the official parameter directory, for messages."""
        return Path(self.weights.source)

    @property
    def task(self) -> str | None:
        """Return the task that the model was fine-tuned for; None: a pretrained model, or ambiguous."""
        return self.tasks[0] if len(self.tasks) == 1 and self.tasks[0] != LM else None

    def find_first(self, names: Sequence[str]) -> Path | None:
        """Return the first of these files in the first tokenizer folder that has one, or None."""
        paths = [folder.find_first(names) for folder in self.tokenizer_folders]
        return next((path for path in paths if path), None)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in any format. Names and shapes are known; a tensor is read when it is accessed.

    Attributes:
        path: the opened folder or file.
        folder: contains the model card and the language means. Its contents are cached until there is a
            tokenizer.
        format: name of the format, such as "ernie-m" or "paddlenlp".
        tensors: native name -> array.
        config: the model's shape; None without a config file, which only the native and the official format
            allow.
        task: the task that the model was fine-tuned for, from `ernie_m.model.tasks`, or
            `convert_names.CHOICE`; None: a pretrained model, or unknown.
        labels: label names in the order of their ids; empty if unknown.
        settings: the other keys of the native config.json, such as "languages" and "step"; empty in other
            formats.
        pipeline_config: the pipeline settings.
        pipeline_errors: descriptions of settings that this project does not support; usually empty.
        config_path, vocab_path, piece_model_path, language_means_path: None if missing.
        dropped: name in the source -> reason why the tensor was skipped.
        unknown: names of unknown tensors in the source, which were dropped on request.
    """

    path: Path
    folder: Folder
    format: str
    tensors: Weights
    config: ErnieMConfig | None
    task: str | None
    labels: list[str]
    settings: dict[str, Any]
    pipeline_config: PipelineConfig
    pipeline_errors: list[str]
    config_path: Path | None
    vocab_path: Path | None
    piece_model_path: Path | None
    language_means_path: Path | None
    dropped: dict[str, str]
    unknown: list[str]

    @property
    def files(self) -> list[Path]:
        """Return the files that the checkpoint consists of; for sharded weights their index or folder."""
        others = (self.config_path, self.vocab_path, self.piece_model_path, self.language_means_path)
        return [Path(self.tensors.source), *filter(None, others)]

    @property
    def required_config(self) -> ErnieMConfig:
        """Return the model's config.

        Raises:
            UserError: the checkpoint has no config file.
        """
        if self.config is None:
            raise UserError(
                f"{self.path}: missing config.json or ernie_config.json. Put it next to the weights (a "
                "command with --ernie_config_path can also read it elsewhere)"
            )
        return self.config

    @property
    def has_pooler(self) -> bool:
        """Return whether the checkpoint has the weights of a pooler."""
        return "pooler.dense.weight" in self.tensors

    def load_tokenizer(
        self, vocab_path: str | Path | None = None, piece_model_path: str | Path | None = None
    ) -> Tokenizer:
        """Load the tokenizer of the checkpoint.

        Args:
            vocab_path, piece_model_path: files to use instead of the checkpoint's, if given. With only a
                `piece_model_path`, the vocabulary is derived from the SentencePiece model.

        Raises:
            UserError: there is no SentencePiece model, a file is corrupt, or two files contradict each other.
        """
        model_path = piece_model_path or self.piece_model_path
        if model_path is None:
            raise make_missing_model_error(self.path)
        vocab = vocab_path or (None if piece_model_path else self.vocab_path)
        pipeline_config = self.pipeline_config
        location = Path(model_path).parent
        folder = self.folder if location == self.folder.path else Folder(location)
        tokenizer = Tokenizer(
            vocab, model_path, pipeline_config.text_rules, pipeline_config.added_tokens, folder
        )
        if vocab == self.vocab_path and model_path == self.piece_model_path:
            check_ids(folder, tokenizer)
        self.folder.clear_cache()
        return tokenizer


class Format(TensorNames):
    """A checkpoint format. A read-only format has no `library`, a write-only one no `find`.

    Attributes:
        name: name of the format in messages.
        needs_config: whether a config file is required.
        defaults: defaults of config keys that differ from the native defaults.
        labels_key: config key of the label names, for `read_labels`.
        ignored: config key that the format's library ignores.
        has_own_vocab: whether vocab.txt determines token ids; otherwise the SentencePiece model does.
        library: library name in the model card; "": the format is read-only.
        tokenizer_format: format of the tokenizer files, a key of `WRITERS` in
            `ernie_m.model.checkpoint.write_foreign`.
        text_rules: text rules of the library's tokenizer; None: stored in the tokenizer files.
        keeps_added_tokens: whether the tokenizer files support added tokens.
        separators: number of [SEP] tokens before a context; None: stored in the files.
    """

    name: str
    needs_config = False
    defaults: Mapping[str, Any] = {}
    labels_key = "id2label"
    ignored = ""
    has_own_vocab = True
    library = ""
    tokenizer_format = "ernie-m"
    text_rules: TextRules | None = None
    keeps_added_tokens = False
    separators: int | None = 2

    def find(self, folder: Folder) -> Source | None:
        """Return the files of a checkpoint of this format in a folder; None: no such checkpoint.

        Raises:
            UserError: a file cannot be read or is corrupt.
        """
        raise NotImplementedError

    def check(self, config: ErnieMConfig) -> None:
        """Check that the format supports a model config.

        Raises:
            UserError: a value of the config is not supported.
        """

    def read_config(self, source: Source, weights: Weights) -> ErnieMConfig:
        """Return the model's config. Sizes that contradict tensor shapes are replaced, with a warning.

        Args:
            weights: tensors under native names.

        Raises:
            UserError: the architecture is not supported, or a size is neither in the config nor in the
                shapes, such as the number of attention heads.
        """
        raw_config = source.raw_config
        location = source.config_path or source.path
        for key, value in _ONLY.items():
            if raw_config.get(key, value) != value:
                raise UserError(f"{location}: unsupported {key} {raw_config[key]!r} (expected {value!r})")
        given = {key: value for key, value in raw_config.items() if value is not None}
        sizes = _infer_sizes(weights)
        for key, size in sizes.items():
            if given.get(key, size) != size and key != self.ignored:
                logger.warning(
                    "%s: %s is %s, but the weights have %s; using the weights' value",
                    location,
                    key,
                    given[key],
                    size,
                )
        try:
            config = ErnieMConfig.from_dict({**self.defaults, **given, **sizes})
            self.check(config)
        except UserError as error:
            raise UserError(f"{location}: {error}") from error
        return config

    def read_settings(self, source: Source, config: ErnieMConfig | None) -> dict[str, Any]:
        """Return the keys of config.json that become `Checkpoint.settings`; by default none."""
        return {}

    def read_pipeline_config(
        self,
        source: Source,
        weights: Weights,
        config: ErnieMConfig | None,
        labels: list[str],
        drop_unknown: bool,
    ) -> tuple[PipelineConfig, list[str]]:
        """Read the pipeline settings.

        Args:
            weights: tensors under native names.
            config: the model's config, if any.
            labels: label names, if any.
            drop_unknown: drop unknown settings instead of raising an error.

        Returns:
            The settings, and descriptions of unsupported ones.

        Raises:
            UserError: a file is corrupt, two files contradict each other, or a value is unknown.
        """
        return read_pipeline_config(source.raw_config, source.config_path), []

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write weights, in float32, and config to an existing folder.

        Args:
            checkpoint: the converted checkpoint.
            weights: under the names of the format.
            task: from `select_model_class`.

        Returns:
            Names of the files with embedding settings; for most formats none.

        Raises:
            UserError: the format does not support a size.
        """
        raise NotImplementedError


def _infer_sizes(weights: Weights) -> dict[str, int]:
    """Return the config sizes that can be inferred from the shapes."""
    sizes = {}
    layers = count_layers(weights)
    if layers:  # otherwise a static or incomplete model
        sizes["num_hidden_layers"] = layers
    for name in (WORDS, POSITIONS, "encoder.layers.0.linear1.weight"):
        axes = find_axes(name)  # config keys of the sizes
        if name in weights and len(weights.shape(name)) == len(axes):
            sizes |= dict(zip(axes, weights.shape(name)))
    return sizes


def read_labels(
    raw_config: Mapping[str, Any], key: str, path: Path | None, num_outputs: int = 0
) -> list[str]:
    """Read the label names of a config, in the order of their ids; [] if missing, or if LABEL_0, LABEL_1, ...

    Args:
        raw_config: contents of the config.
        key: key of a list of names, or of a dict id -> name.
        path: path of the config, for messages.
        num_outputs: number of outputs of the classifier. LABEL_0, LABEL_1, ... count as names if their
            number differs from several outputs.

    Raises:
        UserError: the value is invalid, contradicts label2id, or has a duplicate label.
    """
    names = raw_config.get(key) or []
    if isinstance(names, dict) and all(re.fullmatch("[0-9]{1,9}", id_) for id_ in names):
        id_of = raw_config.get("label2id") or {}
        for id_, name in names.items():
            if isinstance(id_of, dict) and str(id_of.get(str(name), int(id_))) != str(int(id_)):
                raise UserError(
                    f"{path}: {key} maps {id_} to '{format_value(name)}', but label2id maps that name to "
                    f"{format_value(id_of[str(name)])}. Correct the one that differs from the training"
                )
        names = [str(names[id_]) for id_ in sorted(names, key=int)]
        if names == make_numbered_labels(len(names)) and (num_outputs < 2 or len(names) == num_outputs):
            names = []
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(
            f"{path}: invalid {key} {format_value(names)} (expected a list of names, or a name for each id)"
        )
    labels = [str(name) for name in names]
    same = [label for label, count in Counter(labels).items() if count > 1]
    if same:
        raise UserError(
            f"{path}: duplicate label '{same[0]}' ({labels.count(same[0])} times): its probabilities "
            "would be ambiguous. Give each label its own name"
        )
    return labels


def make_numbered_labels(count: int) -> list[str]:
    """Return transformers' default label names: LABEL_0, LABEL_1, ..."""
    return [f"LABEL_{i}" for i in range(count)]
