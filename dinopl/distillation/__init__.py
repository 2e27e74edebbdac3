"""Random Teachers are Good Teachers (ICML 2023): a student distilled from a frozen, randomly initialised teacher."""
