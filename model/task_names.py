"""The one name of each task, and the words that files and commands use for it. No Paddle here."""

CLASSIFICATION, TAGGING, QUESTION_ANSWERING = "classification", "tagging", "question_answering"
ENCODING = "encoding"
# The tasks whose model has a layer named "classifier".
WITH_CLASSIFIER = (CLASSIFICATION, TAGGING, QUESTION_ANSWERING)

# name -> what official checkpoints call its head; our class of it ("architecture" in config.json); the word
# of predict.py --task; "task" in the config.json of older checkpoints
_OTHER_WORDS = {
    CLASSIFICATION: ("cls", "SequenceClassifier", "classify"),
    TAGGING: ("seq_label", "TokenClassifier", "tag", "sequence_labeling"),
    QUESTION_ANSWERING: ("mrc", "SpanClassifier", "answer", "question answering"),
    ENCODING: ("encode",),
}
_NAMES = {word: name for name, words in _OTHER_WORDS.items() for word in words}


def task_named(word: str) -> str:
    """The name of the task that a word stands for; a word that stands for none is returned as it is."""
    return _NAMES.get(word, word)
