"""The bucket as it should be: compared with what it is, and made so; and who may do what in it."""
