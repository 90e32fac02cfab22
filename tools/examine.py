"""`python tools/examine.py RUN`, a closer look at a run; the same as `python -m sdkd_plugin
examine`.
"""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["examine", *sys.argv[1:]]))
