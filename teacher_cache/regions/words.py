"""The English words by which `teacher_cache.regions.phrases` tells where a phrase that names an object begins and ends."""

from __future__ import annotations

from collections.abc import Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "the a an this that these those each every both another my your his her our their its two three four five six seven eight "
    "nine ten"
)
ASKING = _words("which what whose how many much")
"""A phrase that one of these opens is asked for, so it names nothing."""
FUNCTION = _words(
    """
    about above across after against along alongside among amid around as at away back backward backwards before behind
    below beneath beside besides between beyond by clockwise counterclockwise anticlockwise despite down downward downwards
    during except for forward forwards from front further farther in inside into like near next of off on onto opposite out
    outside over past per relative since than through throughout till to together toward towards under underneath until up
    upon upward upwards via versus vs with within without and or but nor so if when while where why who whom because then
    also still again already ever never not no yes either neither both only just more most less least very too quite rather
    almost mostly first once twice there here now it he she they them him us we you i me itself himself herself themselves
    each one ones other others same such any some all none something someone anything anyone everything everyone nothing
    nobody is are was were be been being am do does did doing done has have had having can could will would shall should may
    might must let s m cm mm km vs. faster slower closer nearer longer shorter sideways indoors outdoors how many much which
    what whose that compared according due
    """
)
"""Words that no phrase has, but for a determiner at its beginning."""
ADJECTIVES = _words(
    """
    same different average total maximum minimum overall whole entire big small large little long short tall high low wide
    narrow deep fast slow near far nearest closest farthest furthest biggest smallest largest tallest shortest longest
    fastest slowest left right leftmost rightmost middle upper lower top bottom front rear first second third last final
    initial main other dark light bright
    """
)
COLOURS = _words("red green blue yellow white black grey gray brown orange purple pink silver golden gold beige striped")
PLACES = _words(
    """
    left right side sides front back rear top bottom middle center centre end start beginning edge corner half part vicinity
    foreground background direction directions distance distances speed velocity acceleration position positions location
    orientation angle displacement place places
    trajectory path length width height depth size sizes shape color colour number count
    amount dimension dimensions time times second seconds minute minutes meter meters metre metres centimeter centimeters
    centimetre centimetres foot feet inch inches degree degrees frame frames video clip scene image picture footage view
    viewpoint perspective camera viewer observer screen point coordinates coordinate coordinate-system system axis movement
    motion rotation turn state way order kind type sort change difference rate ratio option options answer question
    following moment interval period instant duration sequence action activity event area region space volume weight mass
    course respect relation relationship reference figure object objects thing things item items one ones name pace extent
    range value
    """
)
"""Nouns that name a place, a measure or the picture, and "object" itself: they find no object."""
WORN = _words(
    """
    shirt t-shirt tshirt hat cap helmet jacket coat dress skirt suit vest sweater hoodie jeans pants trousers shorts shoes
    boots gloves glasses sunglasses hair beard mask uniform scarf tie backpack clothes outfit apron jersey
    """
)
PEOPLE_PLURAL = _words("people men women children feet teeth mice geese sheep fish police")
_SINGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "sheep": "sheep", "fish": "fish", "leaves": "leaf", "knives": "knife",
    "shelves": "shelf", "wolves": "wolf", "buses": "bus", "glasses": "glass", "police": "police",
}  # fmt: skip
_VERBS = """
    accelerate appear approach arrive ascend attach balance become begin belong bend bounce brake break bring build bump
    burn buy call carry catch change chase clap clean climb close collide come compare compute continue contain cook count
    cover crawl cross cut dance decelerate decrease descend differ dip disappear dive drag draw drink drive drop eat end enter
    estimate exceed exit extend face fall feed fell fight fill finish flip float fly follow gesture get give glide go grab
    grow guide halt hand hang happen have head hide hit hold hop hover hug identify increase interact jog join jump keep
    kick kneel know land last lead lean leave lie lift lift look lose lower make march match measure meet merge move need nod
    occur open orbit overtake pass pause perform pick place play point pour pull push put raise reach rear release remain
    remove reverse ride rise roll rotate row rub run sail say see seem shake shift shoot shrink sit skate ski slide slip
    slow slow smile spin spread squat stand start stay step stir stop stretch strike surf swerve swim swing switch take talk
    tap tell throw tilt tip topple touch tow translate travel tumble turn twist undergo unfold use vibrate wait walk want
    wash watch wave wear wheel work
    """
_IRREGULAR = """
    became began bent broke brought bought came caught drew drank drove ate fallen fed fought filled flew flown gave given
    went gone grew hung hid hidden held kept knelt led left lay lain lost made met rode ridden rose risen ran said saw seen
    shook shot sat slid spun stood stuck struck swam swung took taken thrown threw told wore worn driven lying dying tying
    """
_DOUBLED = _words(
    "begin bump clap cut dip drag drop flip get grab hit hop hug jog nod pat put rub run shop sit skip slip spin stop swim "
    "tap tip step"
)
"""Verbs whose last letter is doubled."""


def _inflected(verb: str) -> Iterator[str]:
    stem = verb + verb[-1] if verb in _DOUBLED else verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb
    yield verb
    yield (
        f"{verb[:-1]}ies"
        if verb.endswith("y") and verb[-2] not in "aeiou"
        else f"{verb}es"
        if (verb.endswith(("s", "x", "z", "ch", "sh", "o")))
        else f"{verb}s"
    )
    yield f"{verb[:-1]}ied" if verb.endswith("y") and verb[-2] not in "aeiou" else f"{stem}ed"
    yield f"{stem}ing"


VERBS = frozenset(form for verb in _VERBS.split() for form in _inflected(verb)) | _words(_IRREGULAR)
"""Verbs of movement and of questions, in all their forms."""
BARE = frozenset(_VERBS.split())
"""The same in the form that follows an auxiliary."""
AUXILIARIES = _words("do does did can could will would shall should may might must to let")
"""What a verb in its bare form follows."""


def is_participle(word: str) -> bool:
    """Whether a word may stand before a noun as an adjective: "the moving car", "the parked truck"."""
    return word.endswith(("ing", "ed")) or word in {"broken", "fallen", "hidden", "driven"}


def is_plural(word: str) -> bool:
    """Whether a noun's form is a plural's."""
    return word in PEOPLE_PLURAL or (len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")))


def singular(word: str) -> str:
    """A noun's singular: "boxes" → "box"."""
    if word in _SINGULAR:
        return _SINGULAR[word]
    if not is_plural(word):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1]
