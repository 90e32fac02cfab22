"""The table as a pandas data frame."""

from typing import TYPE_CHECKING

from sdkd_plugin.errors import UserError
from sdkd_plugin.table.records import all_records
from sdkd_plugin.table.report import TableOptions, make_report

if TYPE_CHECKING:
    from pandas import DataFrame


def make_frame(options: TableOptions) -> "DataFrame":
    """A row for each cell and for each folder that does not count, with the columns of
    `--format csv`.

    Raises:
        UserError: pandas is not installed, or as `make_report`.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise UserError(
            "sdkd_plugin.table returns a pandas data frame and pandas is not installed; install it "
            "with: pip install 'sdkd-plugin[pandas]', or write a file that needs none: python -m "
            "sdkd_plugin table RUNS --format json"
        ) from error
    return DataFrame(all_records(make_report(options)))
