"""What the sample set can speak of, apart from any language.

A concept is a short English word used as a key; every language has an entry for each of them, and a
test holds the languages to it. Names and numerals are written alike in all languages.
"""

NAMES = {  # name -> grammatical gender of the person
    "Anna": "f", "Maria": "f", "Laura": "f", "Nina": "f", "Tom": "m", "Peter": "m", "Paul": "m", "David": "m",
}  # fmt: skip

PEOPLE = ("man", "woman", "boy", "girl", "king", "queen")
ANIMALS = ("dog", "cat", "horse")
KINDS = {  # kind -> what belongs to it
    "person": PEOPLE,
    "animal": ANIMALS,
    "toy": ("ball", "doll"),
    "flower": ("rose", "tulip"),
}
KIND_OF = {member: kind for kind, members in KINDS.items() for member in members}
KIND_OF |= dict.fromkeys(NAMES, "person")

THINGS = ("ball", "doll", "rose", "tulip", "book", "letter", "chair", "table", "apple")
OBJECTS = THINGS + ANIMALS + ("toy", "flower", "animal")

COLOURS = ("red", "white", "black")
SIZES = ("big", "small")
ATTRIBUTES = COLOURS + SIZES
ANIMAL_ATTRIBUTES = ("white", "black", *SIZES)

# From 3 on Arabic has a plural (2 is a dual); up to 9 a numeral is one character in every language.
NUMBERS = (3, 4, 5)

# What excludes each other: nobody does two of one group at one moment. Across the groups of INTRANSITIVE
# nothing is excluded: who sits may laugh, and be at work.
TRANSITIVE = (("buy", "sell"), ("find", "lose"), ("hide", "show"))
INTRANSITIVE = (("sit", "stand"), ("laugh", "cry"), ("work", "rest"))
EXCLUDED_BY = {
    verb: tuple(v for v in group if v != verb) for group in TRANSITIVE + INTRANSITIVE for verb in group
}
TRANSITIVE_VERBS = sum(TRANSITIVE, ())
INTRANSITIVE_VERBS = sum(INTRANSITIVE, ())
ANIMAL_TRANSITIVE_VERBS = ("find", "lose")
ANIMAL_INTRANSITIVE_VERBS = ("sit", "stand", "rest")

PLACES = ("garden", "school", "market", "forest")
DAYS = ("monday", "friday", "sunday")


def is_animal(noun: str) -> bool:
    """Whether a subject or object is an animal: what it does and its colours are limited."""
    return noun == "animal" or noun in ANIMALS
