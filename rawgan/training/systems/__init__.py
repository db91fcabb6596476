"""Trainings of systems that are not one generator and one discriminator of a Recipe.

SYSTEMS names each; `rawgan train NAME` starts it, and `rawgan train --resume RUN` goes on with it.
"""

from rawgan.training.systems.autoencoder import AutoencoderTraining, VAETraining
from rawgan.training.systems.base import Training
from rawgan.training.systems.cyclegan import CycleGANTraining
from rawgan.training.systems.infogan import InfoGANTraining
from rawgan.training.systems.progressive import ProgressiveTraining
from rawgan.training.systems.semi_supervised import SemiSupervisedTraining, SupervisedTraining
from rawgan.training.systems.stackedgan import StackedGANTraining

SYSTEMS: dict[str, type[Training]] = {
    "vae": VAETraining,
    "autoencoder": AutoencoderTraining,
    "infogan": InfoGANTraining,
    "stackedgan": StackedGANTraining,
    "cyclegan": CycleGANTraining,
    "progressive": ProgressiveTraining,
    "semi_supervised": SemiSupervisedTraining,
    "supervised": SupervisedTraining,
}
