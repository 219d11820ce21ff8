#!/usr/bin/env bash
# Runs beside Ray on a spot node: when the cloud announces that it takes the node away, the node is drained. Ray then
# starts nothing more on it, its actors go elsewhere, and the part in flight has the notice's time to be committed.
#   drain-on-spot-notice.sh aws|gcp &
set -euo pipefail

cloud=${1:?"aws or gcp"}
metadata=${METADATA_URL:-http://169.254.169.254}

notice_aws() {  # 404 until there is one; two minutes' notice
  local token
  token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") &&
    curl -sf -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"
}

notice_gcp() {  # TRUE once preempted; thirty seconds' notice
  [ "$(curl -sf -H 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted")" = TRUE ]
}

case $cloud in
  aws) deadline_s=110 ;;
  gcp) deadline_s=25 ;;
  *) echo "drain-on-spot-notice.sh aws|gcp" >&2; exit 2 ;;
esac

until "notice_$cloud"; do sleep "${POLL_S:-5}"; done
exec ray drain-node ${RAY_HEAD_ADDRESS:+--address "$RAY_HEAD_ADDRESS"} ${NODE_ID:+--node-id "$NODE_ID"} \
  --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice" --deadline-remaining-seconds "$deadline_s"
