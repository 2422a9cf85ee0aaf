"""The head start: counts and vectors of words, heads that attend to neighbours, what a run starts from."""

from collections import Counter

import numpy as np
import pytest

from ernie_m.model.config import FIRST_POSITION
from ernie_m.pretrain.head_start import count_neighbours, neighbour_weights, sinusoids, word_vectors
from ernie_m.pretrain.task import Pretraining
from tests.pretrain.tiny_run import assert_equal_runs, config, pretrain
from tests.toys import make_corpus, train_pieces, write_lines

HEADS = 4
LONGEST = 4  # tokens of a side of a pair; some are longer


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A task whose corpus has a few lines and pairs."""
    folder = tmp_path_factory.mktemp("small")
    english = ["a man eats bread", "a man eats an apple", "a dog drinks", "the dog drinks water"]
    german = ["ein Mann isst Brot", "ein Mann isst einen Apfel", "ein Hund trinkt", "der Hund trinkt Wasser"]
    text = write_lines(folder / "en.txt", english[:3])
    pairs = write_lines(folder / "en-de.tsv", [f"{a}\t{b}" for a, b in zip(english, german)])
    pieces = train_pieces(folder / "piece.model")
    make_corpus(folder / "corpus", pieces, mono={"en": text}, parallel={"en-de": pairs}, held_out=0)
    return Pretraining(config(folder / "corpus", objectives__active=["mmlm", "camlm"]))


def test_neighbours_are_counted(small, monkeypatch):
    """Line by line and pair by pair, with plain loops."""
    monkeypatch.setattr("ernie_m.pretrain.head_start._LINES", 2)
    monkeypatch.setattr("ernie_m.pretrain.head_start._PAIRS", 3)
    text = small.text
    pairs = text.pairs["de", "en"]
    lines = [text.corpus.mono["en"].line(number) for number in range(3)]
    lines += [side for number in range(len(pairs)) for side in pairs[number]]
    expected = Counter()
    for line in lines:
        for i, piece in enumerate(line):
            for j, neighbour in enumerate(line):
                if 1 <= abs(i - j) <= 5:
                    expected[piece, neighbour] += 1 / abs(i - j)
    of_window = 2 * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)
    for number in range(len(pairs)):
        german, english = (side[:LONGEST] for side in pairs[number])
        for piece in german:
            for neighbour in english:
                weight = of_window / max(len(german), len(english))
                expected[piece, neighbour] += weight
                expected[neighbour, piece] += weight
    counts = sum(text.corpus.piece_counts(language) for language in text.languages)
    contexts = np.argsort(-counts, kind="stable")  # V is small: all pieces
    table = count_neighbours(text, LONGEST)
    assert table.shape == (len(counts), len(counts))
    for row in range(len(table)):
        hand = [expected[row, column] for column in contexts.tolist()]
        np.testing.assert_allclose(table[row], hand, rtol=1e-5)


def test_word_vectors_are_singular_vectors_of_the_counts(small):
    """Their cosines are those of an exact decomposition of the pointwise mutual information."""
    table = count_neighbours(small.text, LONGEST).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_context = table.sum(axis=0) ** 0.75
        information = np.log(table / table.sum(axis=1, keepdims=True) / (of_context / of_context.sum()))
    information = np.where(information > 0, information, 0)
    singular_vectors, values, _ = np.linalg.svd(information)
    expected = singular_vectors[:, :24] * np.sqrt(values[:24])
    occurs = table.any(axis=1)
    expected[occurs] /= np.linalg.norm(expected[occurs], axis=1, keepdims=True)
    vectors = word_vectors(small.text, LONGEST, size=24, seed=1)
    assert (vectors[~occurs] == 0).all() and 0 < occurs.sum() < len(occurs)
    np.testing.assert_allclose(
        vectors[occurs] @ vectors[occurs].T, expected[occurs] @ expected[occurs].T, atol=1e-3
    )
    assert (word_vectors(small.text, LONGEST, size=24, seed=1) == vectors).all()
    # Another seed turns them; their cosines stay.
    turned = word_vectors(small.text, LONGEST, size=24, seed=2)
    assert np.abs(turned - vectors).max() > 0.1
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-3)


def test_heads_attend_to_the_neighbours():
    """Of sinusoids behind the layer norm, each head's best place is its neighbour, with the score 4."""
    size = 128
    frequencies = np.geomspace(1.0, np.pi / 130, size // 2)
    states = sinusoids(130, frequencies)  # [P, H], of amplitude 1
    query, key = neighbour_weights(size, HEADS, frequencies)
    head_size = size // HEADS
    for head, offset in enumerate((-1, 1, -2, 2)):
        outputs = slice(head * head_size, (head + 1) * head_size)
        scores = (states @ query[:, outputs]) @ (states @ key[:, outputs]).T / head_size**0.5  # [P, P]
        places = np.arange(2, 128)  # whose neighbours are in the table
        assert (scores[places].argmax(axis=1) == places + offset).all()
        np.testing.assert_allclose(scores[places, places + offset], 4.0)


def test_what_a_run_starts_from(tiny_corpus):
    """Only the tables of words and positions and the first layer's queries and keys differ, in any dtype."""
    for dtype in ("float32", "float64"):
        weights = {}
        for head_start in (False, True):
            task = Pretraining(config(tiny_corpus, init__head_start=head_start, run__dtype=dtype))
            model = task.begin(seed=1, checkpoint=None).model
            weights[head_start] = {name: value.numpy() for name, value in model.named_parameters()}
        different = [
            name for name, value in weights[True].items() if not (value == weights[False][name]).all()
        ]
        attention = "ernie_m.encoder.layers.0.self_attn"
        assert different == [
            "ernie_m.embeddings.word_embeddings.weight",
            "ernie_m.embeddings.position_embeddings.weight",
            f"{attention}.q_proj.weight",
            f"{attention}.k_proj.weight",
        ]
        lengths = [
            np.linalg.norm(weights[kind]["ernie_m.embeddings.word_embeddings.weight"], axis=1)
            for kind in (False, True)
        ]
        special = list(task.tokenizer.special_ids)  # they stand in no text
        assert not lengths[1][special].any()
        ordinary = np.setdiff1d(np.flatnonzero(lengths[1]), special)
        np.testing.assert_allclose(lengths[1][ordinary], lengths[0][ordinary], rtol=1e-5)
        # A position is as long as a word, and queries and keys are the random ones with something added.
        positions = weights[True]["ernie_m.embeddings.position_embeddings.weight"]
        size = positions.shape[1]
        np.testing.assert_allclose(
            np.linalg.norm(positions[FIRST_POSITION:], axis=1), np.median(lengths[0]), rtol=1e-5
        )
        frequencies = np.geomspace(1.0, np.pi / len(positions), size // 2)
        for name, added in zip(
            "qk", neighbour_weights(size, task.config.model.num_attention_heads, frequencies)
        ):
            of_layer = [weights[kind][f"{attention}.{name}_proj.weight"] for kind in (False, True)]
            np.testing.assert_allclose(of_layer[1] - of_layer[0], added, atol=1e-5)


def test_processes_begin_with_the_same_weights(tiny_corpus, monkeypatch):
    """What is counted and added is sent by the main process: other machines may round otherwise."""
    calls = []  # those of the engine, too
    monkeypatch.setattr("ernie_m.pretrain.head_start.distributed.broadcast_", calls.append)
    model = Pretraining(config(tiny_corpus, init__head_start=True)).begin(seed=1, checkpoint=None).model
    attention = model.ernie_m.encoder.layers[0].self_attn
    embeddings = model.ernie_m.embeddings
    changed = [embeddings.word_embeddings, embeddings.position_embeddings, attention.q_proj, attention.k_proj]
    names = [{tensor.name for tensor in tensors} for tensors in calls]
    assert {layer.weight.name for layer in changed} in names


def test_its_words_may_learn_slowly(tiny_corpus):
    task = Pretraining(config(tiny_corpus, optimizer__word_rate_ratio=0.1))
    engine = task.begin(seed=1, checkpoint=None)
    table = engine.model.ernie_m.embeddings.word_embeddings.weight
    assert {name: table.rate_ratio for name, table in engine.optimizer.tables.items()} == {table.name: 0.1}


def test_weights_that_are_loaded_get_none(tiny_corpus, tmp_path):
    """A run that goes on from a checkpoint, and one from the weights of another."""
    few = {"optimizer__steps": 4}
    straight = pretrain(tiny_corpus, tmp_path / "straight", init__head_start=True, **few)
    stopped = tmp_path / "stopped"
    for steps in (2, 0):
        pretrain(tiny_corpus, stopped, init__head_start=True, run__stop_after_steps=steps, **few)
    assert_equal_runs(straight, stopped, 4)
    start = {"init__encoder": str(straight / "full"), "init__lm_head": "encoder", **few}
    plain = pretrain(tiny_corpus, tmp_path / "plain", **start)
    started = pretrain(tiny_corpus, tmp_path / "started", init__head_start=True, **start)
    assert_equal_runs(plain, started, 4)
