#!/usr/bin/env bash
# Grants each principal what its work needs. Made by `python -m streams.kafka_scripts`; do not edit.
# The brokers need an authorizer, authentication, and no allow.everyone.if.no.acl.found.
#
#   BOOTSTRAP=broker:9093 COMMAND_CONFIG=admin.properties deploy/kafka/acls.sh
#
# KAFKA_BIN    folder of Kafka's tools (default /opt/kafka/bin)
set -euo pipefail

: "${BOOTSTRAP:?host:port of a broker}"
KAFKA_BIN="${KAFKA_BIN:-/opt/kafka/bin}"

# allow PRINCIPAL ARGUMENTS-OF-KAFKA-ACLS...
allow() {
  local principal="$1"
  shift
  "$KAFKA_BIN/kafka-acls.sh" --bootstrap-server "$BOOTSTRAP" \
    ${COMMAND_CONFIG:+--command-config "$COMMAND_CONFIG"} \
    --add --allow-principal "User:$principal" "$@"
}

# fintrec-producers: systems of the bank that publish events
allow fintrec-producers --operation Write \
  --topic clickstream.v1 \
  --topic transactions.v1 \
  --topic conversions.v1 \
  --topic consents.v1

# fintrec-applications: surfaces that ask for slates and show them
allow fintrec-applications --operation Read \
  --topic slates.v1
allow fintrec-applications --operation Write \
  --topic slate_requests.v1
allow fintrec-applications --operation Read --group app- --resource-pattern-type prefixed

# fintrec-campaigns: owners of the catalogue and of the ranking policies
allow fintrec-campaigns --operation Read \
  --topic items.v1 \
  --topic ranking_policies.v1
allow fintrec-campaigns --operation Write \
  --topic items.v1 \
  --topic ranking_policies.v1
allow fintrec-campaigns --operation Read --group campaigns- --resource-pattern-type prefixed

# fintrec-ingest: ingest workers; they read the policies only because Faust wants a topic of its own
allow fintrec-ingest --operation Read \
  --topic clickstream.v1 \
  --topic transactions.v1 \
  --topic conversions.v1 \
  --topic consents.v1 \
  --topic state_refresh.v1 \
  --topic ranking_policies.v1
allow fintrec-ingest --operation Write \
  --topic state_refresh.v1 \
  --topic clickstream.v1.dead_letter \
  --topic transactions.v1.dead_letter \
  --topic conversions.v1.dead_letter \
  --topic consents.v1.dead_letter \
  --topic state_refresh.v1.dead_letter
allow fintrec-ingest --operation Read --group fintrec-ingest --resource-pattern-type literal
allow fintrec-ingest --operation Read --group fintrec-ingest-feed --resource-pattern-type literal

# fintrec-score: scoring workers; of the slates they read what a predecessor has answered
allow fintrec-score --operation Read \
  --topic slate_requests.v1 \
  --topic items.v1 \
  --topic ranking_policies.v1 \
  --topic slates.v1
allow fintrec-score --operation Write \
  --topic slates.v1 \
  --topic slate_audit.v1 \
  --topic slate_requests.v1.dead_letter \
  --topic items.v1.dead_letter \
  --topic ranking_policies.v1.dead_letter
allow fintrec-score --operation Read --group fintrec-score --resource-pattern-type literal
allow fintrec-score --operation Read --group fintrec-score-feed --resource-pattern-type literal

# fintrec-lake: lake workers; they keep what was decided beside what happened, and write nothing
allow fintrec-lake --operation Read \
  --topic clickstream.v1 \
  --topic transactions.v1 \
  --topic conversions.v1 \
  --topic consents.v1 \
  --topic items.v1 \
  --topic slate_requests.v1 \
  --topic slates.v1 \
  --topic slate_audit.v1 \
  --topic ranking_policies.v1
allow fintrec-lake --operation Read --group fintrec-lake --resource-pattern-type literal
allow fintrec-lake --operation Read --group fintrec-lake-feed --resource-pattern-type literal

# fintrec-nightly: the nightly batch, which asks for states to be built anew
allow fintrec-nightly --operation Write \
  --topic state_refresh.v1

# fintrec-auditors: compliance and on-call: slates, audit records, dead letters
allow fintrec-auditors --operation Read \
  --topic slates.v1 \
  --topic slate_audit.v1 \
  --topic clickstream.v1.dead_letter \
  --topic transactions.v1.dead_letter \
  --topic conversions.v1.dead_letter \
  --topic consents.v1.dead_letter \
  --topic slate_requests.v1.dead_letter \
  --topic ranking_policies.v1.dead_letter \
  --topic items.v1.dead_letter \
  --topic state_refresh.v1.dead_letter
allow fintrec-auditors --operation Read --group audit- --resource-pattern-type prefixed

# fintrec-admin: creates and compares topics, never reads them
allow fintrec-admin \
  --operation Create --operation Describe --operation DescribeConfigs \
  --topic clickstream.v1 \
  --topic transactions.v1 \
  --topic conversions.v1 \
  --topic consents.v1 \
  --topic slate_requests.v1 \
  --topic ranking_policies.v1 \
  --topic items.v1 \
  --topic state_refresh.v1 \
  --topic slates.v1 \
  --topic slate_audit.v1 \
  --topic clickstream.v1.dead_letter \
  --topic transactions.v1.dead_letter \
  --topic conversions.v1.dead_letter \
  --topic consents.v1.dead_letter \
  --topic slate_requests.v1.dead_letter \
  --topic ranking_policies.v1.dead_letter \
  --topic items.v1.dead_letter \
  --topic state_refresh.v1.dead_letter
