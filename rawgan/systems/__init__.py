"""Training steps of systems that are not one generator and one discriminator, one file each.

NAMES are those of `rawgan train`; SYSTEMS of training/systems has the training of each.
"""

NAMES = (
    "vae",
    "autoencoder",
    "infogan",
    "stackedgan",
    "cyclegan",
    "progressive",
    "semi_supervised",
    "supervised",
)
