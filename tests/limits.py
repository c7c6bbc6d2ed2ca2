"""The limits on data sets that tests read them with: those of configs/tiny.yaml."""

from tests.conftest import data_limits

LIMITS = data_limits()
LENIENT = data_limits(on_error="skip")  # what does not fit is left out
