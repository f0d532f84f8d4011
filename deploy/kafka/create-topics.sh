#!/usr/bin/env bash
# Creates every topic with Kafka's own tool. Made by `python -m streams.kafka_scripts`; do not edit.
# Topics that exist are left as they are; `fintrec topics create` says where they differ.
#
#   BOOTSTRAP=broker:9093 COMMAND_CONFIG=admin.properties deploy/kafka/create-topics.sh
#
# PARTITIONS   of each topic of users; bounds the number of workers (default 4)
# REPLICATION  replicas of each partition (default 3; 1 on a single broker)
# KAFKA_BIN    folder of Kafka's tools (default /opt/kafka/bin)
set -euo pipefail

: "${BOOTSTRAP:?host:port of a broker}"
PARTITIONS="${PARTITIONS:-4}"
REPLICATION="${REPLICATION:-3}"
KAFKA_BIN="${KAFKA_BIN:-/opt/kafka/bin}"
if ((REPLICATION >= 3)); then MIN_ISR=2; else MIN_ISR=1; fi

# topic NAME PARTITIONS CONFIG...
topic() {
  local name="$1" partitions="$2" configs=() config
  shift 2
  for config in "$@" "min.insync.replicas=$MIN_ISR"; do configs+=(--config "$config"); done
  "$KAFKA_BIN/kafka-topics.sh" --bootstrap-server "$BOOTSTRAP" \
    ${COMMAND_CONFIG:+--command-config "$COMMAND_CONFIG"} \
    --create --if-not-exists --topic "$name" \
    --partitions "$partitions" --replication-factor "$REPLICATION" "${configs[@]}"
}

topic clickstream.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=604800000 max.message.bytes=1048576
topic transactions.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=604800000 max.message.bytes=1048576
topic conversions.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=604800000 max.message.bytes=1048576
topic consents.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=31536000000 max.message.bytes=1048576
topic slate_requests.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=86400000 max.message.bytes=1048576
topic ranking_policies.v1 1 cleanup.policy=compact retention.ms=-1 max.message.bytes=1048576
topic items.v1 1 cleanup.policy=compact retention.ms=-1 max.message.bytes=1048576
topic state_refresh.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=86400000 max.message.bytes=1048576
topic slates.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=604800000 max.message.bytes=4194304
topic slate_audit.v1 "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=4194304
topic clickstream.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic transactions.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic conversions.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic consents.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic slate_requests.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic ranking_policies.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic items.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
topic state_refresh.v1.dead_letter "$PARTITIONS" cleanup.policy=delete retention.ms=2592000000 max.message.bytes=1048576
