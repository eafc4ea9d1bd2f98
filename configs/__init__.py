"""Values only: one YAML per stage and size; `debug` trains on a laptop CPU in minutes."""
