<?php
// A whole client in PHP: the sqlite3 extension on the device, PHP's own streams to the gateway.
//
//     php -d sqlite3.extension_dir=FOLDER_OF_THE_LIBRARY client.php phone.db laptop.db

declare(strict_types=1);

// sync: begin

/** Opens POST /sync/pull or /sync/push with a message, or GET /sync/events; bytes go there and come back. */
function request(string $path, ?string $message = null)
{
    $headers = ['Authorization: Bearer ' . getenv('SYNC_TOKEN'), 'Content-Type: application/octet-stream'];
    $http = ['method' => $message === null ? 'GET' : 'POST', 'header' => $headers, 'content' => $message ?? ''];
    $stream = fopen(getenv('SYNC_URL') . "/$path", 'r', false, stream_context_create(['http' => $http]));
    return $stream ?: throw new RuntimeException("no answer to $path");
}

class Device
{
    public SQLite3 $db;

    public function __construct(string $path)
    {
        $this->db = new SQLite3($path);
        $this->db->enableExceptions(true);
        // Only files of the folder that sqlite3.extension_dir names can be loaded.
        $this->db->loadExtension(basename(getenv('SYNC_LIBRARY')));
    }

    /** Sends a message and applies the answer. Answers whether there is more to come. */
    private function exchange(string $path, string $message): bool
    {
        $answer = bin2hex(stream_get_contents(request($path, $message)));
        // query() and execute() run a statement twice, once of it in vain; querySingle() runs it once.
        return (bool) $this->db->querySingle("SELECT apply_delta(x'$answer') ->> 'more'");
    }

    public function sync(): void
    {
        while (($batches = $this->db->querySingle('SELECT pending_ops()')) !== null) {
            $this->exchange('push', $batches);
        }
        while ($this->exchange('pull', $this->db->querySingle('SELECT pull_request()')));
    }

    /** Syncs now and whenever the server says that something has changed; yields after each time. */
    public function events(): Generator
    {
        $stream = request('events');
        $this->sync();
        yield;
        while (($line = fgets($stream)) !== false) {
            if (str_starts_with($line, 'data:')) {
                $this->sync();
                yield;
            }
        }
    }
}

// sync: end

const SHOW = "
    SELECT iif(done, '[x] ', '[ ] ') || body AS line FROM task
    UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
    UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected";

function show(string $title, Device $device): void
{
    echo "$title\n";
    for ($rows = $device->db->query(SHOW); $row = $rows->fetchArray(); ) {
        echo "  $row[line]\n";
    }
}

[, $first, $second] = $argv;
[$phone, $laptop] = [new Device($first), new Device($second)];
$phone->sync();
$laptop->sync();
show('after the first sync', $phone);

// Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
$phone->db->exec("INSERT INTO task (list_id, body) SELECT id, 'from php' FROM list");
$phone->db->exec("UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'");
$phone->db->exec("INSERT INTO task (list_id, body) SELECT id, '' FROM list");
show('offline', $phone);

// A moment later the same row changes elsewhere, and the later edit counts.
usleep(10000);
$laptop->db->exec("UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'");
$laptop->sync();
$phone->sync();
show('online again', $phone);

// Live: the phone waits, the laptop writes.
$events = $phone->events();
$events->current();
$laptop->db->exec("INSERT INTO task (list_id, body) SELECT id, 'live from php' FROM list");
$laptop->sync();
while (!$phone->db->querySingle("SELECT EXISTS (SELECT 1 FROM task WHERE body LIKE 'live %')")) {
    $events->next();
}
show('live', $phone);
$phone->db->close();
$laptop->db->close();
