"""Artifacts, keys, manifests and file formats. Imports neither torch, prefect nor mlflow."""
