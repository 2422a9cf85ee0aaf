"""The official code of CoNLL and MLQA in a second, slow form: readers, losses, optimizer and scores.

It has no line in common with what it is compared with. Texts are tokenised with sentencepiece alone, arrays
are padded, and gradients come from the plain encoder of tests/helpers/plain_model.py.
"""

import json
import math
import string
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
import sentencepiece
from paddle import nn

from tests.helpers.plain_model import PAD, PlainErnieM

CLS, SEP, UNK = 0, 2, 3
SPACES = "\t\n\r"


class Pieces:
    """The official tokenizer but for its rule of digits and commas, which the toys do not need."""

    def __init__(self, model: Path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def clean(self, text: str) -> list[tuple[str, int]]:
        """The characters that are left of a text, each with its place in the text."""
        quotes = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}
        kept = []
        for place, character in enumerate(text):
            if is_space(character):
                kept.append((" ", place))
            elif unicodedata.category(character) not in ("Cc", "Cf"):
                kept.append((quotes.get(character, character), place))
        return kept

    def cut(self, text: str) -> list[str]:
        return self.model.EncodeAsPieces("".join(character for character, _ in self.clean(text)))

    def ids(self, pieces: list[str]) -> list[int]:
        """As XLM-R numbers them: a piece of the model has its number + 1."""
        numbers = [self.model.PieceToId(piece) for piece in pieces]
        return [UNK if number == self.model.unk_id() else number + 1 for number in numbers]


def is_space(character: str) -> bool:
    return character in SPACES or unicodedata.category(character) == "Zs"


# Training


class Batch(NamedTuple):
    """Ids [B, T], padded to the longest, and targets: [B, T] with O at pads, or starts and ends [B, 2]."""

    ids: np.ndarray
    targets: np.ndarray


def batches(inputs: list[list[int]], targets: list, size: int, epochs: int, fill: int | None) -> list[Batch]:
    """All epochs, in the order of the file. `fill`: the target of a pad; None: an input has two targets."""
    result = []
    for start in list(range(0, len(inputs), size)) * epochs:
        rows = inputs[start : start + size]
        longest = max(map(len, rows))
        ids = [row + [PAD] * (longest - len(row)) for row in rows]
        of_rows = targets[start : start + size]
        if fill is not None:
            of_rows = [row + [fill] * (longest - len(row)) for row in of_rows]
        result.append(Batch(np.array(ids), np.array(of_rows)))
    return result


class Model(nn.Layer):
    """The encoder and a linear layer on every token, in float64."""

    def __init__(self, config, outputs: int):
        super().__init__()
        self.ernie_m = PlainErnieM(config)
        self.classifier = nn.Linear(config.hidden_size, outputs)

    def forward(self, ids: np.ndarray) -> paddle.Tensor:
        """[B, T] -> logits [B, T, outputs]."""
        return self.classifier(self.ernie_m(paddle.to_tensor(ids)).sequence)


def tagging_loss(logits: paddle.Tensor, batch: Batch) -> paddle.Tensor:
    """The losses of all tokens, [CLS] and [SEP] included, divided by B x T with the pads."""
    losses = F.cross_entropy(logits, paddle.to_tensor(batch.targets), reduction="none").squeeze(-1)  # [B, T]
    return (losses * paddle.to_tensor(batch.ids != PAD).astype(losses.dtype)).mean()


def answering_loss(logits: paddle.Tensor, batch: Batch) -> paddle.Tensor:
    """The mean of start and end over the windows.

    Pads have no probability. This is the one place that differs from the official code, whose softmax
    includes them.
    """
    pads = paddle.to_tensor(batch.ids == PAD).astype(logits.dtype) * -1e30  # [B, T]
    start = F.cross_entropy(logits[:, :, 0] + pads, paddle.to_tensor(batch.targets[:, 0]))
    end = F.cross_entropy(logits[:, :, 1] + pads, paddle.to_tensor(batch.targets[:, 1]))
    return (start + end) / 2


class Recipe(NamedTuple):
    """Values of a command line. `steps`: those of the schedule, epochs x inputs // batch size."""

    rate: float
    weight_decay: float
    layer_decay: float
    steps: int
    warmup: float = 0.1


def train(model: Model, steps: list[Batch], loss_of, recipe: Recipe) -> list[float]:
    """Adam with the official clipping, schedule, layer-wise rates and decay. Return the loss of each step."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if "pooler" not in name}
    layers = len(model.ernie_m.encoder.layers)
    first = dict.fromkeys(parameters, 0.0)
    second = dict.fromkeys(parameters, 0.0)
    warmup = int(recipe.steps * recipe.warmup)
    losses = []
    for number, batch in enumerate(steps):
        loss = loss_of(model(batch.ids), batch)
        loss.backward()
        losses.append(loss.item())
        rate = recipe.rate
        if warmup:
            rate *= number / warmup if number < warmup else 1 - min(number, recipe.steps) / recipe.steps
        gradients = {name: parameter.grad.numpy().copy() for name, parameter in parameters.items()}
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        for name, parameter in parameters.items():
            gradient = gradients[name] / max(norm, 1.0)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean = first[name] / (1 - 0.9 ** (number + 1))
            deviation = np.sqrt(second[name] / (1 - 0.999 ** (number + 1)))
            old = parameter.numpy()
            change = -rate * mean / (deviation + 1e-6)
            if ".layers." in name:
                change *= recipe.layer_decay ** (layers - int(name.split(".layers.")[1].split(".")[0]))
            elif "_embeddings." in name:
                change *= recipe.layer_decay ** (layers + 1)
            if not name.endswith("bias") and "norm" not in name:
                change -= recipe.weight_decay * rate * old
            parameter.set_value(old + change)
            parameter.clear_gradient(set_to_zero=False)
    return losses


# CoNLL


class Tagged(NamedTuple):
    """A sentence: its input and its labels; the place of each word's first piece, 0 if it has none."""

    ids: list[int]
    labels: list[int]
    places: list[int]
    word_labels: list[int]


def read_tagged(path: Path, pieces: Pieces, label_map: dict[str, int], max_seq_len: int) -> list[Tagged]:
    """All pieces of a word have labels, B-X I-X I-X; the input is cut off."""
    outside = len(label_map) - 1
    sentences = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        text, tags = line.split("\t")
        tokens, labels, places = [], [], []
        words = list(zip(text.split("\x02"), tags.split("\x02"), strict=True))
        for word, tag in words:
            word_pieces = pieces.cut(word)
            places.append(len(tokens) + 1 if word_pieces else 0)
            tokens += word_pieces
            inside = tag if tag == "O" else f"I-{tag[2:]}"
            labels += [tag, *[inside] * len(word_pieces)][: len(word_pieces)]
        room = max_seq_len - 2
        sentences.append(
            Tagged(
                [CLS, *pieces.ids(tokens)[:room], SEP],
                [outside, *(label_map[label] for label in labels[:room]), outside],
                [place if place <= room else 0 for place in places],
                [label_map[tag] for _, tag in words],
            )
        )
    return sentences


def predict_tags(model: Model, sentences: list[Tagged]) -> list[list[int]]:
    """The label of each piece."""
    return [model(np.array([sentence.ids])).argmax(-1).numpy()[0].tolist() for sentence in sentences]


def word_tags(sentences: list[Tagged], predicted: list[list[int]], outside: int) -> list[list[int]]:
    """The label of each word: that of its first piece, or O."""
    return [
        [labels[place] if place else outside for place in sentence.places]
        for sentence, labels in zip(sentences, predicted, strict=True)
    ]


def chunk_f1(gold: list[list[int]], predicted: list[list[int]], outside: int) -> float:
    """F1 of chunks in IOB, a share; B of type k has the label 2k, I has 2k + 1."""
    counts = Counter()
    for gold_labels, predicted_labels in zip(gold, predicted, strict=True):
        gold_chunks = set(chunks(gold_labels, outside))
        predicted_chunks = set(chunks(predicted_labels, outside))
        counts.update(
            gold=len(gold_chunks),
            predicted=len(predicted_chunks),
            correct=len(gold_chunks & predicted_chunks),
        )
    if not counts["correct"]:
        return 0.0
    precision = counts["correct"] / counts["predicted"]
    recall = counts["correct"] / counts["gold"]
    return 2 * precision * recall / (precision + recall)


def chunks(labels: list[int], outside: int) -> list[tuple[int, int, int]]:
    """(first, last, type) of each chunk."""
    found = []
    for place, label in enumerate(labels):
        if label == outside:
            continue
        before = labels[place - 1] if place else outside
        if label % 2 == 1 and before != outside and before // 2 == label // 2:  # an I that goes on
            found[-1] = (found[-1][0], place, label // 2)
        else:
            found.append((place, place, label // 2))
    return found


# MLQA


class Window(NamedTuple):
    """An input. `offset`: the place of a token in it less its number in the context."""

    question: int
    ids: list[int]
    offset: int
    tokens: range  # of the context
    starts: set[int]  # the tokens at which an answer of this window may begin
    target: tuple[int, int]


class Asked(NamedTuple):
    """A question, and the tokens of its context with the characters of each."""

    context: str
    answers: list[str]
    pieces: list[str]
    spans: list[tuple[int, int]]


def read_answers(
    path: Path, pieces: Pieces, lengths: tuple[int, int, int]
) -> tuple[list[Asked], list[Window]]:
    """`lengths`: of the input, of the question, and the stride."""
    max_seq_len, max_query_length, stride = lengths
    questions: list[Asked] = []
    windows: list[Window] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            words, word_of_character = split_at_spaces(context)
            tokens, spans, first_tokens = [], [], []
            for start, word in words:
                first_tokens.append(len(tokens))
                tokens += pieces.cut(word)
                spans += [(start + first, start + last) for first, last in characters_of(pieces, word)]
            first_tokens.append(len(tokens))
            for qa in paragraph["qas"]:
                answer = qa["answers"][0]
                begin = answer["answer_start"]
                first_word = word_of_character[begin]
                last_word = word_of_character[begin + len(answer["text"]) - 1]
                first = first_tokens[first_word]
                last = first_tokens[last_word + 1] - 1
                first, last = narrowed(tokens, first, last, pieces.cut(answer["text"]))
                query = pieces.cut(qa["question"])[:max_query_length]
                questions.append(Asked(context, [one["text"] for one in qa["answers"]], tokens, spans))
                parts = []
                start = 0
                room = max_seq_len - len(query) - 4
                while start < len(tokens):
                    parts.append(range(start, min(start + room, len(tokens))))
                    if parts[-1].stop == len(tokens):
                        break
                    start += min(len(parts[-1]), stride)
                for number, part in enumerate(parts):
                    offset = len(query) + 2 - part.start
                    is_inside = first >= part.start and last < part.stop
                    windows.append(
                        Window(
                            len(questions) - 1,
                            [CLS, *pieces.ids(query), SEP, *pieces.ids(tokens)[part.start : part.stop], SEP],
                            offset,
                            part,
                            {token for token in part if most_context(parts, token) == number},
                            (first + offset, last + offset) if is_inside else (0, 0),
                        )
                    )
    return questions, windows


def split_at_spaces(text: str) -> tuple[list[tuple[int, str]], list[int]]:
    """(start, word) of each word, and for each character the number of its word."""
    words: list[tuple[int, str]] = []
    word_of_character = []
    after_space = True
    for place, character in enumerate(text):
        if not is_space(character):
            if after_space:
                words.append((place, ""))
            words[-1] = (words[-1][0], words[-1][1] + character)
        after_space = is_space(character)
        word_of_character.append(len(words) - 1)
    return words, word_of_character


def characters_of(pieces: Pieces, word: str) -> list[tuple[int, int]]:
    """The characters of each piece of a word, with the dropped ones behind it."""
    places = [place for _, place in pieces.clean(word)]
    spans = []
    done = 0
    for piece in pieces.cut(word):
        length = len(piece.replace("▁", ""))
        start = places[done] if done < len(places) else len(word)
        done += length
        # A space alone has no characters.
        end = start if not length else places[done] if done < len(places) else len(word)
        spans.append((start, end))
    return spans


def narrowed(tokens: list[str], first: int, last: int, answer: list[str]) -> tuple[int, int]:
    """The part of the words of an answer that is equal to the answer, tokenised alone, if there is one."""
    for new_first in range(first, last + 1):
        for new_last in range(last, new_first - 1, -1):
            if " ".join(tokens[new_first : new_last + 1]) == " ".join(answer):
                return new_first, new_last
    return first, last


def most_context(parts: list[range], token: int) -> int:
    """The number of the window in which a token has the most context, of equal ones the first."""
    best, best_score = None, None
    for number, part in enumerate(parts):
        if token in part:
            score = min(token - part.start, part.stop - 1 - token) + 0.01 * len(part)
            if best_score is None or score > best_score:
                best, best_score = number, score
    return best


def answer(model: Model, questions: list[Asked], windows: list[Window], n_best: int, longest: int) -> tuple:
    """For each question the best joined pieces, of the best starts and ends, and the best part of a text."""
    joined: list[list] = [[] for _ in questions]  # of each question (sum of logits, text)
    parts: list[list] = [[] for _ in questions]
    for window in windows:
        asked = questions[window.question]
        start_logits, end_logits = model(np.array([window.ids])).numpy()[0].T.tolist()
        places = range(len(window.ids))
        best_starts = sorted(places, key=lambda place: -start_logits[place])[:n_best]
        best_ends = sorted(places, key=lambda place: -end_logits[place])[:n_best]
        for start in places:
            for end in range(start, min(start + longest, len(window.ids))):
                first, last = start - window.offset, end - window.offset
                if first not in window.starts or last not in window.tokens:
                    continue
                total = start_logits[start] + end_logits[end]
                if start in best_starts and end in best_ends:
                    text = "".join(piece.replace("▁", " ", 1) for piece in asked.pieces[first : last + 1])
                    joined[window.question].append((total, text.strip()))
                text = asked.context[asked.spans[first][0] : asked.spans[last][1]].strip()
                if text:
                    parts[window.question].append((total, text))
    return [max(candidates, default=(0, "empty"))[1] for candidates in joined], [
        max(candidates)[1] for candidates in parts
    ]


def english_scores(texts: list[str], questions: list[Asked]) -> tuple[float, float]:
    """F1 and exact match by MLQA's script, shares."""
    f1, exact = 0.0, 0.0
    for text, asked in zip(texts, questions, strict=True):
        words = normal(text)
        f1_of_answers = [0.0]
        for gold in map(normal, asked.answers):
            shared = sum((Counter(words) & Counter(gold)).values())
            if shared:
                precision, recall = shared / len(words), shared / len(gold)
                f1_of_answers.append(2 * precision * recall / (precision + recall))
        f1 += max(f1_of_answers)
        exact += any(words == normal(gold) for gold in asked.answers)
    return f1 / len(texts), exact / len(texts)


def normal(text: str) -> list[str]:
    """Lower case, without punctuation and English articles."""
    kept = [
        character
        for character in text.lower()
        if character not in string.punctuation and not unicodedata.category(character).startswith("P")
    ]
    return [word for word in "".join(kept).split() if word not in ("a", "an", "the")]
