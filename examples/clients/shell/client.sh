#!/bin/sh
# A whole client of two programs: sqlite3 on the device, curl to the gateway. Each call is a process of its own, since nothing is kept
# between calls but the file.
#
#     sh client.sh phone.db laptop.db
set -eu
phone=$1 laptop=$2
bytes=$(mktemp -d)
trap 'rm -rf "$bytes"' EXIT

# sync: begin

# Runs SQL on a device, with the extension loaded.
device() {
    printf '.timeout 10000\n.load %s\n%s\n' "$SYNC_LIBRARY" "$2" | sqlite3 -batch -bail "$1"
}

# GET /sync/events, or with more arguments a POST to /sync/pull or /sync/push.
request() {
    path=$1
    shift
    curl --silent --show-error --fail --no-buffer --header "Authorization: Bearer $SYNC_TOKEN" \
        --header 'Content-Type: application/octet-stream' "$@" "$SYNC_URL/$path"
}

# Sends a device's message and applies the answer. Answers whether there is more to come.
exchange() {
    request "$2" --data-binary "@$bytes/message" --output "$bytes/answer"
    device "$1" "SELECT apply_delta(readfile('$bytes/answer')) ->> 'more';"
}

sync() {
    while [ "$(device "$1" "SELECT writefile('$bytes/message', pending_ops());")" -gt 0 ]; do
        exchange "$1" push >/dev/null
    done
    more=1
    while [ "$more" = 1 ]; do
        device "$1" "SELECT writefile('$bytes/message', pull_request());" >/dev/null
        more=$(exchange "$1" pull)
    done
}

# sync: end

show() {
    echo "$1"
    # The tables are ordinary ones: this sqlite3 never loads the extension.
    sqlite3 "$phone" "
        SELECT iif(done, '  [x] ', '  [ ] ') || body FROM task;
        SELECT format('  conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts;
        SELECT format('  refused: %s %s', code, message) FROM sync_rejected;"
}

sync "$phone"
sync "$laptop"
show "after the first sync"

# Nobody is asked: these are ordinary tables in a file. The server will refuse the last one. Each is a transaction of its own: a
# contiguous run of writes without the extension would be one.
device "$phone" "INSERT INTO task (list_id, body) SELECT id, 'from shell' FROM list;"
sqlite3 "$phone" "UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'"
device "$phone" "INSERT INTO task (list_id, body) SELECT id, '' FROM list;"
show "offline"

# A moment later the same row changes elsewhere, and the later edit counts.
sqlite3 "$laptop" "UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'"
sync "$laptop"
sync "$phone"
show "online again"

# Live: the phone waits, the laptop writes.
mkfifo "$bytes/events"
request events >"$bytes/events" 2>/dev/null &
listening=$!
exec 3<"$bytes/events"
sync "$phone"
sqlite3 "$laptop" "INSERT INTO task (list_id, body) SELECT id, 'live from shell' FROM list"
sync "$laptop"
while read -r line <&3; do
    case $line in data:*) sync "$phone" ;; esac
    [ -n "$(sqlite3 "$phone" "SELECT id FROM task WHERE body LIKE 'live %'")" ] && break
done
kill "$listening"
show "live"
