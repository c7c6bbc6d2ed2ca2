"""The limits on data sets that tests read them with: those of configs/tiny.yaml."""

from pathlib import Path

from shared.config import load_config

LIMITS = load_config(Path(__file__).resolve().parents[1] / "configs" / "tiny.yaml").data
LENIENT = LIMITS.model_copy(update={"on_error": "skip"})  # what does not fit is left out
