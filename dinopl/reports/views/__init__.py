"""Tables and figures of one family of runs each."""
