"""The formats of the artifacts: Arrow schemas for rows, mmap-able Parquet for tokens."""
