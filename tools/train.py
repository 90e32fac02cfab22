"""`python tools/train.py` as in mdistiller; the same as `python -m sdkd_plugin train`."""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
