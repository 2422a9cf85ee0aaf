"""Greek: three genders, articles before names too, accusative objects."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

NAME_ARTICLES = {"m": "ο", "f": "η"}
SUBJECTS = {
    "man": "ο άντρας", "woman": "η γυναίκα", "boy": "το αγόρι", "girl": "το κορίτσι", "person": "ένα άτομο",
    "dog": "ο σκύλος", "cat": "η γάτα", "animal": "ένα ζώο",
}  # fmt: skip
NOUNS = {  # gender, accusative singular, accusative plural
    "ball": ("f", "μπάλα", "μπάλες"), "doll": ("f", "κούκλα", "κούκλες"),
    "toy": ("n", "παιχνίδι", "παιχνίδια"), "book": ("n", "βιβλίο", "βιβλία"),
    "letter": ("n", "γράμμα", "γράμματα"), "apple": ("n", "μήλο", "μήλα"), "dog": ("m", "σκύλο", "σκύλους"),
    "cat": ("f", "γάτα", "γάτες"), "animal": ("n", "ζώο", "ζώα"),
}  # fmt: skip
STEMS = {"red": "κόκκιν", "white": "άσπρ", "black": "μαύρ", "big": "μεγάλ", "small": "μικρ"}
ENDINGS = {"m": ("ο", "ους"), "f": ("η", "ες"), "n": ("ο", "α")}  # accusative singular and plural
STRESSED = {"ο": "ό", "ους": "ούς", "η": "ή", "ες": "ές", "α": "ά"}
ARTICLES = {"m": "έναν", "f": "μία", "n": "ένα"}
VERBS = {
    "buy": "αγοράζει", "sell": "πουλάει", "find": "βρίσκει", "lose": "χάνει", "sit": "κάθεται",
    "stand": "στέκεται", "laugh": "γελάει", "cry": "κλαίει",
}  # fmt: skip
PLACES = {"garden": "στον κήπο", "school": "στο σχολείο", "market": "στην αγορά"}
DAYS = {"monday": "τη Δευτέρα", "friday": "την Παρασκευή", "sunday": "την Κυριακή"}


def adjective(attribute: str, gender: str, many: bool) -> str:
    """In the accusative; the stress of "small" is on the ending."""
    ending = ENDINGS[gender][many]
    return STEMS[attribute] + (STRESSED[ending] if attribute == "small" else ending)


def thing(what: Thing) -> str:
    gender, singular, plural = NOUNS[what.noun]
    many = what.count > 1
    form = what.attribute and adjective(what.attribute, gender, many)
    return phrase(str(what.count) if many else ARTICLES[gender], form, plural if many else singular)


def realise(scene: Scene) -> str:
    """Subject, verb, object, place, day; or the place or day first."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    name = scene.subject
    return sentence(
        first,
        phrase(NAME_ARTICLES[concepts.NAMES[name]], name) if name in concepts.NAMES else SUBJECTS[name],
        VERBS[scene.verb],
        scene.thing and thing(scene.thing),
        place,
        day,
    )
