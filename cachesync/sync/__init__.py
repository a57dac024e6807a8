"""From a change on the disk to the store: scan, upload, delete, conflicts, flush, manifest."""
