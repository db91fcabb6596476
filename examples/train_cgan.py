"""Trains a conditional GAN: a column per class.

python examples/train_cgan.py
python examples/train_cgan.py --data fashion-mnist --size 32
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.cli.main import run

if __name__ == "__main__":
    run("train", recipe="cgan", width=32, lr=5e-4)
