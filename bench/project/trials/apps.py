from django.apps import AppConfig


class TrialsConfig(AppConfig):
    name = "bench.project.trials"
