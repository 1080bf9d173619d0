"""Questions of the benchmarks' kinds, in our own words; square brackets are around each phrase that names an object.

Marked by hand before the parser was run, by these rules. A phrase has its determiner, its words before the noun, what it
belongs to ("the door of the car"), and clothes ("the man in red"). Not marked: what is asked for ("which car", "how many
people"), what may not be there ("is there a dog"), the camera, the video, places within a picture ("the left side"),
pronouns, and objects that are only called so. The parser was made with `DEVELOPMENT`; `HELD_OUT` was looked at once, when it
was done.
"""

from __future__ import annotations

import re

_MARKED = re.compile(r"\[([^\]]+)\]")

DEVELOPMENT = (
    "Is [the red cup] to the left or to the right of [the white plate]?",
    "How far does [the silver car] travel between 2 s and 5 s?",
    "What is the average speed of [the cyclist] over the whole video?",
    "In which direction does [the person's left hand] move?",
    "Which way does [the globe] rotate, seen from above?",
    "How many times does [the girl in the yellow dress] jump?",
    "At the start, which is closer to the camera: [the chair] or [the lamp]?",
    "What is the height of [the cardboard box] in meters?",
    "Is [the dog] running towards [the camera operator] or away from him?",
    "How many people are walking on [the sidewalk]?",
    "From the camera's perspective, is [the black SUV] turning left or right?",
    "What is the distance between [the sofa] and [the coffee table] at 3.5 seconds?",
    "What direction is [the man wearing a blue helmet] facing?",
    "Does [the drone] move up or down?",
    "What is [the robot arm] doing with [the bottle]?",
    "Is there a horse in the video?",
    "How long is [the wooden bridge]?",
    "What is the displacement of [the pedestrian] from the first frame to the last frame?",
    "Did [the ball] roll under [the parked truck]?",
    "Which hand does [the woman] use to open [the door of the fridge]?",
    "How fast is [the white van] moving when it passes [the bus stop]?",
    "Are [the two boys] getting closer to each other?",
    "How many wheels does [the vehicle] have?",
    "Does [the spinning top] turn clockwise or counterclockwise?",
    "What is the acceleration of [the motorcycle] at the beginning of the video?",
    "Is [the elephant's trunk] moving up?",
    "What color is [the kite]?",
    "Which object is nearest to [the window]?",
    "Where is [the keyboard] relative to [the monitor]?",
    "What is the width of [the door] in centimeters?",
    "After [the skater] jumps, in which direction does she spin?",
    "Is [the cat] sitting on [the couch] or under [the table]?",
    "How much time passes in the video?",
    "Compare the sizes of [the small pot] and [the large pot].",
    "Which way is [the train] heading in the last frame?",
    "Does the camera move to the left?",
    "What is the 3D position of [the trash can] in the camera's coordinates?",
    "Are [cars] driving on both sides of [the road]?",
    "Is [the person] on [the ladder] taller than [the door]?",
    "How does [the gray pickup truck] move relative to [the traffic light]?",
)

HELD_OUT = (
    "Is [the green bottle] in front of or behind [the toaster]?",
    "How far is [the nearest tree] from [the fence] at 1.2 s?",
    "What is the maximum speed of [the red bus]?",
    "In which direction is [the swimmer] moving?",
    "Which way does [the ceiling fan] turn?",
    "How many times does [the man in black] clap [his hands]?",
    "Which is taller: [the refrigerator] or [the shelf]?",
    "What is the length of [the dining table] in meters?",
    "Is [the surfer] moving towards or away from [the shore]?",
    "How many birds fly past [the tower]?",
    "From the viewer's point of view, does [the yellow taxi] turn left at [the intersection]?",
    "What is the distance between [the bed] and [the desk] at the end?",
    "Where does [the boy with the red cap] throw [the frisbee]?",
    "Does [the elevator] go up?",
    "What does [the chef] put into [the pan]?",
    "Is there a second car behind the bus?",
    "How wide is [the hallway]?",
    "What is the path length of [the blue toy car]?",
    "Did [the waiter] drop [the tray of glasses]?",
    "Which foot does [the striker] kick [the ball] with?",
    "How fast does [the ambulance] go as it overtakes [the truck]?",
    "Do [the three dancers] move in the same direction?",
    "How many legs does [the stool] have?",
    "Is [the carousel] rotating clockwise?",
    "By how much does the speed of [the scooter] change?",
    "Is [the lion's tail] raised?",
    "What is the shape of [the mirror]?",
    "Which animal is closest to [the pond]?",
    "Where is [the backpack] with respect to [the chair's legs]?",
    "Estimate the depth of [the cabinet].",
    "When [the gymnast] lands, which way is she facing?",
    "Is [the laptop] next to [the printer] or on top of it?",
    "How long does the clip last?",
    "Which of [the black suitcase] and [the brown suitcase] is bigger?",
    "In the first frame, is [the crane] on the left side of the image?",
    "Is the camera rotating or translating?",
    "What are the dimensions of [the whiteboard]?",
    "Are [people] crossing [the street]?",
    "Which way does [the man pushing the cart] walk?",
    "Does [the helicopter] fly over [the river] from left to right?",
)


def unmarked(question: str) -> tuple[str, list[tuple[int, int]]]:
    """(the question, the spans of its marked phrases)."""
    text, spans, end = "", [], 0
    for found in _MARKED.finditer(question):
        text += question[end : found.start()]
        spans.append((len(text), len(text) + len(found[1])))
        text += found[1]
        end = found.end()
    return text + question[end:], spans
