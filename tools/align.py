"""`python tools/align.py STUDY.yaml`, the motivation study; the same as `python -m sdkd_plugin
align`.
"""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
