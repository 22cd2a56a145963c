#!/bin/sh
# Makes the fleet's authority, and an identity in each folder of $MEMBERS whose name is that of a member, where there is
# none yet. A member that lost its folder gets a new identity, and its old one is revoked. The operator, whom nobody tells
# of a renewal over the mesh, is renewed here when that is due; where it cannot be, for being revoked, others start.
set -eu
CA=${CA:-/ca}
MEMBERS=${MEMBERS:-/members}
OWNER=${OWNER:-flockmq:flockmq}

ca() {
  command=$1
  shift
  flockmq ca "$command" --directory "$CA" "$@"
}

[ -e "$CA/ca.key" ] || ca init city
for folder in "$MEMBERS"/*; do
  name=${folder##*/}
  role=device
  [ "$name" = operator ] && role=operator
  if [ ! -e "$folder/identity/own.pem" ]; then
    ca issue "$name" --role "$role" --out "$folder/identity" ||
      { ca revoke "$name" && ca issue "$name" --role "$role" --out "$folder/identity"; }
  elif [ "$role" = operator ]; then
    ca renew --out "$folder/identity" || echo "the operator stays as it is" >&2
  fi
done
chown -R "$OWNER" "$CA" "$MEMBERS"/*
