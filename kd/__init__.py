"""Knowledge distillation against label training as the data fraction varies (Revisiting KD, 2025)."""
