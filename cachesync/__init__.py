"""cachesync makes the files that programs write durable in S3, and says whether all of them are."""

__version__ = "0.1.0"
