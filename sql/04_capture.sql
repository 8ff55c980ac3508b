-- Capture: native statement triggers whose argument carries the whole definition, so that a writer with an older snapshot
-- captures by the rule that its trigger belongs to.

CREATE FUNCTION sync.capture() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'sync_capture';
COMMENT ON FUNCTION sync.capture() IS 'Appends to the op log what a statement did to the buckets of a table.';

-- The trigger's argument for one relation: a synced table, or a partition of one.
CREATE FUNCTION sync.capture_definition(rel regclass, root regclass) RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'capture_definition_wrapper';
COMMENT ON FUNCTION sync.capture_definition(regclass, regclass) IS 'What the capture triggers of a relation need to know, as JSON.';

CREATE FUNCTION sync.install_capture(root regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel regclass;
    definition text;
    event record;
    was text := current_setting('sync.in_ddl', true);
BEGIN
    PERFORM set_config('sync.in_ddl', 'on', true);
    DELETE FROM sync.captured c WHERE c.root = install_capture.root;
    FOR rel IN SELECT root UNION SELECT p.relid FROM pg_partition_tree(root) p LOOP
        definition := sync.capture_definition(rel, root);
        INSERT INTO sync.captured (relid, root, definition, file)
        SELECT rel, install_capture.root, definition, k.relfilenode FROM pg_class k WHERE k.oid = rel;
        PERFORM sync.remove_capture_from(rel);
        FOR event IN
            SELECT * FROM (VALUES
                ('insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS sync_new'),
                ('update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS sync_old NEW TABLE AS sync_new'),
                ('delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS sync_old'),
                ('truncate', 'BEFORE TRUNCATE', '')) AS e (name, moment, referencing)
        LOOP
            EXECUTE format('CREATE OR REPLACE TRIGGER sync_capture_%s %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION sync.capture(%L)',
                event.name, event.moment, rel, event.referencing, definition);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER sync_capture_%s', rel, event.name);
        END LOOP;
    END LOOP;
    PERFORM set_config('sync.in_ddl', coalesce(was, 'off'), true);
END
$$;
COMMENT ON FUNCTION sync.install_capture(regclass) IS 'Creates or replaces the capture triggers of a table and its partitions.';

CREATE FUNCTION sync.remove_capture(root regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r oid;
BEGIN
    FOR r IN SELECT c.relid FROM sync.captured c WHERE c.root = remove_capture.root LOOP
        PERFORM sync.remove_capture_from(r);
    END LOOP;
    DELETE FROM sync.captured c WHERE c.root = remove_capture.root;
END
$$;
COMMENT ON FUNCTION sync.remove_capture(regclass) IS 'Drops the capture triggers of a table and its partitions.';

CREATE FUNCTION sync.remove_capture_from(rel oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    was text := current_setting('sync.in_ddl', true);
BEGIN
    PERFORM set_config('sync.in_ddl', 'on', true);
    FOR t IN
        SELECT g.tgname, g.tgrelid::regclass AS rel FROM pg_trigger g
        WHERE g.tgfoid = 'sync.capture()'::regprocedure AND g.tgrelid = remove_capture_from.rel
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.rel);
    END LOOP;
    PERFORM set_config('sync.in_ddl', coalesce(was, 'off'), true);
END
$$;
COMMENT ON FUNCTION sync.remove_capture_from(oid) IS 'Drops the capture triggers of one relation.';

-- Whether the triggers of a relation are still those that install_capture made.
CREATE FUNCTION sync.is_captured(rel oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) = 4 AND bool_and(g.tgenabled = 'A' AND g.tgfoid = 'sync.capture()'::regprocedure
        AND g.tgname IN ('sync_capture_insert', 'sync_capture_update', 'sync_capture_delete', 'sync_capture_truncate')
        AND g.tgargs = convert_to(c.definition, 'UTF8') || decode('00', 'hex'))
    FROM sync.captured c JOIN pg_trigger g ON g.tgrelid = c.relid
    WHERE c.relid = rel AND (g.tgfoid = 'sync.capture()'::regprocedure OR g.tgname LIKE 'sync\_capture\_%')
$$;
COMMENT ON FUNCTION sync.is_captured(oid) IS 'Whether a relation has its four capture triggers, enabled and unchanged.';

-- Capture follows its tables by event triggers. Those can be switched off, and then nothing tells that a table has changed.
CREATE FUNCTION sync.capture_problems(of_root regclass) RETURNS TABLE (rel regclass, words text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT c.relid::regclass AS rel, c.definition FROM sync.captured c JOIN pg_class k ON k.oid = c.relid WHERE c.root = of_root LOOP
        rel := one.rel;
        BEGIN
            words := CASE WHEN NOT sync.is_captured(rel) THEN 'its capture triggers are missing, disabled or altered'
                WHEN regexp_replace(sync.capture_definition(rel, of_root), ':location -?[0-9]+', '', 'g')
                    <> regexp_replace(one.definition, ':location -?[0-9]+', '', 'g')
                THEN 'its capture is of an older state of the table' END;
        EXCEPTION WHEN OTHERS THEN
            words := format('what its capture should be cannot be said: %s', SQLERRM);
        END;
        IF words IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    RETURN QUERY
    SELECT p.relid, 'it is a partition without capture' FROM pg_partition_tree(of_root) p
    WHERE NOT EXISTS (SELECT FROM sync.captured c WHERE c.relid = p.relid) AND EXISTS (SELECT FROM sync.captured c WHERE c.root = of_root)
    UNION ALL
    SELECT of_root, format('devices do not get its column %I, which was added meanwhile', a.attname)
    FROM sync.synced_table t JOIN pg_attribute a ON a.attrelid = t.relid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE t.relid = of_root AND t.columns IS NULL AND a.attgenerated <> 'v' AND NOT EXISTS (SELECT FROM sync.synced_column s WHERE s.relid = t.relid AND s.attnum = a.attnum);
END
$$;
COMMENT ON FUNCTION sync.capture_problems(regclass) IS 'Where capture of a synced table and its partitions is not what it should be.';

CREATE FUNCTION sync.recapture(only_this regclass DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT text := current_setting('lock_timeout');
    root regclass;
BEGIN
    FOR root IN
        SELECT DISTINCT e.relid FROM sync.entry e
        WHERE CASE WHEN only_this IS NULL
            THEN EXISTS (SELECT FROM sync.captured c JOIN pg_class k ON k.oid = c.relid WHERE c.root = e.relid AND NOT sync.is_captured(c.relid))
            ELSE e.relid = only_this AND (e.state = 'broken' OR EXISTS (SELECT FROM sync.capture_problems(e.relid))) END
    LOOP
        BEGIN
            -- Of its own accord this waits for nobody for long, since writers would wait behind it.
            PERFORM set_config('lock_timeout', '1000', true);
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', root);
            PERFORM set_config('lock_timeout', before, true);
            PERFORM sync.table_changed(root, quiet => true);
            RAISE WARNING 'capture of table % was not what it should be: it is made anew, and the rows are compared', root;
        EXCEPTION WHEN lock_not_available THEN
            RAISE WARNING 'capture of table % is not what it should be, and the table is in use: this is tried again', root;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.recapture(regclass) IS 'Makes capture anew where triggers are not what they should be, or of one table whatever is wrong; called by maintain and verify_table.';
