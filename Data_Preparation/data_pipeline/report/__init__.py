"""The HTML report and the explorer of a dataset."""
