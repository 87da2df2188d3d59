list(APPEND model_sources)
