"""Trains the MLP GAN of Raschka & Mirjalili, ch. 17.

python examples/train_mlp_gan.py
python examples/train_mlp_gan.py --data fashion-mnist --steps 10000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.cli.main import run

if __name__ == "__main__":
    run("train", recipe="raschka_mlp_gan", size=28, steps=4000)
