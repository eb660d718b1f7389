"""Facts (apps/*/app.yml, environments/*.yml) -> pure functions -> one directory of final files for the engines."""
