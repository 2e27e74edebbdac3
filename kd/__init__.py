"""Knowledge distillation against label training as the data fraction varies (Revisiting Knowledge Distillation, 2025)."""
