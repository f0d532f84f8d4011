"""The local stack: Apache Kafka, Valkey and Triton out of Python packages, on loopback only."""
