"""Training with Lightning, which no other package imports: modules, data, callbacks, loggers, rollbacks."""
