"""One seeded source of randomness, split into named streams."""

import zlib

import numpy as np


class Random:
    """Named, independent, serialisable random streams that all follow from one seed.

        stream(name) = PCG64(SeedSequence([seed, crc32(name)]))

    Each consumer (the weights, z, the data order, dropout ...) draws from a stream of its own, so that one of them drawing
    more or fewer numbers never shifts the others. Everything is drawn on the host: the same seed gives the same numbers
    whatever device the run is on.
    """

    def __init__(self, seed: int = 0):
        self.seed = int(seed)
        self._streams: dict[str, np.random.Generator] = {}

    def stream(self, name: str) -> np.random.Generator:
        """The generator called `name`: made on first use, the same object afterwards."""
        if name not in self._streams:
            sequence = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])
            self._streams[name] = np.random.Generator(np.random.PCG64(sequence))
        return self._streams[name]

    def state(self) -> dict:
        """Everything needed to go on later with the same numbers, as plain JSON-able values."""
        return {"seed": self.seed, "streams": {k: g.bit_generator.state for k, g in self._streams.items()}}

    def restore(self, state: dict) -> None:
        """Goes back to what `state()` said; generators handed out before stay the same objects, in the state of their stream."""
        self.seed = state["seed"]
        for name in self._streams.keys() - state["streams"].keys():
            del self._streams[name]
        for name, value in state["streams"].items():
            self.stream(name).bit_generator.state = value
