"""Tags, tagged files and their model inputs: schemes, errors, subwords, labels and windows, by hand."""

import pickle
from itertools import pairwise

import numpy as np
import pytest

from ernie_m.reader.files.official_tags import (
    JOINT,
    Sentence,
    compute_punctuation_entity_rate,
    find_character_scripts,
    has_separate_punctuation,
    read_tagged_tsv,
    split_words,
)
from ernie_m.reader.tag_schemes import check_tag_map, to_iob2
from ernie_m.reader.tagging_featurizer import (
    IGNORED,
    OfficialTaggingFeaturizer,
    TaggingFeaturizer,
    split_into_windows,
)
from tests.helpers.files import write_file
from tests.helpers.letters import Letters
from tests.launching import error_of

LABELS = {"B-PER": 0, "I-PER": 1, "B-LOC": 2, "I-LOC": 3, "O": 4}
INSIDE = [1, 1, 3, 3, 4]  # label of a word -> label of its further subwords
# As labels of words and subwords:
O = 4  # noqa: E741
X = IGNORED


def test_share_with_entities_at_punctuation():
    """A word with a letter or a digit is none, whatever marks are in it."""
    begins = {0, 2}
    first = Sentence(JOINT.join(["(", "U.S.", "-", "3%", "so"]), (0, 2, 1, 0, 4))
    assert compute_punctuation_entity_rate([first, Sentence(JOINT.join(["“", "a"]), (2, 4))], begins) == 2 / 4
    assert compute_punctuation_entity_rate([Sentence("a", None)], begins) == 0


@pytest.mark.parametrize(
    ("scheme", "tags", "iob2"),
    [
        ("IOB", "I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),
        ("IOB", "I-PER B-PER I-LOC", "B-PER B-PER B-LOC"),  # IOB1: two neighbors of a type, one of another
        ("IOB", "B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),
        ("IOB", "B-PER I-LOC I-LOC O", "B-PER B-LOC I-LOC O"),  # neither IOB1 nor IOB2
        ("IO", "I-PER I-PER O I-LOC I-PER", "B-PER I-PER O B-LOC B-PER"),
        ("IOE", "I-PER E-PER O E-LOC E-LOC", "B-PER I-PER O B-LOC B-LOC"),
        ("IOBES", "B-PER S-PER I-PER S-PER", "B-PER B-PER B-PER B-PER"),  # B- and I- without an end
        ("IOBES", "B-PER I-PER E-PER S-PER O S-LOC", "B-PER I-PER I-PER B-PER O B-LOC"),
    ],
)
def test_convert_tag_schemes_to_iob2(write, scheme, tags, iob2):
    assert to_iob2(tags.split()) == to_iob2(iob2.split()) == iob2.split()
    words, tags = (JOINT.join(row) for row in (["word"] * len(tags.split()), tags.split()))
    (sentence,) = read_tagged_tsv(write(f"text_a\tlabel\n{words}\t{tags}\n"), LABELS, scheme)
    assert sentence.labels == tuple(LABELS[tag] for tag in iob2.split())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"O": 0, "B-PER": 1, "I-PER": 2}, "m.json: "),
        ({"B-PER": 0, "O": 1}, "m.json: invalid label 'B-PER'"),
        ({"PER": 0, "O": 1}, "m.json: invalid label 'PER'"),
        ({"B-": 0, "I-": 1, "O": 2}, "m.json: invalid label 'B-'"),
        ({"B-PER": 0, "I-PER": 1, "X-PER": 2, "O": 3}, "m.json: invalid label 'X-PER'"),
    ],
)
def test_label_maps_that_are_refused(labels, message):
    check_tag_map(LABELS, "m.json")
    assert message in error_of(check_tag_map, labels, "m.json")


@pytest.fixture
def write(tmp_path):
    """write(content) -> the path of a file with it. In a text `+` stands for U+0002, which joins words."""

    def write(content: str | bytes):
        joined = content if isinstance(content, bytes) else content.replace("+", "\x02")
        return write_file(tmp_path / "x.tsv", joined)

    return write


def test_read_rows(write):
    path = write("text_a\tlabel\nEkeus+heads+for+Baghdad\tB-PER+O+O+B-LOC\n前\tO\n")
    sentences = read_tagged_tsv(path, LABELS)
    assert (
        sentences
        == pickle.loads(pickle.dumps(sentences))
        == [
            Sentence("Ekeus\x02heads\x02for\x02Baghdad", (0, 4, 4, 2)),
            Sentence("前", (4,)),
        ]
    )
    assert sentences[0].words == ["Ekeus", "heads", "for", "Baghdad"]
    path = write("text_a\tlabel\na+b\tB-caf\u00e9+O\n")
    labels = {"B-cafe\u0301": 0, "I-cafe\u0301": 1, "O": 2}  # in another normal form
    assert read_tagged_tsv(path, labels) == [Sentence("a\x02b", (0, 2))]
    assert read_tagged_tsv(write("text_a\na+b\n"), LABELS, labels=False) == [Sentence("a\x02b", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text_a\na\n", "line 1: "),
        ("text_a\tlabel\n", "no rows after the header"),
        ("text_a\tlabel\na\n", "line 2: 1 columns"),
        ("text_a\tlabel\n\t\n", "line 2: empty word or tag at position 1 of 1"),
        ("text_a\tlabel\na+b\tO\n", "line 2: 2 words, but 1 tags"),
        ("text_a\tlabel\na+b\tO+\n", "line 2: empty word or tag at position 2 of 2"),
        ("text_a\tlabel\na+b\tO+B-ORG\n", "line 2, token 2: unknown tag 'B-ORG' (--chunk_scheme"),
        ("text_a\tlabel\na+b\tO+X-PER\n", "line 2, token 2: unknown tag 'X-PER'"),
        ("text_a\tlabel\na+b\tO+BPER\n", "line 2, token 2: unknown tag 'BPER'"),
        (b"text_a\tlabel\na\tO\n\xff\tO\n", "line 3: not UTF-8"),
        (
            "text_a\tlabel\nIn Rome\tO B-LOC\nIn+Oslo\tO+O\nNo one\tO\n",
            "2 of 3 rows are not joined by U+0002",
        ),
    ],
)
def test_reject_invalid_rows(write, content, message):
    path = write(content)
    (link := path.with_name("link.tsv")).symlink_to(path)
    assert error_of(read_tagged_tsv, link, LABELS).startswith(f"{link}{', ' * message.startswith('line')}")
    assert message in error_of(read_tagged_tsv, path, LABELS)


@pytest.mark.parametrize(
    ("rows", "is_refused"),
    [
        (["In Rome", "Oslo"], False),
        (["In Rome"], True),
        (["北京是中国的首都。"], True),
        (["北京", "In\u00a0Rome"], False),
        (["In_Rome_and_Oslo_today"], True),
        (["Wirtschaftsminister", "阿尔伯特"], False),
    ],
)
def test_words_that_nothing_joins_are_refused_if_most_rows_have_them(write, rows, is_refused):
    path = write("\n".join(["text_a", *rows, ""]))
    if is_refused:
        assert "U+0002" in error_of(read_tagged_tsv, path, LABELS, labels=False)
    else:
        assert [sentence.text for sentence in read_tagged_tsv(path, LABELS, labels=False)] == rows


def sentence(text: str, *labels: int) -> Sentence:
    """A sentence of words with spaces between them, and their labels."""
    return Sentence(text.replace(" ", JOINT), labels or None)


def encode(text: str, *labels: int, size: int = 512, subwords: str = "first"):
    """The feature of one sentence, of which each letter is a subword.

    Args:
        size: the longest window in tokens.
        subwords: `label_pieces` of `TaggingFeaturizer`.
    """
    (feature,) = TaggingFeaturizer(Letters(), size, INSIDE, subwords)([sentence(text, *labels)])
    return feature


def ids(text: str) -> list[int]:
    """The ids of letters, in which < > _ ? stand for [CLS], [SEP], ▁ and [UNK]."""
    return [{"<": 0, ">": 2, "_": 4, "?": 3}.get(c, ord(c)) for c in text]


# Words, their labels, --label_pieces; the ids (see `ids`), and the labels of the subwords.
@pytest.mark.parametrize(
    "text, labels, subwords, expected_ids, expected",
    [
        ("ab c", (0, O), "first", "<abc>", [X, 0, X, O, X]),
        # A "▁" before a word is not labeled, unless it is the whole word.
        ("_ab _ _c", (0, O, 2), "first", "<_ab__c>", [X, X, 0, X, O, X, 2, X]),
        ("_ab _ _c", (0, O, 2), "leading", "<_ab__c>", [X, 0, X, X, O, 2, X, X]),
        ("abc d ef g", (0, 3, O, 2), "all", "<abcdefg>", [X, 0, 1, 1, 3, O, O, 2, X]),
        ("a - b", (O, 0, 1), "first", "<a?b>", [X, O, 0, 1, X]),  # a word without subwords
    ],
)
def test_labeled_subwords(text, labels, subwords, expected_ids, expected):
    feature = encode(text, *labels, subwords=subwords)
    assert feature.ids == ids(expected_ids) and feature.labels == expected
    # Without labels, as in prediction, the words have the same positions.
    unlabeled = encode(text, subwords=subwords)
    assert set(unlabeled.labels) == {X} and unlabeled.words == feature.words


def test_neighboring_windows_share_two_words():
    """Room for 8 subwords: neighboring windows share 2 words.

    The first of the two is labeled in the earlier window, the second in the later one.
    """
    labels = [0, 1, 2, 3, *[O] * 12]
    feature = encode("a b c d e f g h i j k l m n o p", *labels, size=10)
    assert (feature.ids, feature.widths) == (ids("<abcdefgh>" + "<ghijklmn>" + "<mnop>"), [10, 10, 6])
    # Of each word's labeled subword, "abcdefg" + "hijklm" + "nop".
    positions = [*range(1, 8), *range(12, 18), *range(22, 25)]
    assert [position for position, _ in feature.words] == positions
    expected = [dict(zip(positions, labels)).get(position, X) for position in range(26)]
    assert feature.labels == expected


def test_middle_overlap_word_is_tagged_in_the_earlier_window():
    """12 subwords fit, so the overlap has 3: words 9, 10 and 11. Every word has one subword."""
    first, second = split_into_windows([1] * 20, budget=12)
    # The first word that is tagged in the second window is 11.
    assert (first.end, second.start, first.tagged_end, second.tagged_start) == (12, 9, 11, 11)


def test_truncate_words_longer_than_a_window():
    """8 subwords fit, and the word has 11."""
    feature = encode("a bcdefghijkl m", O, 2, O, size=10, subwords="all")
    labels = [X, O, X, X, 2, *[3] * 7, X, X, O, X]
    assert (feature.ids, feature.labels, feature.cut) == (ids("<a>" + "<bcdefghi>" + "<m>"), labels, 1)
    assert encode("a bcdefghi m", O, 2, O, size=10, subwords="all").cut == 0


@pytest.mark.parametrize("seed", range(10))
def test_windows_over_random_sentences(seed):
    """Each word is tagged in one window, where it has the most context; windows are full and overlap."""
    rng = np.random.default_rng(seed)
    budget = int(rng.integers(6, 40))
    longest_word = min(budget, int(rng.integers(2, 40)))  # subwords
    sizes = rng.integers(1, longest_word + 1, rng.integers(1, 200)).tolist()
    windows = split_into_windows(sizes, budget)
    tagged = [word for window in windows for word in range(window.tagged_start, window.tagged_end)]
    assert tagged == list(range(len(sizes)))
    for window in windows:
        assert window.start <= window.tagged_start < window.tagged_end <= window.end
        assert sum(sizes[window.start : window.end]) <= budget
    for window, following in pairwise(windows):
        assert window.start < following.start <= window.end < following.end
        assert sum(sizes[window.start : window.end + 1]) > budget  # not one word more would fit
        assert sum(sizes[following.start : window.end]) <= budget // 4
        # In the overlap each word is tagged where it stands farther from the edge, by subwords.
        for word in range(following.start, window.end):
            before = sum(sizes[following.start : word])
            after = sum(sizes[word + 1 : window.end])
            assert after >= before if word < window.tagged_end else before >= after


def test_tagging_batch_arrays():
    """Three sentences, the second in two windows, neither full; every subword is labeled."""
    task = TaggingFeaturizer(Letters(), 10, INSIDE, "all")
    features = task([sentence("ab c", 0, O), sentence("a b c d e f g hi j", *[O] * 9), sentence("d", 2)])
    assert task.count_targets(features) == 3 + 10 + 1  # subwords
    batch = task.collate(features, np.array([5, 3, 8]), count=14)
    rows = [ids("<abc>"), ids("<abcdefg>"), ids("<fghij>"), ids("<d>")]
    labels = [[X, 0, 1, O, X], [X, *[O] * 6, X, X], [X, X, *[O] * 4, X], [X, 2, X]]
    # Of each word: its window, its first subword there, and how many it has.
    words_a_to_f = [[1, position, 1] for position in range(1, 7)]
    words_g_to_j = [[2, 2, 1], [2, 3, 2], [2, 5, 1]]
    assert batch.count == 14
    expected = {
        "input_ids": [row + [Letters.pad_id] * (9 - len(row)) for row in rows],
        "labels": [row + [X] * (9 - len(row)) for row in labels],
        "sentences": [0, 1, 1, 2],
        "lengths": [2, 9, 1],
        "words": [[0, 1, 2], [0, 3, 1], *words_a_to_f, *words_g_to_j, [3, 1, 1]],
        "indices": [5, 3, 8],
    }
    assert {name: getattr(batch, name).tolist() for name in expected} == expected


def test_official_labels():
    """Room for 6 subwords: "g" and "h" are truncated. "-" has no subwords, and sentence 3 no labels."""
    task = OfficialTaggingFeaturizer(Letters(), 8, INSIDE)
    features = task([sentence("ab - cde fg h", 0, O, 2, 1, O), sentence("a", O), sentence("ab")])
    words = [(1, 2), (0, 0), (3, 3), (6, 1), (0, 0)]  # (first subword, how many)
    assert (features[0].ids, features[0].words) == (ids("<abcdef>"), words)
    labels = [[O, 0, 1, 2, 3, 3, 1, O], [O] * 3, [O] * 4]
    assert [(feature.labels, feature.cut) for feature in features] == list(zip(labels, (2, 0, 0)))
    assert task.count_targets(features) == 3 * 8  # B x T
    batch = task.collate(features, np.arange(3), count=24)
    # The labeled subwords of each sentence, and of each word.
    counts = ((batch.labels != X).sum(1).tolist(), batch.words[:, 2].tolist())
    assert counts == ([8, 3, 4], [2, 0, 3, 1, 0, 1, 2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sie wohnt in Hamburg.", "Sie|wohnt|in|Hamburg|."),
        ("Die (CDU), so: «Paris»!", "Die|(|CDU|)|,|so|:|«|Paris|»|!"),
        ("U.N. and J. Smith... 3,5 co-op", "U.N.|and|J.|Smith|...|3,5|co-op"),
        ("(U.N., J.?)", "(|U.N.|,|J.|?|)"),
        ("Paris\xa0! \u202fOslo", "Paris|!|Oslo"),
        ("", ""),
    ],
)
def test_split_raw_text_into_words(text, words):
    """Marks are apart as in CoNLL; a no-break space is white space."""
    assert "|".join([text[start:end] for start, end in split_words(text, split_punctuation=True)]) == words
    assert [text[start:end] for start, end in split_words(text, split_punctuation=False)] == text.split()


@pytest.mark.parametrize(
    ("text", "scripts", "words"),
    [
        ("Anna住在Rome，去了《北京》。", ["Han"], "Anna|住|在|Rome|，|去|了|《|北|京|》|。"),
        ("東京タワー へ", ["Han", "kana"], "東|京|タ|ワ|ー|へ"),
        ("東京タワーへ", ["Han"], "東|京|タワーへ"),
        ("บ้าน A1", ["Thai"], "บ|้|า|น|A1"),
        ("ភ្នំ ភ", ["Khmer"], "ភ|្|ន|ំ|ភ"),
        ("서울 2.5km王", ["Hangul", "others"], "서|울|2|.|5|k|m|王"),
        ("서울 王", [], "서울|王"),
    ],
)
def test_characters_that_are_words(text, scripts, words):
    assert "|".join([text[start:end] for start, end in split_words(text, True, scripts)]) == words


@pytest.mark.parametrize(
    ("words", "scripts"),
    [
        ([*"王明住在北京市海淀区", "Anna", "!"], ["Han"]),
        ([*"王明住在北京市海淀"], []),  # nine words
        ([*"王明住在北京市海淀区王明住在北京市海淀", "北京"], ["Han"]),
        ([*"王明住在北京市海淀区王明住在北京市海", "北京", "海淀"], []),  # 18 of 20
        ([*"이순신장군은서울에산다", *"A1B2C3D4E5"], ["Hangul", "others"]),
        ([*"ありがとうございます", "東京", *"ສະບາຍດີປະເທດ"], ["kana", "Lao"]),
        (["I", "like", "a", "b", "c", "d", "e", "f", "g", "h", "cats"], []),
        (["王明"] * 10, []),
    ],
)
def test_scripts_whose_characters_are_words_in_training(words, scripts):
    assert find_character_scripts([Sentence(JOINT.join(words), None)]) == scripts


def test_whether_training_data_has_marks_apart():
    apart = Sentence(JOINT.join(["In", "Rome", ",", "U.N.", ".", "?!", "!!", "??"]), None)
    attached = Sentence(JOINT.join(["In", "Rome,", "so)", "it", "ends!"]), None)
    assert has_separate_punctuation([apart]) and has_separate_punctuation([])
    assert not has_separate_punctuation([apart, attached])
