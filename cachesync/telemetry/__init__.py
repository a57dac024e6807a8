"""What happened, counted and shown: activity, Prometheus metrics, CloudWatch, logs, systemd notifications."""
