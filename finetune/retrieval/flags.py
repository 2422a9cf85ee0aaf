"""The flags of run_retrieval.py. Reader processes import this file, so it does not import Paddle."""

import dataclasses
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Any, Literal

from finetune.report import check_recipe
from model.task_names import CLASSIFICATION, QUESTION_ANSWERING, TAGGING
from utils.args import integers
from utils.errors import UserError

TASKS = (CLASSIFICATION, TAGGING, QUESTION_ANSWERING, "retrieval")
# Flags that may change when a run continues, because they do not affect what is learned. The corpus and the
# weights are compared by their contents.
FREE = (
    "init_pretraining_params", "init_task", "init_checkpoint", "ernie_config_path", "vocab_path", "use_cuda",
    "piece_model_path", "checkpoints", "overwrite", "paper", "xtreme_save", "pairs", "languages", "src_file",
    "tgt_file", "dev_pairs", "untrained", "score", "neighbours", "batch_tokens", "train_set", "do_train",
    "recompute", "skip_steps", "save_steps", "keep_checkpoints", "stall_ends_seconds",
)  # fmt: skip
LARGEST_MARGIN = 1024  # neighbours: faiss keeps so many per query without complaint


@dataclass
class RetrievalFlags:
    """Model and data, then the search, then training. Names are the official ones where there is one.

    Args:
        init_pretraining_params: weights (the paper: the best XNLI checkpoint); default: random weights; %d
            is replaced by the seed: checkpoints/seed_%d/best
        init_task: refuse weights that were not fine-tuned for this task: classification, tagging,
            question_answering or retrieval
        init_checkpoint: a step folder of a retrieval run from which to continue (--do_train true)
        ernie_config_path: ernie_config.json; default: the one in the folder of the weights
        vocab_path: vocab.txt; without it the vocabulary is derived as XLM-R does
        piece_model_path: sentencepiece model; default: the one in the folder of the weights
        max_seq_len: longest sentence in tokens, specials included; longer ones are cut
        use_cuda: use GPUs if there are any
        random_seed: one seed, or several (1,2,3) that are run in turn
        checkpoints: folder for step_N, best and the results
        overwrite: start anew: remove what a run left in --checkpoints
        paper: show the paper's figures of this recipe: tatoeba_cross_lingual_transfer, tatoeba_fine-tuning
        xtreme_save: folder for the predictions in XTREME's layout; default: checkpoints/predictions/tatoeba
        pairs: folder of <language>-en.<language> and .en, or of tatoeba.<lan>-eng.<lan> and .eng
        languages: codes of XTREME, separated by commas; default: all in the folder
        src_file: the sentences of a single bitext, instead of a folder
        tgt_file: their translations, line by line; the queries of the first direction
        layer: layer of mean and specials: a number (0: the embeddings), middle, top; sweep: a table of all
            layers; dev: the layer that is best on --dev_pairs
        dev_pairs: a folder like --pairs, for --layer dev
        untrained: search with the same model with random weights, too, and show it in the tables; its layer
            is chosen in the same way
        pooling: mean over the tokens; specials: including [CLS] and [SEP]; pooled: the pooled [CLS]
        score: cosine, or margin: the ratio to the mean of the nearest neighbours of both sides
        neighbours: number of neighbours of the margin
        batch_tokens: padded tokens in one forward pass
        do_train: fine-tune first, with hardest-negative binary cross-entropy
        train_set: corpus folder of pretrain.build_corpus; its parallel text is used
        max_steps: number of training steps
        batch_size: pairs of a step, over all processes; each pair is a negative of all others
        learning_rate: peak rate
        warmup_proportion: share of all steps
        weight_decay: decoupled decay
        layerwise_lr_decay: layer i of L learns at rate x d^(L-i); 1: all layers alike
        lr_schedule_style: after warm-up: 1-t/T, or straight to 0
        pair_alpha: language pairs are drawn in proportion to their size to this power
        scale: the logit of a pair is scale x (cosine - offset)
        offset: the cosine at which the probability of a translation is one half
        amp: mixed precision on GPU
        recompute: recompute activations in the backward pass to save memory
        skip_steps: log the loss every so many steps
        validation_steps: search the held-out pairs of the corpus every so many steps, and first and last; the
            best step is kept
        validation_pairs: number of pairs for each language pair; 0: no validation
        save_steps: save step_N every so many steps, and at the end
        keep_checkpoints: number of newest step_N that are kept
        stall_ends_seconds: several processes: end one that waits longer in a step, an evaluation or a
            checkpoint; 0: never
        dtype: type of the weights; float64 is for checks
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
    untrained: bool = True
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
    stall_ends_seconds: float = 3600.0
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Refuse flags that are out of range or do not go together, before any file is read."""
        for field in dataclasses.fields(self):  # an empty value takes back what a script gave
            if field.default is None:
                setattr(self, field.name, getattr(self, field.name) or None)
        check_recipe(self.paper)
        seeds, chosen = self.seeds, self.layer in ("dev", "sweep")
        refusals = (
            (self.init_task not in (None, *TASKS), f"--init_task {self.init_task}: {', '.join(TASKS)}"),
            (min(seeds) < 0 or len(set(seeds)) < len(seeds),
             f"--random_seed {self.random_seed}: seeds are not negative and differ"),
            (len(seeds) > 1 and self.layer == "sweep", "--layer sweep: one seed at a time"),
            (not (self.do_train or self.pairs or self.src_file),
             "nothing to do: give --pairs or --src_file and --tgt_file, or --do_train true"),
            (self.pairs and self.src_file,
             "--pairs and --src_file are both given; search one of them at a time"),
            (bool(self.src_file) != bool(self.tgt_file),
             "--src_file and --tgt_file go together: a bitext has two sides"),
            (self.do_train and not self.train_set,
             "--train_set is needed with --do_train true: a corpus of pretrain.build_corpus"),
            (self.init_checkpoint and not self.do_train,
             "--init_checkpoint resumes --do_train true; to search with it, name it with "
             "--init_pretraining_params"),
            (self.languages and self.src_file,
             "--languages takes some of the languages of --pairs; --src_file has one alone"),
            (self.dev_pairs and self.layer != "dev",
             f"--dev_pairs: --layer {self.layer} chooses nothing on them; give --layer dev"),
            (self.layer == "dev" and not self.dev_pairs,
             "--dev_pairs is needed with --layer dev: the bitexts that the layer is chosen on"),
            (self.do_train and chosen,
             f"--layer {self.layer}: training needs one layer: a number, middle or top"),
            (self.pooling == "pooled" and chosen,
             f"--layer {self.layer}: --pooling pooled is that of the top layer alone"),
            (not 1 <= self.neighbours <= LARGEST_MARGIN,
             f"--neighbours {self.neighbours}: between 1 and {LARGEST_MARGIN}"),
            *((getattr(self, name) < 1, f"--{name} {getattr(self, name)}: it must be at least 1") for name in
              ("max_steps", "batch_tokens", "skip_steps", "validation_steps", "save_steps",
               "keep_checkpoints")),
            *((getattr(self, name) < 0, f"--{name} {getattr(self, name)}: it must not be negative") for name
              in ("learning_rate", "weight_decay", "validation_pairs", "stall_ends_seconds")),
            (not 0 <= self.warmup_proportion <= 1,
             f"--warmup_proportion {self.warmup_proportion}: it is a share, between 0 and 1"),
            (not 0 < self.layerwise_lr_decay <= 1,
             f"--layerwise_lr_decay {self.layerwise_lr_decay}: above 0 and at most 1"),
            (self.scale <= 0, f"--scale {self.scale}: it must be above 0"),
            (self.batch_size < 2,
             f"--batch_size {self.batch_size}: a pair needs another one as its negative"),
        )  # fmt: skip
        for wrong, message in refusals:
            if wrong:
                raise UserError(message)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order in which they are run."""
        try:
            return integers(str(self.random_seed))
        except ArgumentTypeError as error:
            raise UserError(f"--random_seed {self.random_seed}: {error}") from error

    def of_seed(self, seed: int, **changes: Any) -> "RetrievalFlags":
        """The flags of one seed."""
        weights = self.init_pretraining_params
        weights = weights and weights.replace("%d", str(seed))
        return dataclasses.replace(self, random_seed=seed, **{"init_pretraining_params": weights, **changes})
