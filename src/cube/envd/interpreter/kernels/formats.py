"""Representations that we add to IPython's: data of tables, charts of figures, JSON of containers."""

from __future__ import annotations

import sys
from typing import Any

from IPython.core.formatters import BaseFormatter, DisplayFormatter  # type: ignore[import-not-found]
from traitlets import ObjectName, Unicode  # type: ignore[import-not-found]


class DataFormatter(BaseFormatter):  # type: ignore[misc]
    """``e2b/data``: the columns of a table."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):  # type: ignore[misc]
    """``e2b/chart``: what a figure shows, as data."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def pop(self, typ: Any, default: Any = None) -> Any:
        """Keep what is there: choosing the formats of pictures takes ``Figure`` out of all formatters."""
        return default


def install(formatter: DisplayFormatter) -> None:
    """Add the formatters. The types are named, not imported: a library is loaded only when the user's code does it."""
    data, chart = DataFormatter(parent=formatter), ChartFormatter(parent=formatter)
    data.for_type_by_name("pandas.core.frame", "DataFrame", table_columns)
    data.for_type_by_name("pandas", "DataFrame", table_columns)
    chart.for_type_by_name("matplotlib.figure", "Figure", figure_chart)
    formatter.formatters.update({"e2b/data": data, "e2b/chart": chart})
    formatter.active_types = [*formatter.format_types]
    json = formatter.formatters["application/json"]
    json.for_type(dict, _itself)
    json.for_type(list, _itself)
    formatter.formatters["text/plain"].max_seq_length = 0


def _itself(value: Any) -> Any:
    return value


def table_columns(table: Any) -> dict[str, list[Any]]:
    """Columns of a DataFrame by name, with times in ISO 8601."""
    columns = table.to_dict("list")
    return {str(name): [_cell(value) for value in values] for name, values in columns.items()}


def _cell(value: Any) -> Any:
    if type(value) in (int, float, str, bool):
        return value
    if type(value).__name__ == "NaTType":
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value


def figure_chart(figure: Any) -> dict[str, Any] | None:
    """The chart of a matplotlib figure, when the image has ``e2b_charts`` and that understands the figure."""
    try:
        from e2b_charts import chart_figure_to_dict  # type: ignore[import-not-found]
    except ImportError:
        return None
    try:
        chart: dict[str, Any] | None = chart_figure_to_dict(figure)
    except Exception as error:  # noqa: BLE001 - a chart is an extra; whatever goes wrong must not cost the picture
        sys.stderr.write(f"The chart data of this figure is not available: {error}\n")
        return None
    return chart
