"""`python tools/proxy.py RUN`, SDKD's proxy over training; the same as `python -m sdkd_plugin
proxy`.
"""

import sys

from sdkd_plugin.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["proxy", *sys.argv[1:]]))
