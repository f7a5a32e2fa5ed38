"""MLflow's models: adopted as versions, and versions registered as models of MLflow."""
