"""One module a verb of `fintrec`, imported when the verb is called."""
