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

-- Brings triggers, columns and entries of one synced table up to date with what it has become.
CREATE FUNCTION sync.table_changed(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text;
    after text;
    words text;
    detached oid[];
    attached regclass[];
    has_rows boolean := false;
    part regclass;
BEGIN
    SELECT convert_from(substring(g.tgargs FROM 1 FOR length(g.tgargs) - 1), 'UTF8') INTO before
    FROM pg_trigger g WHERE g.tgrelid = rel AND g.tgname = 'sync_capture_insert';
    PERFORM sync.rename_expressions(rel);
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary) THEN
            RAISE EXCEPTION 'the table has no primary key any more';
        END IF;
        PERFORM sync.register_columns(rel);
        after := sync.capture_definition(rel, rel);
        SELECT array_agg(c.relid) INTO detached FROM sync.captured c
        WHERE c.root = rel AND c.relid <> rel AND c.relid NOT IN (SELECT p.relid FROM pg_partition_tree(rel) p);
        SELECT array_agg(p.relid) INTO attached FROM pg_partition_tree(rel) p
        WHERE p.isleaf AND NOT EXISTS (SELECT FROM sync.captured c WHERE c.relid = p.relid);
        FOREACH part IN ARRAY coalesce(attached, '{}') LOOP
            EXECUTE format('SELECT $1 OR EXISTS (SELECT FROM %s)', part) INTO has_rows USING has_rows;
        END LOOP;
        IF before IS NOT NULL AND before::jsonb = after::jsonb AND detached IS NULL AND attached IS NULL THEN
            UPDATE sync.generation SET n = n + 1;
            RETURN;
        END IF;
        -- A table that comes back from broken, or whose rows changed other than by writes, is new to every device.
        IF before IS NULL OR detached IS NOT NULL OR has_rows OR NOT sync.only_adds(rel, before, after) THEN
            PERFORM sync.renew_entries(rel);
        END IF;
        PERFORM sync.remove_capture_from(d.relid) FROM unnest(detached) d(relid);
        PERFORM sync.install_capture(rel);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS words = MESSAGE_TEXT;
        UPDATE sync.entry SET state = 'broken', problem = words WHERE relid = rel;
        PERFORM sync.remove_capture(rel);
        RAISE WARNING 'table % is no longer synced: %', rel, words
            USING HINT = 'Mend it, or drop it from its rules with sync.drop_table and add it again.';
    END;
    UPDATE sync.generation SET n = n + 1;
END
$$;
COMMENT ON FUNCTION sync.table_changed(regclass) IS 'Follows an ALTER of a synced table; never fails the statement.';

-- New ids: devices read the entries whole again. Ops under the old ids mean nothing any more.
CREATE FUNCTION sync.renew_entries(rel regclass) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO sync.entry (rule_id, relid, key, filter) SELECT rule_id, relid, key, filter FROM sync.entry WHERE relid = rel;
    DELETE FROM sync.entry e WHERE e.relid = rel AND EXISTS (
        SELECT FROM sync.entry n WHERE n.rule_id = e.rule_id AND n.relid = rel AND n.key = e.key AND n.entry_id > e.entry_id);
    DELETE FROM sync.base b WHERE NOT EXISTS (SELECT FROM sync.entry e WHERE e.entry_id = b.entry);
$$;
COMMENT ON FUNCTION sync.renew_entries(regclass) IS 'Gives a table''s entries new ids, so that every device reads them whole again.';

-- The triggers hold the expressions by column number, so they can still say them after a rename.
CREATE FUNCTION sync.expression_sql(rel regclass, nodes text) RETURNS text[]
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'expression_sql_wrapper';
COMMENT ON FUNCTION sync.expression_sql(regclass, text) IS 'Expressions of a capture trigger as SQL, with the columns'' present names.';

CREATE FUNCTION sync.rename_expressions(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.entry e
    SET key = sync.expression_sql(rel, d.entry ->> 'key'),
        filter = (sync.expression_sql(rel, d.entry ->> 'filter'))[1]
    FROM pg_trigger g,
        jsonb_array_elements(convert_from(substring(g.tgargs FROM 1 FOR length(g.tgargs) - 1), 'UTF8')::jsonb -> 'entries') d(entry)
    WHERE g.tgrelid = rel AND g.tgname = 'sync_capture_insert' AND e.entry_id = (d.entry ->> 'id')::integer;
    UPDATE sync.synced_table t SET columns = (
        SELECT array_agg(a.attname ORDER BY a.attnum) FROM sync.synced_column s
        JOIN pg_attribute a ON a.attrelid = s.relid AND a.attnum = s.attnum AND NOT a.attisdropped WHERE s.relid = rel)
    WHERE t.relid = rel AND t.columns IS NOT NULL;
EXCEPTION WHEN OTHERS THEN
    -- A column that an expression needs is gone: capture_definition will say which.
    RETURN;
END
$$;
COMMENT ON FUNCTION sync.rename_expressions(regclass) IS 'Follows renamed columns in keys, filters and column lists.';

CREATE FUNCTION sync.on_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
BEGIN
    IF current_setting('sync.in_ddl', true) = 'on' THEN
        RETURN;
    END IF;
    FOR rel IN
        SELECT DISTINCT t.relid FROM pg_event_trigger_ddl_commands() c
        JOIN sync.synced_table t ON t.relid = c.objid OR t.relid IN (SELECT a.relid FROM pg_partition_ancestors(c.objid) a)
            OR c.object_type IN ('index', 'table constraint') AND EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.objid AND i.indrelid = t.relid)
        WHERE c.classid = 'pg_class'::regclass
        UNION
        SELECT t.relid FROM pg_event_trigger_ddl_commands() c, sync.synced_table t
        WHERE c.command_tag = 'ALTER TYPE' AND EXISTS (
            SELECT FROM pg_attribute a WHERE a.attrelid = t.relid AND (a.atttypid = c.objid
                OR a.atttypid IN (SELECT y.oid FROM pg_type y WHERE y.typelem = c.objid OR y.typbasetype = c.objid)))
    LOOP
        PERFORM sync.table_changed(rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.on_ddl() IS 'Keeps capture in step with the synced tables.';

CREATE EVENT TRIGGER sync_on_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER TYPE', 'CREATE INDEX', 'DROP INDEX')
    EXECUTE FUNCTION sync.on_ddl();
ALTER EVENT TRIGGER sync_on_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER sync_on_ddl IS 'Keeps capture in step with the synced tables.';

CREATE FUNCTION sync.on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root regclass;
BEGIN
    -- A partition that is dropped takes its rows along: its table is new to every device.
    FOR root IN
        SELECT DISTINCT c.root FROM sync.captured c JOIN pg_event_trigger_dropped_objects() d ON d.objid = c.relid
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND c.root <> c.relid
            AND EXISTS (SELECT FROM pg_class k WHERE k.oid = c.root)
    LOOP
        PERFORM sync.table_changed(root);
    END LOOP;
    DELETE FROM sync.entry e USING pg_event_trigger_dropped_objects() d
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND e.relid = d.objid;
    IF FOUND THEN
        DELETE FROM sync.synced_table t USING pg_event_trigger_dropped_objects() d
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.relid = d.objid;
        DELETE FROM sync.base b WHERE NOT EXISTS (SELECT FROM sync.entry e WHERE e.entry_id = b.entry);
        UPDATE sync.generation SET n = n + 1;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.on_drop() IS 'Forgets synced tables that are dropped.';

CREATE EVENT TRIGGER sync_on_drop ON sql_drop EXECUTE FUNCTION sync.on_drop();
ALTER EVENT TRIGGER sync_on_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER sync_on_drop IS 'Forgets synced tables that are dropped.';
