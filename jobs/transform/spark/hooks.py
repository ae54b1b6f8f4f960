"""What only one pipeline does: functions of jobs/pipelines/<pipeline>.py, named after the datasets that they change.

A function `clean_orders(rows: DataFrame) -> DataFrame` changes the raw rows of the source orders before its rules see them,
`fact_order` the finished rows of that table. A hook may not add or lose rows: the stage counts them. Most pipelines have none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from pyspark.sql import DataFrame

from jobs.transform.spark.session import Stage


def hook(pipeline: str, dataset: str) -> Callable[[DataFrame], DataFrame] | None:
    """The function of a pipeline for a dataset; None when it has none."""
    name = f"jobs.pipelines.{pipeline}"
    return getattr(import_module(name), dataset, None) if find_spec(name) else None


def hooked(stage: Stage, dataset: str, rows: DataFrame) -> DataFrame:
    """The rows as the pipeline's hook for the dataset makes them; as they are when it has none."""
    change = hook(stage.run.pipeline, dataset)
    return change(rows) if change else rows
