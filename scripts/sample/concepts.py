"""What the sample set can speak of, apart from any language.

A concept is a short English word used as a key; every language has an entry for each of them, and a
test holds the languages to it. Names and numerals are written alike in all languages.
"""

NAMES = {  # name -> grammatical gender of the person
    "Anna": "f", "Maria": "f", "Tom": "m", "Peter": "m",
}  # fmt: skip

PEOPLE = ("man", "woman", "boy", "girl")
ANIMALS = ("dog", "cat")
KINDS = {  # kind -> what belongs to it
    "person": PEOPLE,
    "animal": ANIMALS,
    "toy": ("ball", "doll"),
}
KIND_OF = {member: kind for kind, members in KINDS.items() for member in members}
KIND_OF |= dict.fromkeys(NAMES, "person")

THINGS = ("ball", "doll", "book", "letter", "apple")
OBJECTS = THINGS + ANIMALS + ("toy", "animal")

COLOURS = ("red", "white", "black")
SIZES = ("big", "small")
ATTRIBUTES = COLOURS + SIZES
ANIMAL_ATTRIBUTES = ("white", "black", *SIZES)

# From 3 on Arabic has a plural (2 is a dual); up to 9 a numeral is one character in every language.
NUMBERS = (3, 4, 5)

# What excludes each other: nobody does two of one group at one moment. Across the groups of INTRANSITIVE
# nothing is excluded: who sits may laugh.
TRANSITIVE = (("buy", "sell"), ("find", "lose"))
INTRANSITIVE = (("sit", "stand"), ("laugh", "cry"))
EXCLUDED_BY = {
    verb: tuple(v for v in group if v != verb) for group in TRANSITIVE + INTRANSITIVE for verb in group
}
TRANSITIVE_VERBS = sum(TRANSITIVE, ())
INTRANSITIVE_VERBS = sum(INTRANSITIVE, ())
ANIMAL_TRANSITIVE_VERBS = ("find", "lose")
ANIMAL_INTRANSITIVE_VERBS = ("sit", "stand")

PLACES = ("garden", "school", "market")
DAYS = ("monday", "friday", "sunday")


def is_animal(noun: str) -> bool:
    """Whether a subject or object is an animal: what it does and its colours are limited."""
    return noun == "animal" or noun in ANIMALS
