"""From a log to a training set on disk: shards of users, one function for both engines."""
