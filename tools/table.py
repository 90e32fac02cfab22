"""`python tools/table.py RUNS...` prints the comparison table; the same as `python -m sdkd_plugin
table`.
"""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["table", *sys.argv[1:]]))
