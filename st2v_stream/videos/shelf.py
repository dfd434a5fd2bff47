"""The models: known by their cards, loaded once, on the worker, when the first video asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Literal

from st2v_stream.errors import NotFound, UnknownModel
from st2v_stream.types import Enhancer, Generator, ModelCard, ModelEntry, Worker

logger = logging.getLogger(__name__)

ModelState = Literal["known", "loading", "ready", "failed"]


class ModelShelf:
    """Loaded generators by name. A load that failed is tried again when it is next asked for."""

    def __init__(self, entries: Mapping[str, ModelEntry], worker: Worker) -> None:
        self._entries = entries
        self._worker = worker
        self._loads: dict[str, asyncio.Task[Generator]] = {}
        self._enhancers: dict[str, Enhancer] = {}

    def cards(self) -> list[ModelCard]:
        """The cards of all models."""
        return [entry.card for entry in self._entries.values()]

    def card(self, name: str) -> ModelCard:
        """The card of one. Raises `UnknownModel`."""
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownModel(
                "no such model", expected="one of " + ", ".join(sorted(self._entries)), received=name, param="model"
            )
        return entry.card

    def begin_loading(self, name: str) -> asyncio.Task[Generator]:
        """Load it in the background, or join the load that runs. Raises `UnknownModel`."""
        card = self.card(name)
        if self.state(name) in ("known", "failed"):
            task = asyncio.create_task(self._worker.run(self._entries[name].load), name=f"load {card.name}")
            task.add_done_callback(_log_outcome)
            self._loads[name] = task
        return self._loads[name]

    async def generator(self, name: str) -> Generator:
        """The generator, loaded. Raises what loading raises (`CheckpointError`)."""
        return await asyncio.shield(self.begin_loading(name))

    def enhancer_name(self, name: str) -> str | None:
        """What makes the films of this model sharp; None where nothing does, or no model is called so."""
        entry = self._entries.get(name)
        if entry is None or entry.load_enhancer is None:
            return None
        return entry.enhancer or (self._enhancers[name].name if name in self._enhancers else "enhancer")

    async def enhancer(self, name: str) -> Enhancer:
        """It, loaded beside the device's thread, so that no film waits. Raises what loading raises, `UnknownModel`."""
        load = self._entries[self.card(name).name].load_enhancer
        if load is None:
            raise NotFound(f"nothing makes the films of {name} sharp", expected="a server with an enhancer", received="none")
        if name not in self._enhancers:
            if self.state(name) == "loading":  # what creates networks changes torch for all threads meanwhile
                await asyncio.wait([self._loads[name]])
            self._enhancers[name] = await asyncio.to_thread(load)
        return self._enhancers[name]

    def state(self, name: str) -> ModelState:
        """How far it is."""
        task = self._loads.get(name)
        if task is None:
            return "known"
        if not task.done():
            return "loading"
        return "failed" if task.cancelled() or task.exception() else "ready"

    def error(self, name: str) -> str | None:
        """Why it could not be loaded."""
        task = self._loads.get(name)
        if task is None or not task.done() or task.cancelled():
            return None
        error = task.exception()
        return None if error is None else describe(error)

    async def aclose(self) -> None:
        """Stop waiting for loads."""
        for task in self._loads.values():
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)


def describe(error: BaseException) -> str:
    """An error in one line, with its kind where the message alone says too little."""
    from st2v_stream.errors import St2vError

    return str(error) if isinstance(error, St2vError) else f"{type(error).__name__}: {error}"


def _log_outcome(task: asyncio.Task[Generator]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s failed: %s", task.get_name(), describe(error))
