"""Trains a Wasserstein GAN with gradient penalty.

python examples/train_wgan_gp.py
python examples/train_wgan_gp.py --data fashion-mnist --size 32 --steps 2000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.cli.main import run

if __name__ == "__main__":
    run("train", recipe="wgan_gp", width=16, lr=5e-4, steps=600)
