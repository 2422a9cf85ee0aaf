"""What a format is: how its folders are recognized, read and written. Each has a file here or in foreign/."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint.key_mapping import LM, POSITIONS, WORDS, Names, count_layers, find_axes
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import PreprocessingConfig, TextRules, read_preprocessing
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_config import check_ids
from ernie_m.reader.tokenizer_json import no_piece_model
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import Folder
from ernie_m.utils.logging import logger

# The keys of other libraries for which our model has a single value.
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


@dataclass(frozen=True)
class Source:
    """What a format has found in a folder, before anything is translated.

    Attributes:
        folder: the one that has the model card and the means of its languages.
        weights: under their names in the file.
        raw_config: the contents of its config; empty if there is none.
        config_path: None if there is no config file.
        tokenizer_folders: where its tokenizer may be, the most likely folder first.
        tasks: what it may be for, by its class or its tensors: keys of `Names.classes`. The heads of all of
            these have the same names; only the user can say which one it is.
        root: the folder that was opened, which may have the modules of sentence-transformers.
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
        """Return the file of the weights, or the official parameter directory; messages name it."""
        return Path(self.weights.source)

    @property
    def task(self) -> str | None:
        """What the model was fine-tuned for; None: nothing, or the files do not say."""
        return self.tasks[0] if len(self.tasks) == 1 and self.tasks[0] != LM else None

    def first(self, names: Sequence[str]) -> Path | None:
        """Return the first file of these in the first folder of the tokenizer that has one.

        None: none has.
        """
        paths = [folder.first(names) for folder in self.tokenizer_folders]
        return next((path for path in paths if path), None)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of any format. Names and shapes are known; a tensor is read when it is accessed.

    Attributes:
        path: the folder or file that was opened.
        folder: the one that has its model card and the means of its languages. What was read of its files is
            kept until there is a tokenizer.
        format: the name of its format, such as "ernie-m" or "paddlenlp".
        tensors: our name -> array.
        config: the model's shape; None if there is no config file, which only our own and the official format
            can do without.
        task: what the model was fine-tuned for: a task of `ernie_m.model.tasks`, or
            `key_mapping.CHOICE`; None: nothing, or the files do not say.
        labels: the names of the labels, in the order of their ids; empty if the files do not say.
        settings: the keys of our config.json in addition to the model's shape and "reading", such as
            "languages" and "step"; empty in other formats.
        preprocessing: how the model reads its inputs.
        preprocessing_errors: in words, what the model was trained with that this project cannot do;
            usually empty.
        config_path, vocab_path, piece_model_path, language_means_path: None if there is no such file.
        dropped: name in the source -> why the tensor was not taken.
        unknown: names in the source that were not understood, and were left out because that was asked for.
    """

    path: Path
    folder: Folder
    format: str
    tensors: Weights
    config: ErnieMConfig | None
    task: str | None
    labels: list[str]
    settings: dict[str, Any]
    preprocessing: PreprocessingConfig
    preprocessing_errors: list[str]
    config_path: Path | None
    vocab_path: Path | None
    piece_model_path: Path | None
    language_means_path: Path | None
    dropped: dict[str, str]
    unknown: list[str]

    @property
    def files(self) -> list[Path]:
        """What it is read from; of weights in several files their index or their folder."""
        others = (self.config_path, self.vocab_path, self.piece_model_path, self.language_means_path)
        return [Path(self.tensors.source), *filter(None, others)]

    @property
    def shape(self) -> ErnieMConfig:
        """`config`, where there must be one.

        Raises:
            UserError: there is none.
        """
        if self.config is None:
            raise UserError(
                f"{self.path}: missing config.json or ernie_config.json. Put it next to the weights (a "
                "command with --ernie_config_path can also read it elsewhere)"
            )
        return self.config

    @property
    def has_pooler(self) -> bool:
        """Return whether there is a pooler among the weights.

        Where there is none, that of a model is random.
        """
        return "pooler.dense.weight" in self.tensors

    def tokenizer(
        self, vocab_path: str | Path | None = None, piece_model_path: str | Path | None = None
    ) -> Tokenizer:
        """Return the tokenizer of the folder; its files must agree.

        Args:
            vocab_path, piece_model_path: files to read in place of the folder's; None: those. Of a
                piece_model_path alone the vocabulary is derived.

        Raises:
            UserError: there is none, a file is corrupt, or two files disagree.
        """
        pieces = piece_model_path or self.piece_model_path
        if pieces is None:
            raise no_piece_model(self.path)
        vocab = vocab_path or (None if piece_model_path else self.vocab_path)
        tokenizer = Tokenizer(vocab, pieces, self.preprocessing.text_rules, self.preprocessing.added_tokens)
        if vocab == self.vocab_path and pieces == self.piece_model_path:
            location = Path(pieces).parent
            check_ids(self.folder if location == self.folder.path else Folder(location), tokenizer)
        self.folder.forget()
        return tokenizer


class Format(Names):
    """A format. One that is only read has no `library`, and one that is only written no `find`.

    Attributes:
        name: what messages call it.
        needs_config: whether nothing can be done without its config.
        defaults: the values of keys that its config may leave out, where ours are others.
        labels_key: the key of its config that has the labels, for `labels_of`.
        ignored: a key that its library ignores, whatever a config says.
        has_own_vocab: whether vocab.txt gives the ids of tokens; otherwise the SentencePiece model does.
        library: that of the model card.
        tokenizer_form: the form of its tokenizer's files, a key of `WRITERS` in
            `ernie_m.model.checkpoint.write_foreign`.
        text_rules: those of its library's tokenizer; None: its files say them.
        keeps_added_tokens: whether its tokenizer's files have a place for added tokens.
        separators: how many [SEP] stand before a context; None: its files say it.
    """

    name: str
    needs_config = False
    defaults: Mapping[str, Any] = {}
    labels_key = "id2label"
    ignored = ""
    has_own_vocab = True
    library = ""
    tokenizer_form = "ernie-m"
    text_rules: TextRules | None = None
    keeps_added_tokens = False
    separators: int | None = 2

    def find(self, folder: Folder) -> Source | None:
        """The checkpoint of this format in a folder; None: there is none.

        Raises:
            UserError: there is one, and it cannot be read.
        """
        raise NotImplementedError

    def check(self, config: ErnieMConfig) -> None:
        """Refuse, by a UserError, a shape that the format cannot have."""

    def config(self, source: Source, weights: Weights) -> ErnieMConfig:
        """Return the model's shape. If file and weights disagree on a size, log it and use the weights.

        Args:
            weights: under our names.

        Raises:
            UserError: another architecture, or a size that neither file nor weights show, such as the heads.
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

    def settings(self, source: Source, config: ErnieMConfig | None) -> dict[str, Any]:
        """`Checkpoint.settings`; by default nothing."""
        return {}

    def preprocessing(
        self,
        source: Source,
        weights: Weights,
        config: ErnieMConfig | None,
        labels: list[str],
        drop_unknown: bool,
    ) -> tuple[PreprocessingConfig, list[str]]:
        """How the model reads, and what its makers did in another way than this project can, in words.

        Args:
            weights: under our names.
            drop_unknown: as for `ernie_m.model.checkpoint.open.open_checkpoint`.

        Raises:
            UserError: a file is corrupt, two files disagree, or they say what is not understood.
        """
        return read_preprocessing(source.raw_config, source.config_path), []

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write weights, in float32, and config into an existing folder.

        Args:
            checkpoint: what is converted.
            weights: under the names of the format.
            task: from `kind`.

        Returns:
            The names of the files that say how a text gets its vector; for most formats none.

        Raises:
            UserError: a size that the format cannot have.
        """
        raise NotImplementedError


def _infer_sizes(weights: Weights) -> dict[str, int]:
    """Return the config keys that the shapes show."""
    sizes = {}
    layers = count_layers(weights)
    if layers:  # otherwise it is a static model, or incomplete
        sizes["num_hidden_layers"] = layers
    for name in (WORDS, POSITIONS, "encoder.layers.0.linear1.weight"):
        axes = find_axes(name)  # the config's keys for the sizes
        if name in weights and len(weights.shape(name)) == len(axes):
            sizes |= dict(zip(axes, weights.shape(name)))
    return sizes


def labels_of(raw_config: Mapping[str, Any], key: str, path: Path | None, outputs: int = 0) -> list[str]:
    """Return the names of the labels, in the order of their ids; [] if a config has none, or LABEL_0, ...

    Args:
        key: of a list of the names, or of id -> name.
        path: of the config.
        outputs: how many a classifier has; where it has several, other numbers of LABEL_0, ... are names.

    Raises:
        UserError: it has something else at the key, label2id gives a name another id, or two labels have one
            name.
    """
    names = raw_config.get(key) or []
    if isinstance(names, dict) and all(re.fullmatch("[0-9]{1,9}", id_) for id_ in names):
        id_of = raw_config.get("label2id") or {}
        for id_, name in names.items():
            if isinstance(id_of, dict) and str(id_of.get(str(name), int(id_))) != str(int(id_)):
                raise UserError(
                    f"{path}: {key} calls {id_} '{shown(name)}', and label2id gives that name "
                    f"{shown(id_of[str(name)])}; correct the one that is not of the training"
                )
        names = [str(names[id_]) for id_ in sorted(names, key=int)]
        if names == numbered(len(names)) and (outputs < 2 or len(names) == outputs):
            names = []
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(
            f"{path}: invalid {key} {shown(names)} (expected a list of names, or a name for each id)"
        )
    labels = [str(name) for name in names]
    same = [label for label, count in Counter(labels).items() if count > 1]
    if same:
        raise UserError(
            f"{path}: duplicate label '{same[0]}' ({labels.count(same[0])} times): its probabilities "
            "would be ambiguous. Give each label its own name"
        )
    return labels


def numbered(count: int) -> list[str]:
    """Return the names that transformers gives to labels without names."""
    return [f"LABEL_{i}" for i in range(count)]
