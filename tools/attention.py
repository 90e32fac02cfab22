"""`python tools/attention.py RUN RUN ...`, where networks look; the same as `python -m sdkd_plugin
attention`.
"""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["attention", *sys.argv[1:]]))
