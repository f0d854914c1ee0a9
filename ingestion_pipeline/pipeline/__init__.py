"""What a run does with the documents it claimed. Knows ports and stages, no adapter, no Dagster."""
