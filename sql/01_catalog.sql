-- What pg_sync knows: rules, tables, the op log, devices. Everything lives in the schema `sync`.
\echo Use "CREATE EXTENSION pg_sync" to load this file. \quit

-- Every unqualified name below means Postgres's own.
SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION 'pg_sync needs a database in UTF8, this one is in %', pg_catalog.current_setting('server_encoding')
            USING HINT = 'Create the database with ENCODING ''UTF8''.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'sync_admin') THEN
        CREATE ROLE sync_admin NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'sync_transport') THEN
        CREATE ROLE sync_transport NOLOGIN;
    END IF;
END
$$;

CREATE SCHEMA sync;
COMMENT ON SCHEMA sync IS 'pg_sync: offline-first copies of rows in SQLite files.';

-- Rules ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE sync.rule (
    rule_id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL UNIQUE,
    members   text,
    priority  smallint NOT NULL,
    key_types pg_catalog.regtype[],
    owner     pg_catalog.regrole NOT NULL
);
COMMENT ON TABLE sync.rule IS 'One create_bucket each: which users hold which buckets.';
COMMENT ON COLUMN sync.rule.members IS 'The query for the keys that a user may hold, with every name qualified. NULL: one global bucket.';
COMMENT ON COLUMN sync.rule.key_types IS 'Types of the key, from the first add_table; the members'' columns are cast to them.';
COMMENT ON COLUMN sync.rule.owner IS 'Members and pulls run with the rights of this role.';

CREATE TABLE sync.synced_table (
    relid       pg_catalog.regclass PRIMARY KEY,
    tag         bigint NOT NULL UNIQUE,
    device_name text NOT NULL UNIQUE,
    columns     name[],
    mode        text NOT NULL DEFAULT 'read_write' CHECK (mode IN ('read_write', 'read_only', 'insert_only')),
    upload      boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sync.synced_table IS 'Tables that devices know: in at least one rule, or for uploads.';
COMMENT ON COLUMN sync.synced_table.mode IS 'What devices may do with the rows; see sync.set_mode.';
COMMENT ON COLUMN sync.synced_table.upload IS 'Devices may insert, whatever the rules say; see sync.add_upload_table.';
COMMENT ON COLUMN sync.synced_table.tag IS 'Identifies the table for ever, also after it was renamed (4 bytes, unsigned).';
COMMENT ON COLUMN sync.synced_table.columns IS 'The columns that are sent. NULL: all, also those added later.';

CREATE TABLE sync.synced_column (
    relid  pg_catalog.oid NOT NULL REFERENCES sync.synced_table ON DELETE CASCADE,
    attnum smallint NOT NULL,
    tag    bigint NOT NULL,
    PRIMARY KEY (relid, attnum),
    UNIQUE (relid, tag)
);
COMMENT ON TABLE sync.synced_column IS 'The tag of each column that is sent, assigned once from the column''s first name.';

CREATE TABLE sync.entry (
    entry_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule_id  integer NOT NULL REFERENCES sync.rule,
    relid    pg_catalog.regclass NOT NULL REFERENCES sync.synced_table,
    key      text[] NOT NULL,
    filter   text,
    nodes    text NOT NULL,
    state    text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready', 'broken')),
    problem  text,
    rls      text CHECK (rls IN ('rules_decide', 'enforce'))
);
COMMENT ON TABLE sync.entry IS 'One add_table each. A changed entry gets a new id, and so is sent again whole.';
COMMENT ON COLUMN sync.entry.key IS 'Expressions over the row that make the bucket''s key, with every name qualified.';
COMMENT ON COLUMN sync.entry.nodes IS 'The same as Postgres reads them, by column number: they survive renamed columns.';
COMMENT ON COLUMN sync.entry.state IS 'building: rows are served, sums not yet (problem: why not); ready; broken: not served, see problem.';
COMMENT ON COLUMN sync.entry.rls IS
    'rules_decide: the rules say which rows devices get. enforce: and of those the rows that the table''s policies show to the user. NULL: nobody has chosen, as rules_decide.';
CREATE INDEX entry_rule ON sync.entry (rule_id);
CREATE INDEX entry_table ON sync.entry (relid);

CREATE TABLE sync.captured (
    relid      pg_catalog.oid PRIMARY KEY,
    root       pg_catalog.oid NOT NULL REFERENCES sync.synced_table ON DELETE CASCADE,
    definition text NOT NULL,
    file       pg_catalog.oid NOT NULL
);
COMMENT ON TABLE sync.captured IS 'Relations with capture triggers: synced tables and their partitions.';
COMMENT ON COLUMN sync.captured.definition IS 'The argument that the triggers must have.';
COMMENT ON COLUMN sync.captured.file IS 'relfilenode when the triggers were made: another one means that the rows were rewritten.';
CREATE TABLE sync.label (
    enumid  pg_catalog.oid PRIMARY KEY,
    type_id pg_catalog.oid NOT NULL,
    label   name NOT NULL
);
COMMENT ON TABLE sync.label IS 'Labels of all enums when they were last looked at: a renamed one changes the text of rows.';
CREATE INDEX captured_root ON sync.captured (root);

CREATE TABLE sync.generation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    n   bigint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
);
COMMENT ON TABLE sync.generation IS 'Counts changes of the schema that devices have.';
COMMENT ON COLUMN sync.generation.xid IS 'The transaction of the last change: whoever watches sees whether it is news.';
INSERT INTO sync.generation (n) VALUES (1);

-- Op log ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE sync.op (
    bucket  uuid NOT NULL,
    xid     xid8 NOT NULL,
    hash    bigint NOT NULL,
    at      bigint NOT NULL,
    changed bigint NOT NULL,
    op_id   integer NOT NULL,
    entry   integer NOT NULL,
    n       integer NOT NULL,
    keys    bytea NOT NULL
);
COMMENT ON TABLE sync.op IS 'Which rows entered, changed in, or left which bucket: the changes of one lease, and no row data.';
COMMENT ON COLUMN sync.op.xid IS 'The top-level transaction: what a snapshot lists.';
COMMENT ON COLUMN sync.op.hash IS 'Sum of new row hash minus old row hash (wrapping): sums need no order.';
COMMENT ON COLUMN sync.op.at IS 'When the row was edited, microseconds since 1970: on the device for pushed rows.';
COMMENT ON COLUMN sync.op.changed IS 'One bit per column, by its number in the table, the 64th and later in the last bit; -1 for rows that enter or leave.';
COMMENT ON COLUMN sync.op.op_id IS 'Counts the changes of one transaction: the number of the last one in this row.';
COMMENT ON COLUMN sync.op.n IS 'Rows that entered the bucket less those that left it.';
COMMENT ON COLUMN sync.op.keys IS 'Which rows, packed: changes of one statement in one bucket share a row of the log. Empty: a sum set right by sync.verify_table.';
CREATE INDEX op_bucket ON sync.op (bucket, xid, op_id);
-- What was committed since, whatever the bucket, and what the log ends with.
CREATE INDEX op_xid ON sync.op (xid);
ALTER TABLE sync.op SET (autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE TABLE sync.base (
    bucket uuid NOT NULL,
    entry  integer NOT NULL,
    sum    bigint NOT NULL,
    count  bigint NOT NULL,
    PRIMARY KEY (bucket, entry)
);
COMMENT ON TABLE sync.base IS 'Sum and count of a part''s rows without the ops that are still in the log.';

CREATE TABLE sync.horizon (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    xid   xid8 NOT NULL
);
COMMENT ON TABLE sync.horizon IS 'Ops of transactions before this one are no longer in the log.';
INSERT INTO sync.horizon (xid) VALUES ('0');

CREATE TABLE sync.checkpoint (
    at   timestamptz PRIMARY KEY,
    oldest xid8 NOT NULL
);
COMMENT ON TABLE sync.checkpoint IS 'Recorded by maintain: the oldest transaction still running at that time.';

CREATE TABLE sync.mark (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    random uuid NOT NULL,
    at     timestamptz NOT NULL,
    run    bigint NOT NULL DEFAULT (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
    lsn    pg_lsn NOT NULL DEFAULT pg_catalog.pg_current_wal_insert_lsn()
);
COMMENT ON TABLE sync.mark IS
    'Random witnesses of this history, left by pushes and maintenance: a cursor names the last one that it has seen.';
COMMENT ON COLUMN sync.mark.run IS 'When the server was started, in microseconds since 1970: nothing is lost within one run.';
COMMENT ON COLUMN sync.mark.lsn IS 'A history that has this mark has everything that its run logged before.';
CREATE INDEX mark_run ON sync.mark (run, lsn);
-- Where the extension was dropped and made again, or came out of a dump, nothing older is of this history.
INSERT INTO sync.mark (random, at) VALUES (pg_catalog.gen_random_uuid(), pg_catalog.now());
-- A database made from this one as its template copies how many numbers the sequence may still give without a word in the write-ahead
-- log, and a crash would make it give them twice: it has none to give.
SELECT pg_catalog.setval('sync.mark_id_seq', 1);

-- Devices -------------------------------------------------------------------------------------------------------------------

CREATE TABLE sync.device (
    device      uuid PRIMARY KEY,
    user_id     text NOT NULL,
    last_number bigint NOT NULL DEFAULT 0,
    last_random uuid,
    registered  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    seen        timestamptz NOT NULL DEFAULT pg_catalog.now(),
    revoked     timestamptz,
    told        xid8,
    wipe        boolean NOT NULL DEFAULT false,
    name        text
);
CREATE INDEX device_told ON sync.device (told) WHERE told IS NOT NULL;
COMMENT ON TABLE sync.device IS 'Devices that have pushed at least once.';
COMMENT ON COLUMN sync.device.revoked IS 'Since when it may not sync any longer, see sync.revoke_device().';
COMMENT ON COLUMN sync.device.told IS 'The transaction that last revoked it, or took that back: whoever watches sees whether it is news.';
COMMENT ON COLUMN sync.device.wipe IS 'Once revoked, it is told to remove everything that it has synced.';
COMMENT ON COLUMN sync.device.name IS 'What people call it, see sync.name_device().';

CREATE TABLE sync.batch (
    device  uuid NOT NULL,
    number  bigint NOT NULL,
    random  uuid NOT NULL,
    xid     xid8 NOT NULL,
    snapshot pg_snapshot NOT NULL,
    user_id text NOT NULL,
    edited  timestamptz NOT NULL,
    pushed  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    verdict text NOT NULL CHECK (verdict IN ('accepted', 'merged', 'rejected')),
    code    text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    subject text NOT NULL DEFAULT '',
    content bytea,
    answer  bytea,
    repeats boolean NOT NULL DEFAULT false,
    role    text,
    claims  jsonb,
    note    jsonb,
    attempts jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (device, number)
);
COMMENT ON TABLE sync.batch IS 'What became of each batch that devices pushed.';
COMMENT ON COLUMN sync.batch.random IS 'Made with the batch: names it also under another number or device.';
COMMENT ON COLUMN sync.batch.snapshot IS 'What was committed before the batch: tells who touched a row before it and who after.';
COMMENT ON COLUMN sync.batch.content IS 'The whole batch as it was sent, for merged and rejected ones.';
COMMENT ON COLUMN sync.batch.answer IS 'What the device was told, where there were conflicts.';
COMMENT ON COLUMN sync.batch.role IS 'The database role that it was written as.';
COMMENT ON COLUMN sync.batch.claims IS 'The believed claims that it was sent with, for rejected ones: policies may read them again when it is retried.';
COMMENT ON COLUMN sync.batch.note IS 'The application''s own note about the transaction; see sync.note().';
COMMENT ON COLUMN sync.batch.repeats IS 'Taken before under another number or device, and not applied again.';
COMMENT ON COLUMN sync.batch.attempts IS 'The verdicts that sync.retry replaced, with who called it and what was edited.';
-- Unique: the same batch sent at once under two names is applied under one of them only.
CREATE UNIQUE INDEX batch_random ON sync.batch (random) WHERE NOT repeats;
CREATE INDEX batch_xid ON sync.batch (xid);

CREATE TABLE sync.key_lease (
    device uuid NOT NULL,
    relid  pg_catalog.regclass NOT NULL,
    first  bigint NOT NULL,
    step   bigint NOT NULL,
    count  integer NOT NULL,
    at     timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE sync.key_lease IS 'Numbers of a key''s sequence that a device may use: first, first + step, ... count of them.';
CREATE INDEX key_lease_of ON sync.key_lease (relid, device);

CREATE TABLE sync.secret (
    secret bytea NOT NULL CHECK (pg_catalog.octet_length(secret) = 32),
    made   timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE sync.secret IS
    'What proves that this server gave a lease, also after a restore that has lost it. Any of them proves it; the oldest signs.';
INSERT INTO sync.secret (secret) SELECT pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid());

CREATE TABLE sync.conflict (
    conflict_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device      uuid NOT NULL,
    number      bigint NOT NULL,
    relid       pg_catalog.regclass NOT NULL,
    key         jsonb NOT NULL,
    column_name text,
    base        jsonb,
    theirs      jsonb,
    mine        jsonb,
    result      jsonb,
    reason      text NOT NULL,
    policy      text NOT NULL DEFAULT 'merge',
    at          timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE sync.conflict IS 'Conflicts that push decided, with every version, until somebody discards them.';
COMMENT ON COLUMN sync.conflict.policy IS 'What decided: a policy as sync.set_policy takes it, or constraint.';
