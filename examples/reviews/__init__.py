"""The second app of the project as `make serve` shows it: what people said of the tasks."""
