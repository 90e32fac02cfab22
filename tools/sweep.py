"""`python tools/sweep.py` as in mdistiller; the same as `python -m sdkd_plugin sweep`."""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
