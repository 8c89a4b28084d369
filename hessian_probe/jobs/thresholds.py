"""The thresholds of saving: what each governs, and where its value comes from."""

# The next save waits at least this number of times the duration of the last one.
# Source: saving then takes less than 2 % of the time.
REST = 50.0
