"""Trains a DCGAN on pictures: digits at hand, MNIST, Fashion-MNIST, or a folder of your own.

python examples/train_dcgan.py
python examples/train_dcgan.py --data fashion-mnist --size 32 --width 16 --lr 1e-3 --real-label 0.9
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works without installing

from rawgan.cli.main import run

if __name__ == "__main__":
    run("train", recipe="dcgan", width=32, lr=5e-4)
