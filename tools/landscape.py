"""`python tools/landscape.py RUN RUN ...`, the loss around trained weights; the same as `python -m
sdkd_plugin landscape`.
"""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["landscape", *sys.argv[1:]]))
