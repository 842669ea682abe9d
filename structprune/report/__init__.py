"""Reports for people, from the report's data alone."""

from structprune.report.markdown import accuracy_line, markdown
from structprune.report.sweep_chart import front_svg, front_table
from structprune.report.tables import (
    TABLES,
    Table,
    accuracy_table,
    count_table,
    deployment_table,
    int8_line,
    int8_rows,
    int8_table,
    limit_table,
    measurement_table,
    proof_table,
    training_table,
)

__all__ = [
    "TABLES",
    "Table",
    "accuracy_line",
    "accuracy_table",
    "count_table",
    "deployment_table",
    "front_svg",
    "front_table",
    "int8_line",
    "int8_rows",
    "int8_table",
    "limit_table",
    "markdown",
    "measurement_table",
    "proof_table",
    "training_table",
]
