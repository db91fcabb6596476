"""Trains the MLP GAN of Raschka & Mirjalili, ch. 17.

python examples/train_mlp_gan.py
python examples/train_mlp_gan.py --data fashion-mnist --steps 10000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.training.command import main

if __name__ == "__main__":
    main("raschka_mlp_gan", "Trains the MLP GAN of Raschka & Mirjalili, ch. 17.", data="digits", size=28, steps=4000)
