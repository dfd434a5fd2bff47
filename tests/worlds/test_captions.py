from st2v_stream.worlds import captions


def test_the_caption_follows_the_grammar() -> None:
    assert captions.caption("red", "boat", "drifts left", "sea") == "a red boat drifts left over the sea"
    assert captions.caption("orange", "cat", "bounces", "meadow") == "an orange cat bounces above the meadow"


def test_every_word_loses_exactly_one_partner() -> None:
    colours, subjects = zip(*captions.HELD_OUT_COLOUR_SUBJECT, strict=True)
    assert sorted(colours) == sorted(captions.COLOURS)
    assert sorted(subjects) == sorted(captions.SUBJECTS)
    scenes, motions = zip(*captions.HELD_OUT_SCENE_MOTION, strict=True)
    assert sorted(scenes) == sorted(captions.SCENES)
    assert sorted(motions) == sorted(captions.MOTIONS)


def test_the_vocabulary_for_people_covers_the_vocabulary_for_the_tokenizer() -> None:
    shown = {word for group in captions.vocabulary_by_kind().values() for phrase in group for word in phrase.split()}
    assert shown == set(captions.vocabulary())
