"""The word-level tokenizer and the small text encoder that reads its tokens."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from st2v_stream.training import randomness
from st2v_stream.worlds import captions

MAX_TOKENS = 12
PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN)
FIRST_WORD_ID = len(SPECIAL_TOKENS)
UNKNOWN_ID = SPECIAL_TOKENS.index(UNKNOWN)
TEXT_WIDTH = 64


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Lower case, letters only, one token per known word, `<unk>` for any other; always 12 tokens."""
    words = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *captions.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\s]"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, words[BOS]), (EOS, words[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Token numbers, `(N, 12)` int64."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt").input_ids


def without_colours(token_ids: torch.Tensor) -> torch.Tensor:
    """The same captions `(N, 12)` with the colour left out, as a person would write them: "an orange cat" -> "a cat"."""
    words = [*SPECIAL_TOKENS, *captions.vocabulary()]
    colours, pad = {words.index(colour) for colour in captions.COLOURS}, SPECIAL_TOKENS.index(PAD)
    rows = [[number for number in row if number not in colours] for row in token_ids.tolist()]
    plain = torch.tensor([row + [pad] * (token_ids.shape[1] - len(row)) for row in rows])
    return torch.where(plain == words.index("an"), words.index("a"), plain)


def new_text_encoder(seed: int) -> CLIPTextModel:
    """The untrained encoder: 2 layers of width 64; its last hidden state is the UNet's text."""
    torch.manual_seed(randomness.address(seed, "text encoder weights"))
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=FIRST_WORD_ID + len(captions.vocabulary()),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=SPECIAL_TOKENS.index(PAD),
            bos_token_id=SPECIAL_TOKENS.index(BOS),
            eos_token_id=SPECIAL_TOKENS.index(EOS),
        )
    )
