"""The table as json, for scripts: every record with all its digits."""

import json

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.records import all_records
from sdkd_plugin.table.report import Report


@FORMATS.register("json")
def render(report: Report) -> str:
    """An object: `metric`, and `records`, see `table.records`, one a line. ASCII, so that no name
    steers a terminal.
    """
    records = ",\n".join(json.dumps(each, allow_nan=False) for each in all_records(report))
    metric = json.dumps(report.options.metric)
    return f'{{"metric": {metric}, "records": [\n{records}\n]}}\n'
