"""German: three genders, accusative objects, adjective endings after "ein" and after a numeral."""

from scripts.sample import concepts
from scripts.sample.languages.common import adjuncts, phrase, sentence
from scripts.sample.scenes import Scene, Thing

SUBJECTS = {
    "man": "der Mann", "woman": "die Frau", "boy": "der Junge", "girl": "das Mädchen",
    "person": "eine Person", "dog": "der Hund", "cat": "die Katze", "animal": "ein Tier",
}  # fmt: skip
NOUNS = {  # gender, singular, plural
    "ball": ("m", "Ball", "Bälle"), "doll": ("f", "Puppe", "Puppen"), "toy": ("n", "Spielzeug", "Spielzeuge"),
    "book": ("n", "Buch", "Bücher"), "letter": ("m", "Brief", "Briefe"), "apple": ("m", "Apfel", "Äpfel"),
    "dog": ("m", "Hund", "Hunde"), "cat": ("f", "Katze", "Katzen"), "animal": ("n", "Tier", "Tiere"),
}  # fmt: skip
ATTRIBUTES = {"red": "rot", "white": "weiß", "black": "schwarz", "big": "groß", "small": "klein"}
VERBS = {
    "buy": "kauft", "sell": "verkauft", "find": "findet", "lose": "verliert", "sit": "sitzt",
    "stand": "steht", "laugh": "lacht", "cry": "weint",
}  # fmt: skip
PLACES = {"garden": "im Garten", "school": "in der Schule", "market": "auf dem Markt"}
DAYS = {"monday": "am Montag", "friday": "am Freitag", "sunday": "am Sonntag"}
ARTICLES = {"m": "einen", "f": "eine", "n": "ein"}  # accusative
ENDINGS = {"m": "en", "f": "e", "n": "es"}


def thing(what: Thing) -> str:
    gender, singular, plural = NOUNS[what.noun]
    stem = what.attribute and ATTRIBUTES[what.attribute]
    if what.count == 1:
        return phrase(ARTICLES[gender], stem and stem + ENDINGS[gender], singular)
    return phrase(str(what.count), stem and stem + "e", plural)


def realise(scene: Scene) -> str:
    """Verb second, after the subject or what else comes first; time and place before the object."""
    first, place, day = adjuncts(scene, PLACES, DAYS)
    who = scene.subject if scene.subject in concepts.NAMES else SUBJECTS[scene.subject]
    verb = VERBS[scene.verb]
    start = (first, verb, who) if first else (who, verb)
    return sentence(*start, day, place, scene.thing and thing(scene.thing))
