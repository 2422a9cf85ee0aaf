"""Names that are not known: what has taken their place, or the known name that is meant."""

import difflib
from collections.abc import Collection

# Words of other programs -> those of the options here.
OTHER_WORDS = {
    "lr": "learning_rate",
    "max_length": "max_seq_len",
    "max_seq_length": "max_seq_len",
    "max_steps": "steps",
    "micro_batch_size": "micro_batch_tokens",
    "model_name_or_path": "init_pretraining_params",
    "num_train_epochs": "epoch",
}
# Flags and keys that have gone -> what takes their place.
GONE = {
    **dict.fromkeys(
        ("columns", "delimiter", "encoding", "on_error", "only", "text_as_it_stands"),
        "files as --help says; ernie-m fit reads tables",
    ),
    **dict.fromkeys(("language_embedding", "pseudo_positions", "pseudo_proportion"), "its default"),
    **dict.fromkeys(
        ("host", "log_level", "max_batch_tokens", "max_queue", "port", "serve", "timeout", "token_file"),
        "ernie-m serve",
    ),
    "any_version": "nothing: each package comes in the version whose SHA-256 is known",
    "batch_tokens": "--max_batch_tokens",
    "check_sentences": "predictions with --engine onnx, and without",
    "check_set": "predictions with --engine onnx, and without",
    "decay_style": "its default, as in the official code",
    "dev_pairs": "--pairs",
    "dev_share": "a file of --dev_set, or ernie-m fit, which holds rows out",
    "ernie_config_path": "the folder of --model, which has its config.json",
    "fallback_of": "the model's scores on other text",
    "formats": "--format paddle or onnx",
    "gold": "--threshold, by the scores in scores.tsv",
    "gxlt_set": "--test_set, for each file",
    "head_start": "--init.word_table",
    "gradient_accumulation_steps": "--recipe_devices, so many times the number of devices",
    "header": "names of columns, or numbers, which say that there is no header",
    "init.head_start": "--init.word_table",
    "int8": "--format onnx, or --amp bf16",
    "keep_rest": "--drop_unknown",
    "label_map_config": "the folder of --model, which has its labels",
    "link": "nothing: the folder holds the encoder, too",
    "margin": "its default, ratio",
    "mask_rate": "its default, as in the paper",
    "max_seq_len": "what the folder says, or the whole text",
    "max_tokens": "text that is chosen before",
    "min_tokens": "text that is chosen before",
    "min_score": '--only "COLUMN>=SCORE"',
    "multi_label": "ernie-m fit --task multi-label",
    "near_duplicates": "--deduplicate, or vectors as in docs/recipes.md",
    "neighbours": "its default, 4",
    "objectives.pseudo_choice": "--objectives.pseudo_temperature, above 0 to sample",
    "objectives.temperature": "--objectives.pseudo_temperature",
    "objectives.pseudo_pieces": "--objectives.min_piece_count, 0 for all pieces",
    "objectives.monolingual_share": "--objectives.shares",
    "data.parallel_share": "--objectives.shares",
    "piece_model_path": "the folder of --model, which has its vocabulary; of show_masks, words",
    "print_config": "config.yaml in the folder of a run",
    "ray": "the texts in several files",
    "reduce_range": "--format onnx, or --amp bf16",
    "retrieval": "its default, max",
    "run.stall_seconds": "--run.stall_ends_seconds",
    "run.visualdl": "metrics.jsonl, which pandas draws",
    "score_column": "--only",
    "select_by": "its default, accuracy; ernie-m fit shows scores by label",
    "show_pairs": "nothing: pairs of every two languages are shown",
    "skip_bad_utf8": "--encoding",
    "src_file": "--pairs",
    "table6": "configs/pretrain/exp1.yaml, and those beside it",
    "teacher": "--loss softmax with given negatives (--mine_negatives)",
    "tgt_file": "--pairs",
    "threads": "the variable OMP_NUM_THREADS",
    "token": "ernie-m serve with --token_file, or with the variable ERNIE_M_TOKEN",
    "tsv_columns": "--columns",
    "use_cuda": "the variable CUDA_VISIBLE_DEVICES, empty for the CPU",
    "vocab_path": "the folder of --model, which has its vocabulary",
    "word_column": "--columns WORDS,TAGS",
    "visualdl": "metrics.jsonl, which pandas draws",
    "with_apt": "nothing: pip fetches the text",
    "xtreme_save": "--test_save",
}
# Keys that have gone, in configurations that runs saved -> the value with which they did what is done now.
AS_NOW = {
    "init.head_start": "false",
    "objectives.pseudo_choice": "argmax",
    "objectives.pseudo_pieces": "frequent",
    "objectives.temperature": "1.0",
    "run.stall_seconds": "60.0",
    "run.visualdl": "false",
}
# The names of tasks that have gone -> those that take their place.
GONE_TASKS = {
    **dict.fromkeys(("classify", "classes"), "classification"),
    "labels": "multi-label",
    "score": "regression",
    **dict.fromkeys(("tag", "tags", "tagging"), "token-classification"),
    **dict.fromkeys(("answer", "answers", "question_answering"), "question-answering"),
    **dict.fromkeys(("encode", "encoding"), "embedding"),
    "retrieval": "search",
    **dict.fromkeys(("fill", "translate-probe"), "fill-mask"),
}


def advice_on(name: str, known: Collection[str], dashes: str = "") -> str:
    """What to give in place of an unknown name: what has taken its place, or the known name most like it.

    Args:
        name, known: names; those of options may be "section.key".
        dashes: what stands before a name.
    """
    section, dot, part = name.rpartition(".")
    meant = OTHER_WORDS.get(part, part)

    def likeness(key: str) -> float:
        short = key.rpartition(".")[2]
        return difflib.SequenceMatcher(None, section + dot + meant, key if section else short).ratio()

    if name in GONE and not any(key.endswith((f".{name}", f"_{name}")) for key in known):
        return f"it has gone; instead: {GONE[name]}"
    keys = [key for key in known if key.startswith(f"{name}.")]
    if keys:
        return f"it is a section; give its keys, such as {keys[0]}, and in YAML a space behind each colon"
    # As seed for random_seed, a section for a key in it, max_limit for limit, and slips.
    near = [key for key in known if meant in key or key in meant.split("_") or likeness(key) >= 0.75]
    if not near:
        return "--help lists what there is"
    return f"did you mean {dashes}{max(near, key=lambda key: (meant in key, likeness(key)))}?"
