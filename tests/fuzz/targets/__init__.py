"""Every reader of foreign bytes."""

from tests.fuzz.attempt import Target
from tests.fuzz.targets import corpus, runs, text, tokens, weights

TARGETS: dict[str, Target] = {
    **text.TARGETS, **tokens.TARGETS, **weights.TARGETS, **corpus.TARGETS, **runs.TARGETS
}  # fmt: skip
