"""Trains a Wasserstein GAN with clipped weights.

python examples/train_wgan.py
python examples/train_wgan.py --data mnist --size 32
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.cli.main import run

if __name__ == "__main__":
    run("train", recipe="wgan", width=32, lr=2e-4, steps=600)
