"""The words of the story-book world, its caption grammar and the pairs kept out of training.

A caption is `(a|an) COLOUR SUBJECT MOTION PLACE`, for instance "an orange cat bounces above the meadow": 900 captions from
34 words. This is the only file that knows which pairs are held out; the training sampler asks `is_held_out`.
"""

from __future__ import annotations

SUBJECTS = ("ball", "boat", "fish", "car", "rocket", "cat")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
MOTIONS = ("drifts left", "drifts right", "flies up", "bounces", "hovers")
PLACES = {
    "sea": "over the sea",
    "night sky": "in the night sky",
    "meadow": "above the meadow",
    "desert": "across the desert",
    "snow field": "over the snow field",
}
SCENES = tuple(PLACES)

# Every colour and every subject loses exactly one partner, and so does every scene and every motion.
HELD_OUT_COLOUR_SUBJECT = frozenset((colour, SUBJECTS[(i + 2) % len(SUBJECTS)]) for i, colour in enumerate(COLOURS))
HELD_OUT_SCENE_MOTION = frozenset((scene, MOTIONS[(2 * i + 1) % len(MOTIONS)]) for i, scene in enumerate(SCENES))


def is_held_out(colour: str, subject: str, scene: str, motion: str) -> bool:
    """Whether a film with these words may never be shown to training."""
    return (colour, subject) in HELD_OUT_COLOUR_SUBJECT or (scene, motion) in HELD_OUT_SCENE_MOTION


def caption(colour: str, subject: str, motion: str, scene: str) -> str:
    """The one sentence that names a film."""
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {subject} {motion} {PLACES[scene]}"


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted, articles first."""
    phrases = (*SUBJECTS, *COLOURS, *MOTIONS, *PLACES.values())
    return ["a", "an", *sorted({word for phrase in phrases for word in phrase.split()})]


def vocabulary_by_kind() -> dict[str, list[str]]:
    """The words as the model card shows them to a person."""
    return {
        "colours": list(COLOURS),
        "things": list(SUBJECTS),
        "motions": list(MOTIONS),
        "places": list(PLACES.values()),
        "small words": ["a", "an"],
    }
