"""Public data sets judged by the protocols of the papers that quote them."""
