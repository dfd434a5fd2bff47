"""A whole CLIP folder with tiny random weights and a byte vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE = 32


def write_clip(folder: Path) -> Path:
    """Write the folder and return it."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {word: number for number, word in enumerate(words)}
    text = {"vocab_size": len(ids), "eos_token_id": ids["<|endoftext|>"], "bos_token_id": ids["<|startoftext|>"]}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text | sizes, vision_config={"image_size": SIDE, "patch_size": 8} | sizes, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(pictures, CLIPTokenizer(vocab=ids, merges=[])).save_pretrained(folder)
    return folder
