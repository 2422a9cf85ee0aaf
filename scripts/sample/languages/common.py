"""What the languages share: joining words, ending a sentence, and what comes first in it."""

from collections.abc import Mapping

from scripts.sample.scenes import Scene, number_of


def adjuncts(
    scene: Scene, places: Mapping[str, str], days: Mapping[str, str]
) -> tuple[str | None, str | None, str | None]:
    """What comes first, the place and the day where they stand else; None for what is not said.

    In a third of the scenes the place comes first, in a third the day, where they are said: so the place of a
    word in a sentence does not tell its role. It hangs on the scene, so translations agree in it.
    """
    place, day = places.get(scene.place), days.get(scene.day)
    first = number_of(scene) // 10 % 3  # the last digit is the split's
    if first == 1:
        return place, None, day
    if first == 2:
        return day, place, None
    return None, place, day


def phrase(*parts: str | None) -> str:
    """The parts that are there, with a space between."""
    return " ".join(part for part in parts if part)


def sentence(*parts: str | None, stop: str = ".") -> str:
    """A phrase with a capital at its start and a stop at its end."""
    text = phrase(*parts)
    return text[0].upper() + text[1:] + stop
