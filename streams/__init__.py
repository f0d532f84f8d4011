"""The rim: Faust workers, Feast and Triton adapters, the local stack and the command line."""
