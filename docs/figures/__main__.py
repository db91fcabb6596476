"""Draw the named figures, or all."""

import sys
import time

from docs.figures import draw, load

for name in sys.argv[1:] or load():
    load()
    start = time.perf_counter()
    print(f"{draw(name)}  {time.perf_counter() - start:.1f} s", flush=True)
