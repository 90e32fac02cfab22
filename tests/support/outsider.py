"""A method from outside the package."""

METHOD = """
from sdkd_plugin.distillers.vanilla import Vanilla
from sdkd_plugin.registry import METHODS

@METHODS.register("OUTSIDER", config={"WEIGHT": 1.0})
class Outsider(Vanilla):
    pass
"""
