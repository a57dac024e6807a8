"""S3 behind the ObjectStore protocol."""
