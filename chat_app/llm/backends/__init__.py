"""One module for each library that can run a model; all of them live in a worker process."""
