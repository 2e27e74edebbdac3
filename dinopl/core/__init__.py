"""What the three packages stand on: torch, numpy, scipy and lightning only.

The quantities that all papers share, with student logits ``s`` and teacher logits ``t`` of ``m`` classes:

======  ==========================  ==============================
symbol  meaning                     name in the code
======  ==========================  ==============================
p       softmax(s)                  ``log_p``, its logarithm
q       softmax(t)                  ``q``, and ``log_q``
tau     temperature                 ``temperature``
======  ==========================  ==============================

Formula, and where it is computed:

    cross-entropy, -sum q log p                         dinopl/core/divergences.py:cross_entropy
    Kullback-Leibler divergence, sum q (log q - log p)  dinopl/core/divergences.py:kl_divergence
    entropy, -sum p log p                               dinopl/core/divergences.py:entropy
    squared error of logits, mean (s - t)^2             dinopl/core/divergences.py:mean_squared_error
    splitmix64's finaliser, a hash of counters          dinopl/core/random.py:mix
    key of a sample in an epoch                         dinopl/core/random.py:sample_keys
    seed of a named stream, SHA-256 of root/name        dinopl/core/random.py:stream_seed
    interval of a mean, Student's t                     dinopl/core/statistics.py:t_interval
    interval of a mean, percentile bootstrap            dinopl/core/statistics.py:bootstrap_interval
"""
