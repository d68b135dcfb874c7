"""Where batches come from: data sets as modules with one hole, `load`, and loaders keyed by the step."""
