"""Interpolates in the latent space of a trained run: `rawgan interpolate`, without installing.

python examples/interpolate.py runs/dcgan-digits-001
python examples/interpolate.py runs/cgan-digits-001 --label 7 --seed 3 --out .
"""

import sys
from pathlib import Path

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rawgan.cli.main import run

if __name__ == "__main__":
    run("interpolate")
