"""The words of the generated catalogue: genres, synopsis themes, sentences, syllables of titles.

Genre names are MyAnimeList's own; everything else is written for this package.
"""

from typing import NamedTuple

import numpy as np

GENRES: dict[str, float] = {
    "Action": 3.9,
    "Adventure": 3.0,
    "Comedy": 6.0,
    "Drama": 2.6,
    "Fantasy": 3.3,
    "Historical": 1.1,
    "Horror": 0.9,
    "Kids": 2.7,
    "Magic": 1.1,
    "Mecha": 1.1,
    "Military": 0.9,
    "Music": 2.2,
    "Mystery": 0.9,
    "Romance": 1.9,
    "School": 1.6,
    "Sci-Fi": 2.6,
    "Shounen": 2.0,
    "Slice of Life": 1.9,
    "Sports": 0.9,
    "Supernatural": 1.5,
}
"""Each genre's weight when genres are drawn: roughly, how often it occurs."""

GENRE_COUNT_SHARES = (0.24, 0.26, 0.22, 0.17, 0.11)
"""Share of the items that have 1, 2, ... 5 genres."""

TYPES: dict[str, float] = {
    "TV": 0.42,
    "OVA": 0.22,
    "Movie": 0.16,
    "Special": 0.12,
    "ONA": 0.08,
}
"""Each format's share of the items."""


OCCUPATIONS: dict[str, float] = {
    "artist": 0.05,
    "clerk": 0.09,
    "craftsman": 0.06,
    "doctor": 0.03,
    "driver": 0.04,
    "engineer": 0.12,
    "farmer": 0.02,
    "homemaker": 0.04,
    "programmer": 0.11,
    "retired": 0.04,
    "salesperson": 0.08,
    "student": 0.32,
}
"""Each occupation's share of the users."""


class Theme(NamedTuple):
    """A subject of synopses: people, places and things that belong together."""

    roles: tuple[str, ...]
    places: tuple[str, ...]
    things: tuple[str, ...]


THEMES: dict[str, Theme] = {
    "sea": Theme(
        ("pirate", "sailor", "ship captain"),
        ("harbour", "stormy ocean", "coral island"),
        ("sailing ship", "treasure map", "anchor", "lighthouse"),
    ),
    "space": Theme(
        ("astronaut", "starship pilot", "alien"),
        ("orbital station", "distant galaxy", "moon colony"),
        ("rocket", "spacesuit", "asteroid", "warp engine"),
    ),
    "school": Theme(
        ("high school student", "teacher", "transfer student"),
        ("classroom", "school rooftop", "library desk"),
        ("homework", "final exam", "uniform", "student council"),
    ),
    "war": Theme(
        ("soldier", "general", "war veteran"),
        ("battlefield", "trench", "occupied city"),
        ("rifle", "tank", "ceasefire", "front line"),
    ),
    "cooking": Theme(
        ("chef", "baker", "noodle cook"),
        ("kitchen", "restaurant", "bakery"),
        ("recipe", "fresh bread", "spicy soup", "birthday cake"),
    ),
    "music": Theme(
        ("singer", "pianist", "band drummer"),
        ("concert hall", "recording studio", "rehearsal room"),
        ("guitar", "melody", "violin", "hit song"),
    ),
    "ball": Theme(
        ("football striker", "team coach", "goalkeeper"),
        ("stadium", "training pitch", "locker room"),
        ("ball", "championship match", "penalty kick", "trophy"),
    ),
    "robots": Theme(
        ("android", "engineer", "mech pilot"),
        ("robot factory", "hangar", "repair bay"),
        ("giant robot", "circuit board", "steel armour", "power core"),
    ),
    "witchcraft": Theme(
        ("witch", "wizard", "apprentice sorcerer"),
        ("enchanted tower", "magic academy", "potion cellar"),
        ("spell book", "wand", "potion", "ancient curse"),
    ),
    "ghosts": Theme(
        ("ghost", "medium", "exorcist"),
        ("haunted house", "graveyard", "abandoned shrine"),
        ("spirit", "seance", "cold whisper", "coffin"),
    ),
    "crime": Theme(
        ("detective", "murderer", "police inspector"),
        ("crime scene", "interrogation room", "police station"),
        ("clue", "alibi", "fingerprint", "murder weapon"),
    ),
    "medicine": Theme(
        ("surgeon", "nurse", "patient"),
        ("hospital", "operating theatre", "clinic"),
        ("diagnosis", "vaccine", "heart transplant", "rare disease"),
    ),
    "farm": Theme(
        ("farmer", "shepherd", "milkmaid"),
        ("barn", "wheat field", "orchard"),
        ("tractor", "harvest", "cow", "vegetable seed"),
    ),
    "mountain": Theme(
        ("climber", "mountain guide", "hermit"),
        ("summit", "rocky cliff", "glacier"),
        ("climbing rope", "avalanche", "base camp", "ice axe"),
    ),
    "desert": Theme(
        ("nomad", "caravan merchant", "camel driver"),
        ("desert", "oasis", "sand dune"),
        ("camel", "sandstorm", "water skin", "mirage"),
    ),
    "court": Theme(
        ("princess", "king", "royal adviser"),
        ("palace", "throne room", "royal garden"),
        ("crown", "coronation", "royal decree", "betrothal"),
    ),
    "sword": Theme(
        ("samurai", "swordsman", "ninja"),
        ("dojo", "feudal castle", "duelling ground"),
        ("katana", "duel", "clan banner", "sword technique"),
    ),
    "racing": Theme(
        ("racing driver", "mechanic", "motorcyclist"),
        ("race track", "garage", "mountain road"),
        ("sports car", "engine", "finish line", "tyre"),
    ),
    "stage": Theme(
        ("actress", "playwright", "dancer"),
        ("theatre", "dressing room", "stage"),
        ("script", "costume", "audition", "applause"),
    ),
    "office": Theme(
        ("office clerk", "manager", "accountant"),
        ("office", "meeting room", "bank"),
        ("contract", "salary", "stock market", "spreadsheet"),
    ),
    "computers": Theme(
        ("hacker", "gamer", "programmer"),
        ("virtual world", "server room", "internet cafe"),
        ("computer virus", "password", "online game", "keyboard"),
    ),
    "prison": Theme(
        ("prisoner", "prison guard", "convict"),
        ("prison cell", "courtroom", "exercise yard"),
        ("handcuffs", "life sentence", "escape tunnel", "barred window"),
    ),
    "beasts": Theme(
        ("dragon rider", "beast tamer", "monster hunter"),
        ("dragon lair", "dungeon", "dark forest"),
        ("dragon", "griffin", "monster egg", "fiery breath"),
    ),
    "art": Theme(
        ("painter", "sculptor", "art student"),
        ("gallery", "art studio", "museum"),
        ("canvas", "paintbrush", "portrait", "marble statue"),
    ),
}

# {role}, {place}, {thing} and {other} are of the same theme. "The" fits every word, so that no
# sentence has to choose between "a" and "an".
SENTENCES = (
    "The {role} leaves the {place} for the {thing} and the {other}.",
    "Near the {place}, the {role} hides the {thing} and the {other}.",
    "Every day the {role} at the {place} guards the {thing} and the {other}.",
    "Nobody at the {place} believes what the {role} says about the {thing}.",
    "The {thing} is lost at the {place}, and the {role} has only the {other}.",
    "The {role} knows the {place}, yet the {thing} and the {other} change everything.",
)

# The closing sentence of an item with two themes: {second_...} are words of the second theme.
CLOSINGS = (
    "At last the {role} and the {second_role} meet over the {second_thing}.",
    "In the end the {second_role} gives up the {thing} to save the {second_place}.",
    "Then the {role} and the {second_role} share the {second_thing} near the {place}.",
)

SYLLABLES = tuple(
    consonant + vowel
    for consonant in ("k", "s", "t", "n", "h", "m", "y", "r", "g", "z", "d", "b")
    for vowel in ("a", "i", "u", "e", "o")
)
"""Two letters each, so that a name can be split into syllables in a single way."""

TITLE_FORMS = (
    "{name}",
    "{name} no Sora",
    "{name} Monogatari",
    "Tales of {name}",
    "{name}: The Second Door",
    "{name} and the Others",
    "Chronicle of {name}",
    "{name} Days",
    "Goodbye, {name}",
    "{name} Next",
)


def made_up_names(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct names; each is a number in base 60, written with syllables as digits."""
    base, length = len(SYLLABLES), 3
    while base**length < 4 * count:
        length += 1
    names = []
    for code in rng.choice(base**length, count, replace=False).tolist():
        name = ""
        for _ in range(length):
            code, digit = divmod(code, base)
            name += SYLLABLES[digit]
        names.append(name.capitalize())
    return names
