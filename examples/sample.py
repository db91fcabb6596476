"""Draws images with the generator of a trained run: `rawgan sample`, without installing.

python examples/sample.py runs/dcgan-digits-001
python examples/sample.py runs/cgan-digits-001 --label 7 --count 16 --seed 3 --out sevens.png
"""

import sys
from pathlib import Path

# a plain checkout works without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rawgan.cli.main import run

if __name__ == "__main__":
    run("sample")
