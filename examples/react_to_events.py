"""React to a film while a server makes it (st2v serve): python examples/react_to_events.py --server http://127.0.0.1:8000

When it is 10 seconds long the fish turns into a boat; when it has ended, and is sharp where the server makes films sharp,
it is downloaded.
"""

import argparse
import asyncio
from contextlib import aclosing

from st2v_stream.client import Client

FISH, BOAT = "a blue fish hovers over the sea", "a red boat drifts right over the sea"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--server", help="its address, or the link that st2v serve prints")
parser.add_argument("--num-frames", type=int, default=200)
parser.add_argument("--boat-at", type=float, default=10, metavar="SECONDS")
parser.add_argument("-o", "--output", default="fish.mp4")
args = parser.parse_args()


def is_done(film):
    is_sharp = film["enhanced_prefix_frames"] == film["frames"]
    return film["ended_by"] is not None and (is_sharp or film["enhance"] == "none" or film["enhancer"] is None)


async def main():
    async with Client(args.server) as client:
        film, is_boat = await client.create(FISH, num_frames=args.num_frames, preset="live", seed=7), False
        async with aclosing(client.events(film["id"], until_ended=False)) as events:
            async for event in events:
                match event:
                    case {"type": "segment", "chunk": chunk}:
                        seconds = (chunk.start + chunk.frames) / film["fps"]
                        print(f"{chunk.rendition} up to {seconds:.1f} s")
                        if seconds >= args.boat_at and not is_boat:
                            is_boat = True
                            await client.cue(film["id"], prompt=BOAT, transition_chunks=1)
                    case {"type": "cue", "index": index}:
                        print(f"a boat from chunk {index} on")
                    case {"type": "state", "video": video}:
                        print(f"the film is {video['state']}")
                if event["type"] in ("segment", "ended") and is_done(await client.get(film["id"])):
                    break
        print(await client.download(film["id"], args.output))


asyncio.run(main())
