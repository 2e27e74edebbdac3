"""Student/teacher self-distillation (Random Teachers are Good Teachers, ICML 2023) as Lightning modules."""
