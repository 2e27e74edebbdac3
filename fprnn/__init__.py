"""Fixed-Point RNNs: a dense linear RNN computed as the fixed point of a parallelisable diagonal one (NeurIPS 2025)."""
