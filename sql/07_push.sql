-- Push: what its conflicts are decided by, what it hands out, and what triggers may ask while it runs.

-- Whether a row of the log speaks of a key.
CREATE FUNCTION sync.op_has(keys bytea, key bytea) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'op_has_wrapper';
COMMENT ON FUNCTION sync.op_has(bytea, bytea) IS 'Whether a packed list of keys (sync.op.keys) contains a key.';

-- The last edit of one row that touched the columns in mask, as far as it matters; nothing if the log does not show it.
--
-- * Every bucket that the row is in has the same history of it, so the first that knows the row answers: push puts small ones first.
-- * Transaction ids do not tell which of two concurrent writers came last, but the snapshot kept with a batch does: whoever touched
--   the row before the batch had committed and is visible in it, whoever came after could not yet have.
-- * The log has no index by row. Looking stops at transactions that had ended before mine_at (a checkpoint tells), whose edits
--   cannot be later, and after 50,000 rows of the log in any case (measured: about 15 ms). Only for what came after a batch of the device
--   itself it looks at everything, or that would be overwritten in silence.
CREATE FUNCTION sync.last_edit(buckets uuid[], entries integer[], row_key bytea, mask bigint, of_device uuid, mine_at bigint,
    OUT own boolean, OUT at bigint) RETURNS SETOF record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT integer := 50000;
    skew CONSTANT interval := '5 minutes';
    current_one CONSTANT xid8 := pg_current_xact_id();
    ended CONSTANT xid8 := coalesce((SELECT max(c.oldest) FROM sync.checkpoint c
        WHERE c.at < to_timestamp(greatest(mine_at, 0) / 1000000.0) - skew), '0');
    mine record;
    found_at bigint;
BEGIN
    FOR i IN 1 .. cardinality(buckets) LOOP
        IF EXISTS (SELECT FROM sync.op l WHERE l.bucket = buckets[i] AND l.xid = current_one
                AND l.entry = entries[i] AND sync.op_has(l.keys, row_key) AND (l.changed = -1 OR l.changed & mask <> 0)) THEN
            RETURN QUERY SELECT true, mine_at;
            RETURN;
        END IF;
        FOR mine IN
            SELECT b.xid, b.snapshot FROM sync.batch b WHERE b.device = of_device AND b.verdict <> 'rejected' AND NOT b.repeats
            ORDER BY b.number DESC LIMIT 200
        LOOP
            CONTINUE WHEN NOT EXISTS (SELECT FROM sync.op l WHERE l.bucket = buckets[i] AND l.xid = mine.xid
                AND l.entry = entries[i] AND sync.op_has(l.keys, row_key) AND (l.changed = -1 OR l.changed & mask <> 0));
            SELECT l.at INTO found_at
            FROM sync.op l
            WHERE l.bucket = buckets[i] AND l.xid >= pg_snapshot_xmin(mine.snapshot)
                AND l.xid <> mine.xid AND NOT pg_visible_in_snapshot(l.xid, mine.snapshot)
                AND l.entry = entries[i] AND sync.op_has(l.keys, row_key) AND (l.changed = -1 OR l.changed & mask <> 0)
            ORDER BY l.xid DESC, l.op_id DESC LIMIT 1;
            RETURN QUERY SELECT NOT FOUND, found_at;
            RETURN;
        END LOOP;
        SELECT l.at INTO found_at
        FROM (SELECT o.* FROM sync.op o WHERE o.bucket = buckets[i] AND o.xid >= ended
            ORDER BY o.xid DESC, o.op_id DESC LIMIT most) l
        WHERE l.entry = entries[i] AND sync.op_has(l.keys, row_key) AND (l.changed = -1 OR l.changed & mask <> 0)
        ORDER BY l.xid DESC, l.op_id DESC LIMIT 1;
        IF FOUND THEN
            RETURN QUERY SELECT false, found_at;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.last_edit(uuid[], integer[], bytea, bigint, uuid, bigint) IS
    'Whether a device itself made the last edit of some columns of a row, and when that edit was made. Called by push.';

-- The sequence that fills in a table's primary key, if that is one integer and nothing but the sequence makes it. Not one that
-- cycles: its numbers come again.
-- Not in SQL: that would be planned anew by each push, for each table, which took two thirds of it.
CREATE FUNCTION sync.key_sequence(rel regclass, OUT sequence regclass, OUT step bigint, OUT low bigint, OUT high bigint, OUT always boolean)
    RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT s.seqrelid::regclass, s.seqincrement, b.low, b.high, a.attidentity = 'a'
    FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    JOIN (VALUES ('int2'::regtype, -32768::bigint, 32767::bigint), ('int4', -2147483648, 2147483647),
        ('int8', -9223372036854775808, 9223372036854775807)) AS b (type, low, high) ON b.type = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''
    JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.classid = 'pg_class'::regclass AND p.deptype = 'i'
            AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND a.attidentity <> ''
        OR p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass AND p.deptype = 'n'
            AND pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\(''([^'']|'''')+''::regclass\)$'
    JOIN pg_sequence s ON s.seqrelid = CASE WHEN p.classid = 'pg_class'::regclass THEN p.objid ELSE p.refobjid END
    WHERE i.indrelid = rel AND i.indisprimary AND i.indnkeyatts = 1 AND NOT s.seqcycle
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION sync.key_sequence(regclass) IS 'The sequence of a table''s key, the step between its numbers, what fits in the key''s type, and whether the key is GENERATED ALWAYS.';

-- Of a unique, primary key or exclusion constraint, or a unique index, of a table or one of its partitions.
CREATE FUNCTION sync.constraint_test(rel regclass, name text, reader oid, OUT expressions text[], OUT operators text[], OUT predicate text,
    OUT readable smallint[]) RETURNS SETOF record LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(pg_get_indexdef(i.indexrelid, k.n::integer, false) ORDER BY k.n),
        array_agg(format('OPERATOR(%I.%s)', s.nspname, o.oprname) ORDER BY k.n),
        pg_get_expr(i.indpred, i.indrelid),
        (SELECT array_agg(a.attnum) FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped
            AND has_column_privilege(reader, rel, a.attnum, 'SELECT'))
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid AND c.relname = constraint_test.name
    LEFT JOIN pg_constraint x ON x.conindid = i.indexrelid AND x.contype = 'x'
    CROSS JOIN unnest(i.indclass::oid[]) WITH ORDINALITY AS k (opclass, n)
    JOIN pg_opclass q ON q.oid = k.opclass
    JOIN pg_operator o ON o.oid = coalesce(x.conexclop[k.n], (SELECT m.amopopr FROM pg_amop m
        WHERE m.amopfamily = q.opcfamily AND m.amoplefttype = q.opcintype AND m.amoprighttype = q.opcintype AND m.amopstrategy = 3))
    JOIN pg_namespace s ON s.oid = o.oprnamespace
    WHERE (i.indrelid = rel OR i.indrelid IN (SELECT p.relid FROM pg_partition_tree(rel) p)) AND k.n <= i.indnkeyatts
        AND (i.indisunique OR x.oid IS NOT NULL)
    GROUP BY i.indexrelid, i.indpred, i.indrelid
    LIMIT 1
$$;
COMMENT ON FUNCTION sync.constraint_test(regclass, text, oid) IS
    'How to find the row that a constraint names: expressions over the row, operators, predicate; and the columns that a role may read. Called by push.';

CREATE FUNCTION sync.keys_per_lease() RETURNS integer
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('sync.keys_per_lease', true), ''), '10000')::integer
$$;
COMMENT ON FUNCTION sync.keys_per_lease() IS
    'How many numbers a device gets at once for keys of one table, and ten times as many in a day: the setting sync.keys_per_lease, 10000 by default.';

-- Sequences do not roll back, so a number is given once, whatever becomes of the transaction.
CREATE FUNCTION sync.take_keys(sequence regclass, n integer, low bigint, high bigint) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys bigint[] := '{}';
    key bigint;
BEGIN
    FOR i IN 1 .. n LOOP
        key := nextval(sequence);
        EXIT WHEN key NOT BETWEEN low AND high;
        keys := keys || key;
    END LOOP;
    RETURN keys;
EXCEPTION WHEN sequence_generator_limit_exceeded THEN
    RETURN keys;
END
$$;
COMMENT ON FUNCTION sync.take_keys(regclass, integer, bigint, bigint) IS 'Takes numbers from a sequence, fewer where it comes to its end.';

-- By taking numbers, not by setval: whoever takes one at the same time never sees the sequence go back.
CREATE FUNCTION sync.pass_key(sequence regclass, number bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT bigint := 10000000;
    missing numeric;
BEGIN
    SELECT ceil((number::numeric - coalesce(pg_sequence_last_value(sequence), s.seqstart::numeric - s.seqincrement)) / s.seqincrement)
    INTO missing FROM pg_sequence s WHERE s.seqrelid = sequence;
    IF missing > most THEN
        RAISE WARNING 'sequence % is % numbers behind what devices hold: it was moved by %', sequence, missing, most
            USING HINT = format('SELECT setval(%L, %s)', sequence, number);
    END IF;
    PERFORM nextval(sequence) FROM generate_series(1, least(missing, most)::bigint);
EXCEPTION WHEN sequence_generator_limit_exceeded THEN
    NULL;
END
$$;
COMMENT ON FUNCTION sync.pass_key(regclass, bigint) IS 'Moves a sequence past a number that a device holds, if it has not reached it.';

-- What triggers, policies and handlers may ask while a device's batch is applied.

CREATE FUNCTION sync.device() RETURNS uuid
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'device_wrapper';
COMMENT ON FUNCTION sync.device() IS 'The device whose batch is being applied; NULL outside of a push.';

CREATE FUNCTION sync.batch_number() RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'batch_number_wrapper';
COMMENT ON FUNCTION sync.batch_number() IS 'The number of the batch that is being applied; NULL outside of a push.';

CREATE FUNCTION sync.note_text() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'note_text_wrapper';
COMMENT ON FUNCTION sync.note_text() IS 'sync.note() as text.';

CREATE FUNCTION sync.note() RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$ SELECT sync.note_text()::jsonb $$;
COMMENT ON FUNCTION sync.note() IS 'The application''s own note about the transaction that is being applied; NULL without one, and outside of a push.';
