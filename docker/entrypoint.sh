#!/bin/sh
# Starts face-server in a container.
set -eu

# Settings by file: /run/secrets/FACE_SERVER_… sets the variable of its name, so that no secret is in the container's definition.
for file in /run/secrets/FACE_SERVER_*; do
  [ -e "$file" ] || continue
  value=$(cat "$file")
  export "${file##*/}=$value"
done

# A server that others reach wants keys. The first one is left where only its owner reads it; take it from there and delete it.
if [ "${1:-}" = serve ] && [ ! -e "$FACE_SERVER_DATA/keys.sqlite" ] && [ "${FACE_SERVER_ALLOW_ANONYMOUS:-false}" = false ]; then
  (umask 077 && face-server keys create --role admin --label "first key of this data folder" >"$FACE_SERVER_DATA/first-admin-key")
  echo "the first admin key is in $FACE_SERVER_DATA/first-admin-key; take it and delete the file" >&2
fi

exec face-server "$@"
