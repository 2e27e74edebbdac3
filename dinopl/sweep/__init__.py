"""``dinopl sweep``: many runs from one file, on the workers of a Dask cluster.

A sweep file is read (``file``), expanded into points (``grid``) or drawn from (``search``), and made into runs, each
known by the hash of its options (``plan``). What the study's folder says of a run is all that is known of it
(``study``); Dask's ``distributed`` makes the runs (``engine``). How a configuration is composed and run is passed in by
the command.
"""
