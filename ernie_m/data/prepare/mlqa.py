"""MLQA, SQuAD and XQuAD: questions on texts."""

from collections.abc import Iterator

from ernie_m.data.prepare.data_set import LANGUAGE, SPLIT, DataFile, DataSet, Prepared
from ernie_m.reader.files.squad import read_squad


def read_questions(file: DataFile) -> Iterator[Prepared]:
    """A file in SQuAD's form, checked.

    Raises:
        UserError: as `read_squad`.
    """
    # Ids may repeat in training files; in dev and test every answer needs its own.
    content = read_squad(file.path, purpose="train" if file.split == "train" else "dev")
    unanswered = sum(question.span is None for question in content.questions)
    counts = {"texts": len(content.contexts), "questions": len(content.questions), "unanswered": unanswered}
    yield Prepared(file.language or "en", file.path.read_bytes(), (), counts)


MLQA = DataSet(
    languages=("en", "es", "de", "ar", "hi", "vi", "zh"),
    names=(
        rf"(?P<split>dev|test)-context-{LANGUAGE}-question-(?P=language)\.json",
        rf"{SPLIT}[.-]{LANGUAGE}(?:[.-].*)?\.json",
        rf"(?P<split>xquad)\.{LANGUAGE}\.json",
        r"(?P<split>train)-v1\.1\.json",
        r"(?P<split>train|dev)-v2\.0\.json",
    ),
    read=read_questions,
    ending="json",
)
