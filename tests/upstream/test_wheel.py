"""The bridge from an installed wheel, without this repository."""

import pytest
from support.installed import call


@pytest.mark.slow
def test_the_installed_package_links_and_unlinks_a_checkout(checkout, programs, tmp_path):
    hook = checkout / "mdistiller" / "distillers" / "__init__.py"
    before = hook.read_bytes()
    call(programs / "sdkd", "link", checkout, cwd=tmp_path)
    assert (checkout / "configs/cifar100/sdkd/res56_res20.yaml").exists()
    code = (
        "from mdistiller.distillers import distiller_dict as d; "
        "from mdistiller.engine.cfg import CFG as c; "
    )
    code += "c.merge_from_file('configs/cifar100/sdkd/res56_res20.yaml'); "
    code += "print(d['SDKD'].__mro__, c.DISTILLER.TYPE)"
    out = call(programs / "python", "-c", code, cwd=checkout)
    assert (
        "mdistiller.distillers._base.Distiller" in out and "sdkd_plugin.distillers.sdkd.SDKD" in out
    )
    call(programs / "sdkd", "unlink", checkout, cwd=tmp_path)
    assert hook.read_bytes() == before and not (checkout / "configs/cifar100/sdkd").exists()
