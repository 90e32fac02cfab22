"""`python tools/eval.py` as in mdistiller; the same as `python -m sdkd_plugin eval`."""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
