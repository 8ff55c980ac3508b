-- Synced tables change: an added nullable column just works, anything else is sent again whole. A writer never fails.

-- Whether the columns that devices have are still what they were, apart from added ones that are NULL everywhere.
CREATE FUNCTION sync.only_adds(rel regclass, before text, after text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT bool_and(b.c IN (SELECT a.c FROM jsonb_array_elements(after::jsonb -> 'columns') a(c)))
            FROM jsonb_array_elements(before::jsonb -> 'columns') b(c))
        AND before::jsonb -> 'table' = after::jsonb -> 'table'
        AND (before::jsonb -> 'entries') = (after::jsonb -> 'entries')
        AND NOT EXISTS (
            SELECT FROM jsonb_array_elements(after::jsonb -> 'columns') a(c)
            JOIN pg_attribute t ON t.attrelid = rel AND t.attnum = (a.c ->> 'attnum')::smallint
            WHERE a.c NOT IN (SELECT b.c FROM jsonb_array_elements(before::jsonb -> 'columns') b(c))
                AND (t.attnotnull OR t.atthasmissing OR t.atthasdef OR t.attgenerated <> '' OR t.attidentity <> ''))
$$;
COMMENT ON FUNCTION sync.only_adds(regclass, text, text) IS 'Whether a table only got columns that are NULL in every row.';

-- Brings triggers, columns and entries of one synced table up to date with what it has become. forced: its rows' text changed
-- without a rewrite. quiet: called for every table after something was dropped, so usually nothing has changed.
CREATE FUNCTION sync.table_changed(rel regclass, forced boolean DEFAULT false, quiet boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text;
    after text;
    words text;
    whole boolean;
    intact boolean;
    has_rows boolean := false;
    part regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM sync.entry e WHERE e.relid = rel) THEN
        PERFORM sync.upload_changed(rel, quiet);
        RETURN;
    END IF;
    -- Node strings differ in where an expression stood in its text, which means nothing.
    SELECT regexp_replace(c.definition, ':location -?[0-9]+', '', 'g') INTO before FROM sync.captured c WHERE c.relid = rel;
    BEGIN
        PERFORM sync.check_kind(rel);
        PERFORM sync.rename_expressions(rel);
        PERFORM sync.register_columns(rel);
        after := regexp_replace(sync.capture_definition(rel, rel), ':location -?[0-9]+', '', 'g');
        FOR part IN
            SELECT p.relid FROM pg_partition_tree(rel) p
            WHERE p.isleaf AND NOT EXISTS (SELECT FROM sync.captured c WHERE c.relid = p.relid)
        LOOP
            EXECUTE format('SELECT $1 OR EXISTS (SELECT FROM %s)', part) INTO has_rows USING has_rows;
        END LOOP;
        -- A table that comes back from broken, or whose rows changed other than by writes, is new to every device.
        whole := forced OR before IS NULL OR has_rows OR NOT sync.only_adds(rel, before, after)
            OR EXISTS (
                SELECT FROM sync.captured c LEFT JOIN pg_class k ON k.oid = c.relid
                WHERE c.root = rel AND (k.relkind = 'r' AND k.relfilenode <> c.file
                    OR c.relid <> rel AND c.relid NOT IN (SELECT p.relid FROM pg_partition_tree(rel) p)));
        SELECT coalesce(bool_and(sync.is_captured(t.relid)), false) INTO intact
        FROM (SELECT rel::oid AS relid UNION SELECT p.relid FROM pg_partition_tree(rel) p) t;
        IF NOT whole AND EXISTS (SELECT FROM sync.captured c WHERE c.root = rel AND NOT sync.is_captured(c.relid)) THEN
            -- Whoever disabled the triggers may have written past them.
            PERFORM sync.doubt(rel);
        END IF;
        IF whole THEN
            PERFORM sync.renew_entries(rel);
        END IF;
        IF whole OR NOT intact OR before <> after THEN
            PERFORM sync.remove_capture(rel);
            PERFORM sync.install_capture(rel);
        ELSIF quiet THEN
            RETURN;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
        IF quiet AND NOT EXISTS (SELECT FROM sync.entry WHERE relid = rel AND state <> 'broken') THEN
            RETURN;
        END IF;
        UPDATE sync.entry SET state = 'broken', problem = words WHERE relid = rel;
        PERFORM sync.remove_capture(rel);
        RAISE WARNING 'table % is no longer synced: %', rel, words
            USING HINT = 'Mend it, or drop it from its rules with sync.drop_table and add it again.';
    END;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.table_changed(regclass, boolean, boolean) IS 'Follows a change of a synced table; never fails the statement that made it.';

-- A table in no rule has no rows on devices and no triggers.
CREATE FUNCTION sync.upload_changed(rel regclass, quiet boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words text;
    before integer;
    after integer;
BEGIN
    BEGIN
        SELECT count(*) INTO before FROM sync.synced_column WHERE relid = rel;
        PERFORM sync.check_kind(rel);
        PERFORM sync.rename_expressions(rel);
        PERFORM sync.register_columns(rel);
        SELECT count(*) INTO after FROM sync.synced_column WHERE relid = rel;
        IF quiet AND before = after THEN
            RETURN;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
        DELETE FROM sync.synced_table WHERE relid = rel;
        RAISE WARNING 'devices cannot upload into table % any longer: %', rel, words
            USING HINT = 'Mend it, and call sync.add_upload_table again.';
    END;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.upload_changed(regclass, boolean) IS 'Follows a change of a table for uploads; never fails the statement that made it.';

-- New ids: devices read the entries whole again. Ops under the old ids mean nothing any more.
CREATE FUNCTION sync.renew_entries(rel regclass) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO sync.entry (rule_id, relid, key, filter, nodes, rls)
    SELECT rule_id, relid, key, filter, nodes, rls FROM sync.entry WHERE relid = rel;
    DELETE FROM sync.entry e WHERE e.relid = rel AND EXISTS (
        SELECT FROM sync.entry n WHERE n.rule_id = e.rule_id AND n.relid = rel AND n.key = e.key AND n.entry_id > e.entry_id);
    DELETE FROM sync.base b WHERE NOT EXISTS (SELECT FROM sync.entry e WHERE e.entry_id = b.entry);
$$;
COMMENT ON FUNCTION sync.renew_entries(regclass) IS 'Gives a table''s entries new ids, so that every device reads them whole again.';

-- Expressions as Postgres reads them, by column number, so that they can still be said after a rename.
CREATE FUNCTION sync.expression_sql(rel regclass, nodes text) RETURNS text[]
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'expression_sql_wrapper';
COMMENT ON FUNCTION sync.expression_sql(regclass, text) IS 'Stored expressions as SQL, with the columns'' present names: the key''s, then the filter.';

CREATE FUNCTION sync.expression_nodes(rel regclass, key text, filter text) RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'expression_nodes_wrapper';
COMMENT ON FUNCTION sync.expression_nodes(regclass, text, text) IS 'A key and a filter as Postgres reads them, by column number.';

CREATE FUNCTION sync.home() RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'home_wrapper';
COMMENT ON FUNCTION sync.home() IS 'Names this database of this cluster: what was made under another name holds ids that mean something else here.';

CREATE FUNCTION sync.rename_expressions(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.entry e SET
        key = (sync.expression_sql(rel, e.nodes))[1 : cardinality(e.key)],
        filter = (sync.expression_sql(rel, e.nodes))[cardinality(e.key) + 1]
    WHERE e.relid = rel
        AND sync.expression_sql(rel, e.nodes) <> e.key || CASE WHEN e.filter IS NULL THEN '{}' ELSE ARRAY[e.filter] END;
    UPDATE sync.synced_table t SET columns = (
        SELECT array_agg(a.attname ORDER BY a.attnum) FROM sync.synced_column s
        JOIN pg_attribute a ON a.attrelid = s.relid AND a.attnum = s.attnum AND NOT a.attisdropped WHERE s.relid = rel)
    WHERE t.relid = rel AND t.columns IS NOT NULL;
END
$$;
COMMENT ON FUNCTION sync.rename_expressions(regclass) IS 'Follows renamed columns in keys, filters and column lists.';

-- Synced tables with a column whose type is, or is made of, the given type.
CREATE FUNCTION sync.tables_using(type_id oid) RETURNS SETOF regclass
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE affected (id) AS (
        SELECT tables_using.type_id
        UNION
        SELECT CASE WHEN d.classid = 'pg_type'::regclass THEN d.objid ELSE c.reltype END
        FROM affected a
        JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = a.id
        LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind = 'c'
        WHERE d.classid = 'pg_type'::regclass OR c.oid IS NOT NULL
    )
    SELECT t.relid FROM sync.synced_table t WHERE EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = t.relid AND a.attnum > 0 AND a.atttypid IN (SELECT f.id FROM affected f))
$$;
COMMENT ON FUNCTION sync.tables_using(oid) IS 'Synced tables whose rows'' text depends on a type.';

-- ADD VALUE changes no row, RENAME VALUE changes the text of many.
CREATE FUNCTION sync.type_changed(type_id oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
    is_enum boolean := (SELECT typtype = 'e' FROM pg_type WHERE oid = type_changed.type_id);
BEGIN
    IF NOT is_enum OR EXISTS (
        SELECT FROM sync.label l JOIN pg_enum e ON e.oid = l.enumid
        WHERE e.enumtypid = type_changed.type_id AND e.enumlabel <> l.label) THEN
        FOR rel IN SELECT * FROM sync.tables_using(type_changed.type_id) LOOP
            PERFORM sync.table_changed(rel, forced => true);
        END LOOP;
    END IF;
    PERFORM sync.remember_labels();
END
$$;
COMMENT ON FUNCTION sync.type_changed(oid) IS 'Follows ALTER TYPE.';

CREATE FUNCTION sync.remember_labels() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sync.label l WHERE NOT EXISTS (SELECT FROM pg_enum e WHERE e.oid = l.enumid);
    INSERT INTO sync.label (enumid, type_id, label) SELECT e.oid, e.enumtypid, e.enumlabel FROM pg_enum e
    ON CONFLICT (enumid) DO UPDATE SET label = excluded.label WHERE label.label <> excluded.label;
$$;
COMMENT ON FUNCTION sync.remember_labels() IS 'Keeps the labels of enums to compare with later.';

CREATE FUNCTION sync.all_changed() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
BEGIN
    FOR rel IN SELECT t.relid FROM sync.synced_table t JOIN pg_class k ON k.oid = t.relid LOOP
        PERFORM sync.table_changed(rel, quiet => true);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.all_changed() IS 'Follows what may concern any synced table.';

-- Where a subscription was made behind the event triggers' back.
CREATE FUNCTION sync.refuse_subscribed() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT text := current_setting('lock_timeout');
    rel regclass;
BEGIN
    IF EXISTS (SELECT FROM pg_subscription_rel) THEN
        FOR rel IN SELECT DISTINCT e.relid FROM sync.entry e WHERE e.state <> 'broken' AND sync.is_subscribed(e.relid) LOOP
            BEGIN
                PERFORM set_config('lock_timeout', '1000', true);
                PERFORM sync.table_changed(rel);
                PERFORM set_config('lock_timeout', before, true);
            EXCEPTION WHEN lock_not_available THEN
                RAISE WARNING 'a subscription feeds table %, whose syncing ends once the table is not in use: this is tried again', rel;
            END;
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.refuse_subscribed() IS 'Ends the syncing of tables that a subscription feeds; called by maintain.';

CREATE FUNCTION sync.on_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
    type_id oid;
BEGIN
    -- home() loads the library, which defines the setting as one that only a superuser can change.
    IF sync.home() IS NOT NULL AND current_setting('sync.in_ddl', true) = 'on' THEN
        RETURN;
    END IF;
    FOR rel IN
        WITH touched (relid) AS (
            SELECT coalesce(g.tgrelid, i.indrelid, n.conrelid, c.objid)
            FROM pg_event_trigger_ddl_commands() c
            LEFT JOIN pg_trigger g ON c.classid = 'pg_trigger'::regclass AND g.oid = c.objid
            LEFT JOIN pg_constraint n ON c.classid = 'pg_constraint'::regclass AND n.oid = c.objid
            LEFT JOIN pg_index i ON c.classid = 'pg_class'::regclass AND i.indexrelid = c.objid
            WHERE c.classid IN ('pg_class'::regclass, 'pg_trigger'::regclass, 'pg_constraint'::regclass)
        )
        SELECT DISTINCT s.relid FROM touched t JOIN sync.synced_table s ON s.relid = t.relid
            OR s.relid IN (SELECT a.relid FROM pg_partition_ancestors(t.relid) a)
            OR s.relid IN (SELECT c.root FROM sync.captured c WHERE c.relid = t.relid)
            OR s.relid IN (SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = t.relid)
    LOOP
        PERFORM sync.table_changed(rel);
        IF EXISTS (
            SELECT FROM sync.entry e JOIN pg_class k ON k.oid = e.relid WHERE e.relid = rel AND e.rls IS NULL AND k.relrowsecurity) THEN
            RAISE WARNING 'table % has row level security now, and nobody has said whether devices get what the rules say or only what its policies show; until then the rules decide', rel
                USING HINT = 'Call sync.set_rls for each of its rules: see sync.rules, and sync.audit for what differs.';
        END IF;
    END LOOP;
    IF tg_tag LIKE '%SUBSCRIPTION' THEN
        PERFORM sync.all_changed();
    END IF;
    FOR type_id IN
        SELECT CASE WHEN c.classid = 'pg_type'::regclass THEN c.objid ELSE k.reltype END
        FROM pg_event_trigger_ddl_commands() c
        LEFT JOIN pg_class k ON c.classid = 'pg_class'::regclass AND k.oid = c.objid
        WHERE c.command_tag = 'ALTER TYPE' AND (c.classid = 'pg_type'::regclass OR k.relkind = 'c')
    LOOP
        PERFORM sync.type_changed(type_id);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.on_ddl() IS 'Keeps capture in step with the synced tables.';

CREATE EVENT TRIGGER sync_on_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER TYPE', 'CREATE INDEX', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE SUBSCRIPTION',
        'ALTER SUBSCRIPTION')
    EXECUTE FUNCTION sync.on_ddl();
ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER sync_on_ddl IS 'Keeps capture in step with the synced tables.';

CREATE FUNCTION sync.on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- home() loads the library, which defines the setting as one that only a superuser can change.
    IF sync.home() IS NOT NULL AND current_setting('sync.in_ddl', true) = 'on' THEN
        RETURN;
    END IF;
    DELETE FROM sync.entry e USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND e.relid = d.objid;
    DELETE FROM sync.synced_table t USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.relid = d.objid;
    IF FOUND THEN
        DELETE FROM sync.base b WHERE NOT EXISTS (SELECT FROM sync.entry e WHERE e.entry_id = b.entry);
        PERFORM sync.raise_generation();
    END IF;
    PERFORM sync.forget_policies();
    -- Columns, types and functions can go without an ALTER TABLE, by CASCADE; a partition takes its rows along; somebody may drop
    -- a capture trigger.
    IF EXISTS (
        SELECT FROM pg_event_trigger_dropped_objects() d
        WHERE d.object_type IN ('table column', 'type', 'domain', 'function', 'operator', 'aggregate', 'trigger', 'index', 'table constraint',
                'subscription')
            OR d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM sync.captured c WHERE c.relid = d.objid)) THEN
        PERFORM sync.all_changed();
    END IF;
END
$$;
COMMENT ON FUNCTION sync.on_drop() IS 'Forgets synced tables that are dropped.';

CREATE EVENT TRIGGER sync_on_drop ON sql_drop EXECUTE FUNCTION sync.on_drop();
ALTER EVENT TRIGGER sync_on_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER sync_on_drop IS 'Forgets synced tables that are dropped.';
