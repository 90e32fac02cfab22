"""What setup.cfg cannot say: the wheel carries the top-level configs/ as sdkd_plugin/configs. All
else stands in setup.cfg.
"""

from pathlib import Path

from setuptools import find_packages, setup

configs = [str(path.relative_to("configs")) for path in Path("configs").rglob("*.yaml")]
setup(
    packages=[*find_packages(include=["sdkd_plugin*"]), "sdkd_plugin.configs"],
    package_dir={"sdkd_plugin.configs": "configs"},
    package_data={
        "sdkd_plugin": ["table/*.csv", "table/page/*.j2", "ship/*.j2"],
        "sdkd_plugin.configs": configs,
    },
)
