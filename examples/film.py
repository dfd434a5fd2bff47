"""A film from a sentence: python examples/film.py "a red boat drifts left over the sea" --enhance storybook -o boat.mp4

The file plays while it grows; Ctrl-C ends the film, and what is there stays.
"""

import argparse
import time
from contextlib import suppress

from st2v_stream import FilmFile, Timeline, enhance_chunks, iterate, load_enhancer, load_generator, stream_chunks

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt", nargs="?", default="a red boat drifts left over the sea")
parser.add_argument("--num-frames", type=int, default=120)
parser.add_argument("--seed", type=int, default=33)
parser.add_argument("--enhance", metavar="ENHANCER", help="make it sharp: storybook, lanczos, or a folder with an enhancer")
parser.add_argument("-o", "--output", default="film.mp4")
args = parser.parse_args()

generator = load_generator("storybook")
direction = generator.card.direction(args.prompt, preset="live", seed=args.seed)
film = stream_chunks(generator, Timeline(direction), num_frames=args.num_frames)

if args.enhance:
    sharp = enhance_chunks(load_enhancer(args.enhance), film)
    film = (each.chunk async for each in sharp)

rendition, began_s = "enhanced" if args.enhance else "preview", time.monotonic()
with suppress(KeyboardInterrupt), FilmFile(args.output, generator.spec, rendition=rendition, overwrite=True) as file:
    for chunk in iterate(film):
        file.append(chunk)
        after_s = time.monotonic() - began_s
        print(f"frames {chunk.start} to {chunk.start + len(chunk.frames) - 1} after {after_s:.1f} s", flush=True)
