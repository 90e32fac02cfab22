"""The bridge into a real mdistiller: registration at import time, a reversible `link`, and reading
its runs.

Nothing outside this folder knows of mdistiller, and nothing here is imported unless asked for.
"""

from sdkd_plugin.upstream.registration import register

__all__ = ["register"]
