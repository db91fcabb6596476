"""Named random streams that are derived from one seed."""

import zlib

import numpy as np


class Random:
    """Named, independent, serialisable random streams that are derived from one seed.

        stream(name) = PCG64(SeedSequence([seed, crc32(name)]))

    Each consumer (weights, z, data order, dropout ...) draws from a separate stream, so that a
    consumer that draws more or fewer numbers does not change the numbers of the others. All numbers
    are drawn on the host: the same seed gives the same numbers on every device.
    """

    def __init__(self, seed: int = 0):
        self.seed = int(seed)
        self._streams: dict[str, np.random.Generator] = {}

    def stream(self, name: str) -> np.random.Generator:
        """Return the generator called `name`: created on first use, the same object afterwards."""
        if name not in self._streams:
            sequence = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])
            self._streams[name] = np.random.Generator(np.random.PCG64(sequence))
        return self._streams[name]

    def state(self) -> dict:
        """Return the seed and the state of every stream as JSON-serialisable values."""
        return {
            "seed": self.seed,
            "streams": {k: g.bit_generator.state for k, g in self._streams.items()},
        }

    def restore(self, state: dict) -> None:
        """Restore a result of `state()`. Generators that were returned before stay valid."""
        self.seed = state["seed"]
        for name in self._streams.keys() - state["streams"].keys():
            del self._streams[name]
        for name, value in state["streams"].items():
            self.stream(name).bit_generator.state = value
