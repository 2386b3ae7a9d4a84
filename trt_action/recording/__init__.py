"""How does a run get into MLflow? Imported only where `mlflow-tracking-uri` is set (docs/mlflow.md)."""

from trt_action.recording.asked import Target, asked
from trt_action.recording.recorder import Recorded, record

__all__ = ["Recorded", "Target", "asked", "record"]
