-- Rules: which rows form which bucket, and who may hold it.
--
-- create_bucket and add_table are native, because they read expressions with the caller's rights under the caller's search_path.
-- They store them with every name qualified, and hand over to put_rule and put_entry, which only the extension's owner may call.

CREATE FUNCTION sync.create_bucket(name text, members text DEFAULT NULL, priority integer DEFAULT 100) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'create_bucket_wrapper';
COMMENT ON FUNCTION sync.create_bucket(text, text, integer) IS
    'Makes a rule. members: a query for the keys that the asking user may hold (it may read sync.user_id(), sync.claims() and sync.param()); none: one bucket for everybody. priority: 0 to 255, lower is sent first.';

CREATE FUNCTION sync.add_table(bucket text, "table" regclass, key text DEFAULT NULL, filter text DEFAULT NULL, columns text[] DEFAULT NULL,
    rls text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'add_table_wrapper';
COMMENT ON FUNCTION sync.add_table(text, regclass, text, text, text[], text) IS
    'Puts the rows of a table into the buckets of a rule. key: expressions over the row that give the bucket''s key; filter: rows for which it is not true are left out; columns: what is sent, all if not given; rls: rules_decide, or enforce to hand out only what the table''s policies show to the user.';

-- One row each of what compile_expressions found: SQL with qualified names, and types.
CREATE FUNCTION sync.put_rule(rule_name text, members_sql text, rule_priority integer, rule_owner oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF rule_name IS NULL OR rule_name = '' OR length(rule_name) > 200 THEN
        RAISE EXCEPTION 'a bucket rule needs a name of 1 to 200 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF rule_priority IS NULL OR rule_priority NOT BETWEEN 0 AND 255 THEN
        RAISE EXCEPTION 'rule "%": the priority must be between 0 and 255, not %', rule_name, coalesce(rule_priority::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM sync.rule r WHERE r.name = rule_name) THEN
        RAISE EXCEPTION 'rule "%" exists already', rule_name
            USING ERRCODE = 'duplicate_object', HINT = 'Choose another name, or drop it first with sync.drop_bucket.';
    END IF;
    INSERT INTO sync.rule (name, members, priority, owner)
    VALUES (rule_name, members_sql, rule_priority, rule_owner);
    -- Pulls remember the rules for as long as the generation is the same.
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.put_rule(text, text, integer, oid) IS 'Second half of create_bucket; not to be called directly.';

-- Locks a table against writers without making them queue behind a long wait: short tries that grow.
CREATE FUNCTION sync.lock_against_writers(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wait_ms integer := 100;
    before text := current_setting('lock_timeout');
BEGIN
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', wait_ms::text, true);
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', rel);
            PERFORM set_config('lock_timeout', before, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            wait_ms := wait_ms * 2;
            IF wait_ms > 20000 THEN
                RAISE EXCEPTION 'table % is being written by a long transaction, gave up after 12 s of trying', rel
                    USING ERRCODE = 'lock_not_available', HINT = 'Try again when it has ended: see pg_stat_activity.';
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.lock_against_writers(regclass) IS 'SHARE ROW EXCLUSIVE with a lock_timeout that doubles per retry.';

CREATE FUNCTION sync.is_subscribed(rel oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = rel OR s.srrelid IN (SELECT p.relid FROM pg_partition_tree(rel) p))
$$;
COMMENT ON FUNCTION sync.is_subscribed(oid) IS 'Whether a subscription feeds a table or one of its partitions.';

-- What a table must be, when it is added and ever after.
CREATE FUNCTION sync.check_kind(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c pg_class;
BEGIN
    SELECT * INTO STRICT c FROM pg_class WHERE oid = rel;
    IF c.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'only ordinary and partitioned tables can be synced'
            USING ERRCODE = 'wrong_object_type', HINT = 'Add the tables behind a view instead of the view.';
    ELSIF c.relpersistence <> 'p' OR EXISTS (
        SELECT FROM pg_partition_tree(rel) p JOIN pg_class k ON k.oid = p.relid WHERE k.relpersistence <> 'p') THEN
        RAISE EXCEPTION 'unlogged and temporary tables cannot be synced, a crash empties them in silence'
            USING ERRCODE = 'wrong_object_type', HINT = format('ALTER TABLE %s SET LOGGED', rel);
    ELSIF NOT c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = rel)
        OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = rel) THEN
        RAISE EXCEPTION 'table inheritance cannot be synced'
            USING ERRCODE = 'wrong_object_type', HINT = 'Use partitioning, or tables of their own.';
    ELSIF c.relispartition THEN
        RAISE EXCEPTION 'it is a partition'
            USING ERRCODE = 'wrong_object_type',
                HINT = format('Add its parent: %s', (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = rel));
    ELSIF EXISTS (SELECT FROM pg_partition_tree(rel) p JOIN pg_class k ON k.oid = p.relid WHERE k.relkind = 'f') THEN
        RAISE EXCEPTION 'foreign tables cannot be synced, not even as partitions' USING ERRCODE = 'wrong_object_type';
    ELSIF c.relnamespace IN ('sync'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace) THEN
        RAISE EXCEPTION 'system tables cannot be synced' USING ERRCODE = 'wrong_object_type';
    ELSIF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary) THEN
        RAISE EXCEPTION 'it has no primary key'
            USING ERRCODE = 'invalid_table_definition', HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...)', rel);
    ELSIF EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary AND i.indisexclusion) THEN
        RAISE EXCEPTION 'its primary key is one WITHOUT OVERLAPS, which SQLite does not know' USING ERRCODE = 'feature_not_supported';
    ELSIF EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1])
        WHERE i.indrelid = rel AND i.indisprimary AND a.atttypid IN ('real'::regtype, 'double precision'::regtype)) THEN
        RAISE EXCEPTION 'its primary key is a floating-point number, which SQLite cannot keep exactly (NaN)'
            USING ERRCODE = 'feature_not_supported', HINT = 'Use numeric, an integer or a uuid as the key.';
    ELSIF sync.is_subscribed(rel) THEN
        RAISE EXCEPTION 'it is fed by a logical-replication subscription, whose apply worker fires no statement triggers'
            USING ERRCODE = 'feature_not_supported', HINT = 'Sync it on the publishing server.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_kind(regclass) IS 'Refuses tables that cannot be synced, with the remedy.';

CREATE FUNCTION sync.check_table(rule_name text, rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state text;
    words text;
    remedy text;
BEGIN
    BEGIN
        PERFORM sync.check_kind(rel);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, words = MESSAGE_TEXT, remedy = PG_EXCEPTION_HINT;
        IF remedy = '' THEN
            RAISE EXCEPTION 'rule "%", table %: %', rule_name, rel, words USING ERRCODE = state;
        END IF;
        RAISE EXCEPTION 'rule "%", table %: %', rule_name, rel, words USING ERRCODE = state, HINT = remedy;
    END;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'rule "%", table %: add_table needs READ COMMITTED, this transaction is %',
            rule_name, rel, upper(current_setting('transaction_isolation')) USING ERRCODE = 'invalid_transaction_state';
    ELSIF EXISTS (
        SELECT FROM pg_locks l
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
            AND (l.relation = rel OR l.relation IN (SELECT p.relid FROM pg_partition_tree(rel) p))) THEN
        RAISE EXCEPTION 'rule "%", table %: this transaction has written to it', rule_name, rel
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Commit first, then add the table.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_table(text, regclass) IS 'Refuses tables that cannot be added, with the rule''s name.';

CREATE FUNCTION sync.check_columns(place text, rel regclass, sent name[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing name;
BEGIN
    SELECT a.name INTO missing FROM unnest(sent) a(name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute p WHERE p.attrelid = rel AND p.attname = a.name AND p.attnum > 0 AND NOT p.attisdropped);
    IF FOUND THEN
        RAISE EXCEPTION '%: there is no column "%"', place, missing USING ERRCODE = 'undefined_column';
    END IF;
    SELECT p.attname INTO missing FROM pg_attribute p WHERE p.attrelid = rel AND p.attname = ANY (sent) AND p.attgenerated = 'v';
    IF FOUND THEN
        RAISE EXCEPTION '%: column "%" is computed when it is read, so no trigger sees it change', place, missing
            USING ERRCODE = 'feature_not_supported', HINT = 'Make it GENERATED ALWAYS AS (...) STORED, or leave it out.';
    END IF;
    SELECT p.attname INTO missing FROM pg_index i JOIN pg_attribute p ON p.attrelid = rel AND p.attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1])
    WHERE i.indrelid = rel AND i.indisprimary AND sent IS NOT NULL AND p.attname <> ALL (sent) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%: columns must include the primary key, "%" is missing', place, missing
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_columns(text, regclass, name[]) IS 'Refuses a list of columns that a table cannot be sent with.';

-- Who decides what devices get of a table with row level security: that is never guessed.
CREATE FUNCTION sync.check_rls(place text, rel regclass, choice text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF choice NOT IN ('rules_decide', 'enforce') THEN
        RAISE EXCEPTION '%: there is no rls "%"', place, choice
            USING ERRCODE = 'invalid_parameter_value', HINT = 'One of rules_decide, enforce.';
    ELSIF choice IS NULL AND (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = rel) THEN
        RAISE EXCEPTION '%: row level security is enabled on it, so say who decides which rows devices get: rls => ''rules_decide'' or rls => ''enforce''', place
            USING ERRCODE = 'invalid_parameter_value', HINT =
                'rules_decide: the rule''s members, key and filter alone; policies are asked for what devices write, and sync.audit() lists where the two differ. '
                'enforce: of these rows only those that a SELECT as the user''s role shows; each pull then reads all rows of the user''s buckets.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_rls(text, regclass, text) IS 'Refuses a table with row level security for which nobody has chosen who decides.';

CREATE FUNCTION sync.put_entry(rule_name text, rel regclass, key_sql text[], types regtype[], filter_sql text, nodes text, sent name[],
    choice text DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r sync.rule;
    t sync.synced_table;
BEGIN
    SELECT * INTO r FROM sync.rule WHERE name = rule_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no rule "%"', rule_name
            USING ERRCODE = 'undefined_object', HINT = format('Make it first: SELECT sync.create_bucket(%L)', rule_name);
    END IF;
    PERFORM sync.check_table(rule_name, rel);
    PERFORM sync.lock_against_writers(rel);
    PERFORM sync.check_rls(format('rule "%s", table %s', rule_name, rel), rel, choice);
    IF r.members IS NULL AND cardinality(types) > 0 THEN
        RAISE EXCEPTION 'rule "%" has no members, so it is one global bucket, but table % was added with a key', rule_name, rel
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave out the key, or make the rule with members.';
    ELSIF r.members IS NOT NULL AND cardinality(types) = 0 THEN
        RAISE EXCEPTION 'rule "%", table %: a key is needed, since the rule has members', rule_name, rel
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For instance key => ''conversation_id''.';
    ELSIF r.key_types IS NOT NULL AND r.key_types <> types THEN
        RAISE EXCEPTION 'rule "%" has a key of %, the key for table % is %', rule_name,
            array_to_string(r.key_types, ', '), rel, array_to_string(types, ', ')
            USING ERRCODE = 'datatype_mismatch', HINT = 'Cast the key, for instance key => ''list_id::uuid''.';
    END IF;
    IF EXISTS (SELECT FROM regexp_matches(nodes, ':varattno ([0-9]+)', 'g') v (number)
            JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = v.number[1]::smallint WHERE a.attgenerated = 'v') THEN
        RAISE EXCEPTION 'rule "%", table %: the key or the filter uses a generated column that is not stored', rule_name, rel
            USING ERRCODE = 'feature_not_supported', HINT = 'Use the column''s expression, or make it STORED.';
    END IF;
    PERFORM sync.check_members(rule_name, r.members, types);
    PERFORM sync.check_columns(format('rule "%s", table %s', rule_name, rel), rel, sent);
    SELECT * INTO t FROM sync.synced_table WHERE relid = rel;
    IF NOT FOUND THEN
        PERFORM sync.register_table(format('rule "%s", table %s', rule_name, rel), rel, sent);
    ELSIF t.columns IS DISTINCT FROM sent THEN
        RAISE EXCEPTION 'rule "%", table %: it is synced already with %', rule_name, rel,
            coalesce('the columns ' || array_to_string(t.columns, ', '), 'all columns')
            USING ERRCODE = 'feature_not_supported', HINT = 'A table has the same columns in every rule.';
    END IF;
    IF EXISTS (SELECT FROM sync.entry e WHERE e.rule_id = r.rule_id AND e.relid = rel AND e.key = key_sql) THEN
        RAISE EXCEPTION 'rule "%" has table % with this key already', rule_name, rel
            USING ERRCODE = 'duplicate_object', HINT = 'Drop it first with sync.drop_table.';
    END IF;
    UPDATE sync.rule SET key_types = types WHERE rule_id = r.rule_id;
    INSERT INTO sync.entry (rule_id, relid, key, filter, nodes, rls) VALUES (r.rule_id, rel, key_sql, filter_sql, nodes, choice);
    PERFORM sync.install_capture(rel);
    PERFORM sync.raise_generation();
    IF cardinality(key_sql) > 0 AND NOT sync.key_has_index(rel, key_sql[1]) THEN
        RAISE WARNING 'rule "%", table %: no index begins with the key %, so a first sync reads the whole table for each bucket',
            rule_name, rel, key_sql[1]
            USING HINT = format('CREATE INDEX ON %s (%s, <primary key>)', rel, array_to_string(key_sql, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.put_entry(text, regclass, text[], regtype[], text, text, name[], text) IS 'Second half of add_table; not to be called directly.';

CREATE FUNCTION sync.key_has_index(rel regclass, key_sql text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisvalid
        AND pg_get_indexdef(i.indexrelid, 1, false) IN (key_sql, '(' || key_sql || ')'))
$$;
COMMENT ON FUNCTION sync.key_has_index(regclass, text) IS 'Whether an index of the table begins with the expression.';

-- Checks that members can be run with these key types; an error names the rule.
CREATE FUNCTION sync.check_members(rule_name text, members text, types regtype[]) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'check_members_wrapper';
COMMENT ON FUNCTION sync.check_members(text, text, regtype[]) IS 'Refuses members whose columns do not fit the key.';

-- Tags are what hashes and messages name a table and its columns by.
CREATE FUNCTION sync.tag(first_name text) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tag_wrapper';
COMMENT ON FUNCTION sync.tag(text) IS 'First 4 bytes of SHA-256 of a name, as an unsigned number.';

CREATE FUNCTION sync.register_table(place text, rel regclass, sent name[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    qualified text;
    on_device text;
    other regclass;
BEGIN
    SELECT n.nspname || '.' || c.relname, CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '_' END || c.relname
    INTO qualified, on_device FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel;
    IF on_device ~* '^(sqlite_|sync_)' THEN
        RAISE EXCEPTION '%: on a device it would be called "%", a reserved name', place, on_device
            USING ERRCODE = 'reserved_name', HINT = 'Rename the table.';
    END IF;
    SELECT relid INTO other FROM sync.synced_table
    WHERE lower(device_name) = lower(on_device) OR tag = sync.tag(qualified);
    IF FOUND THEN
        RAISE EXCEPTION '%: its name "%" on devices clashes with that of %', place, on_device, other
            USING ERRCODE = 'duplicate_table', HINT = 'Rename one of the two tables.';
    END IF;
    INSERT INTO sync.synced_table (relid, tag, device_name, columns) VALUES (rel, sync.tag(qualified), on_device, sent);
    PERFORM sync.register_columns(rel);
END
$$;
COMMENT ON FUNCTION sync.register_table(text, regclass, name[]) IS 'Gives a table and its columns their tags and its name on devices.';

CREATE FUNCTION sync.register_columns(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    refused record;
    added record;
    first_tag bigint;
BEGIN
    PERFORM sync.remember_labels();
    DELETE FROM sync.synced_column s USING pg_attribute a
    WHERE s.relid = rel AND a.attrelid = rel AND a.attnum = s.attnum AND a.attisdropped;
    FOR added IN
        SELECT a.attnum, a.attname::text AS name
        FROM pg_attribute a JOIN sync.synced_table t ON t.relid = rel
        WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND (t.columns IS NULL OR a.attname = ANY (t.columns))
            -- A generated column that is not stored (Postgres 18) is in no row that a trigger sees: it stays on the server.
            AND a.attgenerated <> 'v' AND NOT EXISTS (SELECT FROM sync.synced_column s WHERE s.relid = rel AND s.attnum = a.attnum)
        ORDER BY a.attnum
    LOOP
        -- The name may have been another column's first name, before that was renamed.
        first_tag := sync.tag(added.name);
        IF EXISTS (SELECT FROM sync.synced_column s WHERE s.relid = rel AND s.tag = first_tag) THEN
            first_tag := sync.tag(added.name || '/' || added.attnum);
        END IF;
        INSERT INTO sync.synced_column (relid, attnum, tag) VALUES (rel, added.attnum, first_tag);
    END LOOP;
    SELECT min(a.attname::text) AS one, max(a.attname::text) AS other INTO refused
    FROM sync.synced_column s JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = s.attnum
    WHERE s.relid = rel GROUP BY lower(a.attname::text) HAVING count(*) > 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table %: the columns "%" and "%" differ only in case, which SQLite does not tell apart', rel, refused.one, refused.other
            USING ERRCODE = 'duplicate_column', HINT = 'Rename one of them, or name the columns to be sent: columns => ARRAY[...].';
    END IF;
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type INTO refused
    FROM sync.synced_column s JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = s.attnum
    WHERE s.relid = rel AND NOT sync.type_travels(a.atttypid) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table %: column "%" of type % cannot travel, since its text form cannot be read back', rel, refused.attname, refused.type
            USING ERRCODE = 'feature_not_supported', HINT = 'Name the columns to be sent: columns => ARRAY[...].';
    END IF;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'table %: two columns have the same tag', rel
        USING ERRCODE = 'duplicate_column', HINT = 'Rename one of them, or name the columns to be sent.';
END
$$;
COMMENT ON FUNCTION sync.register_columns(regclass) IS 'Gives tags to columns that have none yet.';

CREATE FUNCTION sync.type_travels(type oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.typtype <> 'p' AND t.typname NOT IN
        ('pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary',
         'gtsvector', 'aclitem') FROM pg_type t WHERE t.oid = type
$$;
COMMENT ON FUNCTION sync.type_travels(oid) IS 'Whether values of a type can be sent and read back.';

CREATE FUNCTION sync.set_rls(bucket text, "table" regclass, rls text) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'set_rls_wrapper';
COMMENT ON FUNCTION sync.set_rls(text, regclass, text) IS
    'Who decides which rows of a table a rule hands out: rules_decide or enforce, see sync.add_table. Another choice makes devices fetch the table again. Only its owner can say.';

CREATE FUNCTION sync.put_rls(rule_name text, rel regclass, choice text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    e record;
    found_one boolean := false;
BEGIN
    IF choice IS NULL THEN
        RAISE EXCEPTION 'rule "%", table %: sync.set_rls needs a choice', rule_name, rel
            USING ERRCODE = 'invalid_parameter_value', HINT = 'One of rules_decide, enforce.';
    END IF;
    PERFORM sync.check_rls(format('rule "%s", table %s', rule_name, rel), rel, choice);
    PERFORM sync.lock_against_writers(rel);
    FOR e IN
        SELECT o.entry_id, coalesce(o.rls, 'rules_decide') AS was FROM sync.entry o JOIN sync.rule r USING (rule_id)
        WHERE r.name = rule_name AND o.relid = rel ORDER BY o.entry_id FOR UPDATE OF o
    LOOP
        found_one := true;
        IF e.was = choice THEN
            UPDATE sync.entry o SET rls = choice WHERE o.entry_id = e.entry_id;
        ELSE
            -- A new id: devices read it whole.
            INSERT INTO sync.entry (rule_id, relid, key, filter, nodes, rls)
            SELECT o.rule_id, o.relid, o.key, o.filter, o.nodes, choice FROM sync.entry o WHERE o.entry_id = e.entry_id;
            DELETE FROM sync.entry o WHERE o.entry_id = e.entry_id;
        END IF;
    END LOOP;
    IF NOT found_one THEN
        RAISE EXCEPTION 'rule "%" has no table %', rule_name, rel USING ERRCODE = 'undefined_object', HINT = 'See the view sync.rules.';
    END IF;
    PERFORM sync.forget_table(rel);
END
$$;
COMMENT ON FUNCTION sync.put_rls(text, regclass, text) IS 'Second half of set_rls; not to be called directly.';

CREATE FUNCTION sync.drop_table(bucket text, "table" regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM sync.lock_against_writers("table");
    DELETE FROM sync.entry e USING sync.rule r WHERE r.rule_id = e.rule_id AND r.name = bucket AND e.relid = "table";
    IF NOT FOUND THEN
        RAISE EXCEPTION 'rule "%" has no table %', bucket, "table" USING ERRCODE = 'undefined_object', HINT = 'See the view sync.rules.';
    END IF;
    PERFORM sync.forget_table("table");
END
$$;
COMMENT ON FUNCTION sync.drop_table(text, regclass) IS 'Takes a table out of a rule: devices remove its rows unless another rule has them.';

CREATE FUNCTION sync.drop_bucket(name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
BEGIN
    DELETE FROM sync.carried o WHERE o.kind = 'rule' AND o.name = drop_bucket.name AND o.problem IS NOT NULL;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM sync.rule r WHERE r.name = drop_bucket.name) THEN
        RAISE EXCEPTION 'there is no rule "%"', name USING ERRCODE = 'undefined_object', HINT = 'See the view sync.rules.';
    END IF;
    FOR rel IN SELECT DISTINCT e.relid FROM sync.entry e JOIN sync.rule r USING (rule_id) WHERE r.name = drop_bucket.name LOOP
        PERFORM sync.drop_table(name, rel);
    END LOOP;
    DELETE FROM sync.rule r WHERE r.name = drop_bucket.name;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.drop_bucket(text) IS 'Drops a rule with all its tables: devices remove its buckets.';

-- After an entry went: new triggers for those that remain, none if none do.
CREATE FUNCTION sync.forget_table(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.base b WHERE NOT EXISTS (SELECT FROM sync.entry e WHERE e.entry_id = b.entry);
    IF EXISTS (SELECT FROM sync.entry WHERE relid = rel) THEN
        PERFORM sync.install_capture(rel);
    ELSE
        PERFORM sync.remove_capture(rel);
        DELETE FROM sync.synced_table WHERE relid = rel AND NOT upload;
    END IF;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.forget_table(regclass) IS 'Second half of drop_table; not to be called directly.';
