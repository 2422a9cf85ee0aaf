"""The one name of each task, and the words that files and commands use for it. No Paddle here."""

CLASSIFICATION = "classification"
TAGGING = "tagging"
QUESTION_ANSWERING = "question_answering"
ENCODING = "encoding"
RETRIEVAL = "retrieval"
# The class of `model.heads` for each task whose model has a layer named "classifier".
MODEL_CLASSES = {
    CLASSIFICATION: "SequenceClassifier",
    TAGGING: "TokenClassifier",
    QUESTION_ANSWERING: "SpanClassifier",
}
# What a model gives for each task, in this order; shapes: inference/onnx.py.
OUTPUTS = {
    CLASSIFICATION: ("logits",),
    TAGGING: ("logits",),
    QUESTION_ANSWERING: ("start_logits", "end_logits"),
    ENCODING: ("sequence", "pooled"),
}

# name -> the word of predict.py --task, the official word (also "head" in config.json), and the word that was
# "task" in config.json
_OTHER_WORDS = {
    CLASSIFICATION: ("classify", "cls"),
    TAGGING: ("tag", "seq_label", "sequence_labeling"),
    QUESTION_ANSWERING: ("answer", "mrc", "question answering"),
    ENCODING: ("encode",),
}
_NAMES = {word: name for name, words in _OTHER_WORDS.items() for word in words}
_NAMES |= {word: name for name, word in MODEL_CLASSES.items()}


def task_named(word: str) -> str:
    """The name of the task that a word stands for; a word that stands for none is returned as it is."""
    return _NAMES.get(word, word)
