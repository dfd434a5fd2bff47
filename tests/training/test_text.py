import torch

from st2v_stream.training.export import EXAMPLE_PROMPTS
from st2v_stream.training.text import MAX_TOKENS, UNKNOWN_ID, new_tokenizer, tokenize, without_colours
from st2v_stream.worlds import captions


def all_captions() -> list[str]:
    return [
        captions.caption(colour, subject, motion, scene)
        for colour in captions.COLOURS
        for subject in captions.SUBJECTS
        for motion in captions.MOTIONS
        for scene in captions.SCENES
    ]


def test_every_caption_is_known_and_fits() -> None:
    ids = tokenize(new_tokenizer(), all_captions())
    assert ids.shape == (900, MAX_TOKENS)
    assert not (ids == UNKNOWN_ID).any()
    assert (ids[:, 0] == 1).all()
    assert ((ids == 2).sum(1) == 1).all()  # every caption keeps its end mark: nothing was cut off
    assert len(ids.unique(dim=0)) == 900


def test_case_and_punctuation_do_not_matter() -> None:
    plain, loud = tokenize(new_tokenizer(), ["a red boat drifts left over the sea", "A RED boat, drifts left -- over the sea!"])
    assert plain.tolist() == loud.tolist()


def test_other_words_become_unknown() -> None:
    ids = tokenize(new_tokenizer(), ["a red zeppelin hovers"])[0].tolist()
    assert ids.count(UNKNOWN_ID) == 1


def test_the_examples_use_known_words_and_no_held_out_pair() -> None:
    assert not (tokenize(new_tokenizer(), list(EXAMPLE_PROMPTS)) == UNKNOWN_ID).any()
    by_caption = {
        captions.caption(colour, subject, motion, scene): (colour, subject, scene, motion)
        for colour in captions.COLOURS
        for subject in captions.SUBJECTS
        for motion in captions.MOTIONS
        for scene in captions.SCENES
    }
    assert not any(captions.is_held_out(*by_caption[prompt]) for prompt in EXAMPLE_PROMPTS)


def test_a_caption_can_do_without_its_colour() -> None:
    tokenizer = new_tokenizer()
    ids = tokenize(tokenizer, ["an orange cat bounces above the meadow", "a red boat drifts left over the sea"])
    expected = tokenize(tokenizer, ["a cat bounces above the meadow", "a boat drifts left over the sea"])
    assert torch.equal(without_colours(ids), expected)
