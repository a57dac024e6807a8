"""What an operator runs now and then: doctor, bucket, migrate, cost, rebind."""
