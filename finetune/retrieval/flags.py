"""The flags of run_retrieval.py. No paddle here: reader processes load it."""

import dataclasses
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Literal

from finetune.report import check_recipe
from model.task_names import CLASSIFICATION, QUESTION_ANSWERING, TAGGING
from utils.args import integers
from utils.errors import UserError

TASKS = (CLASSIFICATION, TAGGING, QUESTION_ANSWERING, "retrieval")
# What may change when a run goes on: it decides nothing of what is learned. The corpus and the weights are
# compared by their contents.
FREE = (
    "init_pretraining_params", "init_task", "init_checkpoint", "ernie_config_path", "vocab_path", "use_cuda",
    "piece_model_path", "checkpoints", "overwrite", "paper", "xtreme_save", "pairs", "languages", "src_file",
    "tgt_file", "dev_pairs", "score", "neighbours", "batch_tokens", "train_set", "do_train", "recompute",
    "skip_steps", "save_steps", "keep_checkpoints",
)  # fmt: skip
LARGEST_MARGIN = 1024  # neighbours: faiss keeps so many per query without complaint


@dataclass
class RetrievalFlags:
    """Model and data, evaluation, then training. Names are the official ones where there is one.

    Args:
        init_pretraining_params: weights: the best XNLI checkpoint in the paper's recipe; none: random
            weights; %d in it stands for the seed: checkpoints/seed_%d/best
        init_task: refuse other weights than those fine-tuned for this task: classification, tagging,
            question_answering or retrieval
        init_checkpoint: a step folder of a retrieval run: go on from it (--do_train true)
        ernie_config_path: ernie_config.json; not needed where it lies beside the weights
        vocab_path: vocab.txt; without it the vocabulary is derived as XLM-R does
        piece_model_path: sentencepiece model; not needed where it lies beside the weights
        max_seq_len: longest sentence in tokens, specials included; what is longer is cut
        use_cuda: use GPUs where there are any
        random_seed: of everything that is random; or several (1,2,3) that are run in turn
        checkpoints: folder for step_N, best and the results
        overwrite: begin anew: remove what a run left in --checkpoints
        paper: show the paper's figures of this recipe: tatoeba_cross_lingual_transfer, tatoeba_fine-tuning
        xtreme_save: folder for the predictions in XTREME's layout; none: checkpoints/predictions/tatoeba
        pairs: folder of <language>-en.<language> and .en, or of tatoeba.<lan>-eng.<lan> and .eng
        languages: codes of XTREME, comma between; none: all that are in the folder
        src_file: one bitext instead of a folder: its sentences
        tgt_file: and their translations, line by line; the queries of the first direction
        layer: of mean and specials: a number (0: the embeddings), middle, top; sweep: a table of all; dev:
            the layer that is best on --dev_pairs
        dev_pairs: a folder like --pairs, for --layer dev
        pooling: mean over the tokens; specials: also over [CLS] and [SEP]; pooled: the pooled [CLS]
        score: cosine, or margin: the ratio to the mean of the nearest neighbours of both sides
        neighbours: k of the margin
        batch_tokens: padded tokens in one forward pass
        do_train: fine-tune first, by hardest-negative binary cross-entropy
        train_set: corpus folder of pretrain.build_corpus; its parallel text
        max_steps: of training
        batch_size: pairs of a step, over all processes; each is a negative of all others
        learning_rate: peak rate
        warmup_proportion: share of all steps
        weight_decay: decoupled decay
        layerwise_lr_decay: layer i of L learns at rate x d^(L-i); 1: all alike
        lr_schedule_style: after warm-up: 1-t/T, or straight to 0
        pair_alpha: language pairs are drawn by their size to this power
        scale: the logit of a pair is scale x (cosine - offset)
        offset: the cosine at which a pair is as likely a translation as not
        amp: mixed precision on GPU
        recompute: recompute activations in the backward pass; less memory
        skip_steps: log the loss every so many steps
        validation_steps: search the corpus' held-out pairs so often, first and last; the best is kept
        validation_pairs: of each language pair; 0: no validation
        save_steps: a checkpoint step_N so often, and at the end
        keep_checkpoints: the last so many step_N stay
        dtype: of the weights; float64 is for checks
    """

    init_pretraining_params: str | None = None
    init_task: str | None = None
    init_checkpoint: str | None = None
    ernie_config_path: str | None = None
    vocab_path: str | None = None
    piece_model_path: str | None = None
    max_seq_len: int = 512
    use_cuda: bool = True
    random_seed: int | str = 1
    checkpoints: str = "checkpoints"
    overwrite: bool = False
    paper: str | None = None
    xtreme_save: str | None = None

    pairs: str | None = None
    languages: str | None = None
    src_file: str | None = None
    tgt_file: str | None = None
    layer: str = "middle"
    dev_pairs: str | None = None
    pooling: Literal["mean", "specials", "pooled"] = "mean"
    score: Literal["cosine", "margin"] = "cosine"
    neighbours: int = 4
    batch_tokens: int = 4096

    do_train: bool = False
    train_set: str | None = None
    max_steps: int = 200_000
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup_proportion: float = 0.1
    weight_decay: float = 0.0
    layerwise_lr_decay: float = 1.0
    lr_schedule_style: Literal["official", "paddlenlp"] = "official"
    pair_alpha: float = 0.7
    scale: float = 20.0
    offset: float = 0.5
    amp: Literal["none", "bf16", "fp16"] = "none"
    recompute: bool = False
    skip_steps: int = 10
    validation_steps: int = 1000
    validation_pairs: int = 500
    save_steps: int = 10_000
    keep_checkpoints: int = 2
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Refuse what does not go together, before a file is read."""
        # An empty value takes back what a script gave.
        for name in ("init_pretraining_params", "init_checkpoint", "ernie_config_path", "vocab_path",
                     "piece_model_path", "pairs", "languages", "src_file", "tgt_file", "dev_pairs", "paper",
                     "xtreme_save", "init_task"):  # fmt: skip
            setattr(self, name, getattr(self, name) or None)
        check_recipe(self.paper)
        if self.init_task not in (None, *TASKS):
            raise UserError(f"--init_task {self.init_task}: {', '.join(TASKS)}")
        seeds = self.seeds
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise UserError(f"--random_seed {self.random_seed}: seeds are not negative and differ")
        if len(seeds) > 1 and self.layer == "sweep":
            raise UserError("--layer sweep: one seed at a time")
        if not (self.do_train or self.pairs or self.src_file):
            raise UserError("nothing to do: give --pairs or --src_file and --tgt_file, or --do_train true")
        if self.pairs and self.src_file:
            raise UserError("--pairs and --src_file are both given; search one of them at a time")
        if bool(self.src_file) != bool(self.tgt_file):
            raise UserError("--src_file and --tgt_file go together: a bitext has two sides")
        if self.do_train and not self.train_set:
            raise UserError("--train_set is needed with --do_train true: a corpus of pretrain.build_corpus")
        if self.init_checkpoint and not self.do_train:
            raise UserError("--init_checkpoint resumes --do_train true; to search with it, name it with "
                            "--init_pretraining_params")  # fmt: skip
        if self.languages and self.src_file:
            raise UserError("--languages takes some of the languages of --pairs; --src_file has one alone")
        if self.dev_pairs and self.layer != "dev":
            raise UserError(f"--dev_pairs: --layer {self.layer} chooses nothing on them; give --layer dev")
        if self.layer == "dev" and not self.dev_pairs:
            raise UserError("--dev_pairs is needed with --layer dev: the bitexts that the layer is chosen on")
        if self.do_train and self.layer in ("dev", "sweep"):
            raise UserError(f"--layer {self.layer}: training needs one layer: a number, middle or top")
        if self.pooling == "pooled" and self.layer in ("dev", "sweep"):
            raise UserError(f"--layer {self.layer}: --pooling pooled is that of the top layer alone")
        if not 1 <= self.neighbours <= LARGEST_MARGIN:
            raise UserError(f"--neighbours {self.neighbours}: between 1 and {LARGEST_MARGIN}")
        for name in ("max_steps", "batch_tokens", "skip_steps", "validation_steps", "save_steps",
                     "keep_checkpoints"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: it must be at least 1")
        for name in ("learning_rate", "weight_decay", "validation_pairs"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: it must not be negative")
        if not 0 <= self.warmup_proportion <= 1:
            raise UserError(f"--warmup_proportion {self.warmup_proportion}: it is a share, between 0 and 1")
        if not 0 < self.layerwise_lr_decay <= 1:
            raise UserError(f"--layerwise_lr_decay {self.layerwise_lr_decay}: above 0 and at most 1")
        if self.scale <= 0:
            raise UserError(f"--scale {self.scale}: it must be above 0")
        if self.batch_size < 2:
            raise UserError(f"--batch_size {self.batch_size}: a pair needs another one as its negative")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds to run in turn."""
        try:
            return integers(str(self.random_seed))
        except ArgumentTypeError as error:
            raise UserError(f"--random_seed {self.random_seed}: {error}") from error

    def of_seed(self, seed: int) -> "RetrievalFlags":
        """The flags of one seed."""
        weights = self.init_pretraining_params
        return dataclasses.replace(
            self, random_seed=seed, init_pretraining_params=weights and weights.replace("%d", str(seed))
        )
