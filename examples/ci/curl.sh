#!/bin/sh
# Runs one heavy migration and waits for its end: with curl and jq, where there is no Python.
#
#   URL      address of the service        TOKEN     of `manage.py create_api_token`
#   NAME     the migration's whole name    DATABASE  alias of its target, default
#   TIMEOUT  seconds, 9000
#
# Exit codes as those of the client: 0 FINISHED, 1 it ended otherwise, 2 refused, 3 unreachable, 75 still going on when
# the time was up. Every request may be repeated, and so may the script; ending it stops nothing.
set -eu
: "${URL:?the address of the service}" "${TOKEN:?a token of create_api_token}" "${NAME:?the name of a migration}"
: "${DATABASE:=default}" "${TIMEOUT:=9000}" "${RETRIES:=8}"
newline='
'

api() { # The token comes by stdin: arguments are seen by everybody on the machine.
  answer=$(printf 'header = "Authorization: Bearer %s"\n' "$TOKEN" | curl --config - --silent --show-error \
    --max-time 60 --retry "$RETRIES" --retry-connrefused --write-out '\n%{http_code}' "$@") || exit 3
  case ${answer##*"$newline"} in
    2??) printf %s "${answer%"$newline"*}" ;;
    4??) printf '%s\n' "$answer" >&2; exit 2 ;;
    *) printf '%s\n' "$answer" >&2; exit 3 ;;
  esac
}

found=$(api --get --data-urlencode "name=$NAME" --data-urlencode "database=$DATABASE" "$URL/api/async-migrations")
id=$(printf %s "$found" | jq -e '.results[0].id') || { echo "There is no migration $NAME on $DATABASE." >&2; exit 2; }

api --request POST "$URL/api/async-migrations/$id/run" > /dev/null
end=$(($(date +%s) + TIMEOUT))
while :; do
  # Answered at its end, or after 20 s; at once where all places to wait are taken.
  row=$(api --header 'Prefer: wait=20' "$URL/api/async-migrations/$id")
  printf %s "$row" | jq -r '"\(.status) \(.phase) \(.progress.percent // "?") %"'
  [ "$(printf %s "$row" | jq .terminal)" = false ] || break
  [ "$(date +%s)" -lt "$end" ] || { echo "After $TIMEOUT s still going on." >&2; exit 75; }
  sleep 1
done

printf %s "$row" | jq '{status, error: .meta.error}'
[ "$(printf %s "$row" | jq -r .status)" = FINISHED ]
