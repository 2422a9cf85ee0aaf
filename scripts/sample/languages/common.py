"""What the languages share: joining words and ending a sentence."""


def phrase(*parts: str | None) -> str:
    """The parts that are there, with a space between."""
    return " ".join(part for part in parts if part)


def sentence(*parts: str | None, stop: str = ".") -> str:
    """A phrase with a capital at its start and a stop at its end."""
    text = phrase(*parts)
    return text[0].upper() + text[1:] + stop
