"""What every process of a parallel training does around its steps."""

import numpy as np

from rawgan.training.loop import Follower


class Partner(Follower):
    """What every rank does around the steps of a GAN: all that a rank does alone where it is not the one that writes."""

    board = None

    def __init__(self, session):
        self.session = session

    def stretch(self, done, last):
        return self.session.stretch(last)

    def stopped(self, asked):
        return any(self.session.ranks.exchange(asked))

    def numbers(self, metrics):
        return self.session.ranks.mean_numbers(super().numbers(metrics))

    def draw(self, done):
        """Nothing: rank 0 does."""

    def sound(self):
        return all(np.isfinite(a).all() for a in self.session.arrays().values())

    def save(self, done):
        self.session.agree()

    def explain(self, done):
        return "rawgan train --resume RUN --parallel none says in which layer that begins"

    def weights(self):
        return {}
