#!/bin/sh
# A whole client of two programs: sqlite3 on the device, psql as the transport. Each call is a process of its own, since nothing is
# kept between calls but the file.
set -eu

# Runs SQL on the device, with the extension loaded.
device() {
    printf '.load %s\n%s\n' "$SYNC_LIBRARY" "$1" | sqlite3 -batch -bail "$SYNC_DATABASE"
}

# Calls sync.pull or sync.push as the user: what an HTTP server would do for a request whose token it has checked.
server() {
    psql --quiet --no-align --tuples-only --no-psqlrc --set=ON_ERROR_STOP=1 \
        --set=claims="{\"sub\": \"$SYNC_USER\", \"role\": \"todo_user\"}" <<SQL
$1;
SELECT set_config('request.jwt.claims', :'claims', true) \\g /dev/null
SELECT encode(sync.$2('\\x$3'), 'hex');
COMMIT;
SQL
}

sync() {
    while batches=$(device "SELECT hex(pending_ops());") && [ -n "$batches" ]; do
        answer=$(server BEGIN push "$batches")
        device "SELECT apply_delta(x'$answer');" >/dev/null
    done
    more=1
    while [ "$more" = 1 ]; do
        request=$(device "SELECT hex(pull_request());")
        delta=$(server "BEGIN READ ONLY" pull "$request")
        more=$(device "SELECT apply_delta(x'$delta') ->> 'more';")
    done
}

sync
device "INSERT INTO task (list_id, body) SELECT id, 'from shell' FROM list;"
# The tables are ordinary ones: this sqlite3 never loads the extension.
sqlite3 "$SYNC_DATABASE" "UPDATE task SET done = 1 WHERE body = 'Milk'"
device "INSERT INTO task (list_id, body) SELECT id, '' FROM list;"
sync
sqlite3 "$SYNC_DATABASE" "SELECT iif(done, '[x] ', '[ ] ') || body FROM task ORDER BY body"
sqlite3 "$SYNC_DATABASE" "SELECT 'refused: ' || code || ' ' || message FROM sync_rejected"
