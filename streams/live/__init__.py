"""Virtual users of a simulated bank who react to the slates that the running stack serves them."""
