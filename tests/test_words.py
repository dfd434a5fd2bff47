"""The ground floor: errors, direction, chunk, types, config."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from st2v_stream.chunk import Memory, StreamSpec
from st2v_stream.config import Config, read_config
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.types import ModelCard

SPEC = StreamSpec(width=64, height=64, fps=8, first_chunk_frames=16, chunk_frames=8)
BOAT = Direction((("a red boat", 1.0),), seed=5)
CARD = ModelCard(
    name="toy",
    title="Toy",
    version="1",
    licence="Apache-2.0",
    spec=SPEC,
    vocabulary={"colours": ["red"], "things": ["boat"], "places": ["over the sea"], "small words": ["a"]},
    presets={"live": {"num_inference_steps": 4, "guidance_scale": 1.5}},
)


class TestStreamSpec:
    @pytest.mark.parametrize(("frames", "chunks"), [(1, 1), (16, 1), (17, 2), (24, 2), (25, 3), (1200, 149)])
    def test_whole_chunks_hold_the_frames(self, frames: int, chunks: int) -> None:
        assert SPEC.chunks_for(frames) == chunks

    def test_chunks_follow_each_other_without_a_gap(self) -> None:
        for index in range(200):
            assert SPEC.start_of(index) + SPEC.frames_of(index) == SPEC.start_of(index + 1)


class TestMemory:
    def memory(self, **changes: object) -> Memory:
        fields = {
            "kind": "toy",
            "version": 1,
            "next_index": 1,
            "next_start": 16,
            "parts": {"tail": np.zeros((8, 2, 2, 3), np.uint8)},
        }
        return Memory(**(fields | changes))  # type: ignore[arg-type]

    def test_digest_sees_every_field_and_every_byte(self) -> None:
        other = np.zeros((8, 2, 2, 3), np.uint8)
        other[7, 1, 1, 2] = 1
        variants = [
            self.memory(),
            self.memory(kind="x"),
            self.memory(version=2),
            self.memory(next_index=2),
            self.memory(next_start=17),
            self.memory(parts={"tail": other}),
            self.memory(parts={"anchor": np.zeros((8, 2, 2, 3), np.uint8)}),
            self.memory(parts={"tail": np.zeros((8, 2, 3, 2), np.uint8)}),
            self.memory(parts={"tail": np.zeros((8, 2, 2, 3), np.int8)}),
        ]
        assert len({memory.digest for memory in variants}) == len(variants)

    def test_digest_does_not_depend_on_layout_in_memory(self) -> None:
        frames = np.arange(8 * 2 * 2 * 3, dtype=np.uint8).reshape(8, 2, 2, 3)
        assert self.memory(parts={"tail": frames}).digest == self.memory(parts={"tail": np.asfortranarray(frames)}).digest


class TestDirection:
    def test_json_round_trip(self) -> None:
        mixed = Direction((("a", 1.0), ("b", 0.5)), "ugly", 2.5, 8, "published", 2**63 - 1)
        assert Direction.from_json(json.loads(json.dumps(mixed.to_json()))) == mixed

    @pytest.mark.parametrize(
        "bad",
        [
            {"prompts": ()},
            {"prompts": (("a", 0.0),)},
            {"seed": -1},
            {"seed": 2**63},
            {"num_inference_steps": 0},
            {"guidance_scale": -0.1},
            {"guidance_scale": float("nan")},
            {"preset": "fast"},
        ],
    )
    def test_out_of_range_names_the_field_and_both_sides(self, bad: dict[str, object]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            Direction(**({"prompts": (("a", 1.0),)} | bad))  # type: ignore[arg-type]
        assert caught.value.param == next(iter(bad))
        assert caught.value.expected
        assert caught.value.received

    def test_a_cue_changes_from_its_chunk_on(self) -> None:
        timeline = Timeline(BOAT, (Cue(5, {"seed": 9}), Cue(2, {"prompts": (("a blue boat", 1.0),)})))
        assert [timeline.at(i).prompt for i in (0, 1, 2, 9)] == ["a red boat", "a red boat", "a blue boat", "a blue boat"]
        assert [timeline.at(i).seed for i in (4, 5)] == [5, 9]
        assert Timeline.from_json(json.loads(json.dumps(timeline.to_json()))) == timeline


class TestModelCard:
    def test_unknown_words_are_named_with_the_known_ones(self) -> None:
        (warning,) = CARD.warnings("A RED zebra, over the Sea!")
        assert "'zebra'" in warning
        assert "things: boat" in warning
        assert CARD.warnings("a red boat") == ()

    def test_given_values_win_over_the_preset(self) -> None:
        plain = CARD.direction("a red boat", preset="live")
        assert (plain.num_inference_steps, plain.guidance_scale) == (4, 1.5)
        given = CARD.direction("a red boat", preset="live", num_inference_steps=9, guidance_scale=0.0)
        assert (given.num_inference_steps, given.guidance_scale) == (9, 0.0)

    def test_an_empty_prompt_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="prompt is empty"):
            CARD.direction(" \n")


class TestConfig:
    def test_flag_wins_over_environment_over_file_over_default(self, tmp_path: Path) -> None:
        toml = tmp_path / "st2v.toml"
        toml.write_text('port = 1\nmodel = "m"\npreset = "default"\n')
        environ = {"ST2V_PORT": "2", "ST2V_MODEL": "n", "HOME": "/x"}
        config = read_config({"port": 3, "model": None}, environ=environ, toml=toml)
        assert (config.port, config.model, config.preset, config.host) == (3, "n", "default", Config().host)

    @pytest.mark.parametrize("text", ["port = ", 'colour = "red"\n', 'port = "many"\n'])
    def test_a_bad_file_is_named(self, text: str, tmp_path: Path) -> None:
        toml = tmp_path / "st2v.toml"
        toml.write_text(text)
        with pytest.raises(InvalidRequest, match=r"st2v\.toml"):
            read_config({}, environ={}, toml=toml)


class TestErrors:
    def test_expected_and_received_are_in_the_sentence(self) -> None:
        assert str(St2vError("no", expected="a", received="b")) == "no: expected a, received 'b'"
        assert str(St2vError("no", received=3)) == "no: received 3"

    def test_long_input_is_cut(self) -> None:
        assert len(str(St2vError("no", expected="a", received="x" * 10_000))) < 200
