"""``dinopl sweep``: many runs from one file, shared by any number of processes and machines.

A sweep file is read (``file``), expanded into points (``grid``) and resolved by the real parser into runs, each known
by the hash of its options (``plan``). Optuna keeps the queue (``queue``); workers take runs from it (``worker``), and a
supervisor looks after the workers (``supervisor``). Nothing is scheduled here, and nothing is computed.
"""
