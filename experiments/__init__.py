"""The command line, the training of the embedded models, benchmarks and analyses."""
