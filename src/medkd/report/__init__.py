"""The one place that renders what stages hand over: pages, tables and figures of runs and steps."""
