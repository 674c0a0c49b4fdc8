"""Results as MLflow shows them: runs, views, live curves and the registry."""
