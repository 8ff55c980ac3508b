-- What devices may do with a table's rows, and tables that they only write to.

CREATE FUNCTION sync.set_mode("table" regclass, mode text) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'set_mode_wrapper';
COMMENT ON FUNCTION sync.set_mode(regclass, text) IS
    'What devices may do with a synced table: read_write (the default), read_only, or insert_only. Only its owner can say.';

CREATE FUNCTION sync.put_mode(rel regclass, new_mode text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF new_mode IS NULL OR new_mode NOT IN ('read_write', 'read_only', 'insert_only') THEN
        RAISE EXCEPTION 'table %: there is no mode "%"', rel, coalesce(new_mode, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'One of read_write, read_only, insert_only.';
    ELSIF new_mode = 'read_only' AND EXISTS (SELECT FROM sync.synced_table t WHERE t.relid = rel AND t.upload) THEN
        RAISE EXCEPTION 'table % is for uploads, so devices must be able to insert', rel
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Drop it first with sync.drop_upload_table.';
    END IF;
    UPDATE sync.synced_table SET mode = new_mode WHERE relid = rel;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not synced', rel
            USING ERRCODE = 'undefined_object', HINT = 'Add it first with sync.add_table or sync.add_upload_table.';
    END IF;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.put_mode(regclass, text) IS 'Second half of set_mode; not to be called directly.';

CREATE FUNCTION sync.add_upload_table("table" regclass, columns text[] DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'add_upload_table_wrapper';
COMMENT ON FUNCTION sync.add_upload_table(regclass, text[]) IS
    'Lets every device insert into a table of which it holds nothing: a row disappears from the device once it is confirmed. columns: those that devices have, all if not given.';

CREATE FUNCTION sync.put_upload(rel regclass, sent name[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place CONSTANT text := format('table %s', rel);
    state text;
    words text;
    remedy text;
BEGIN
    IF EXISTS (SELECT FROM sync.synced_table t WHERE t.relid = rel) THEN
        RAISE EXCEPTION '% is synced already', place
            USING ERRCODE = 'duplicate_object', HINT = 'Devices may insert into it, unless sync.set_mode says that it is read_only.';
    END IF;
    BEGIN
        PERFORM sync.check_kind(rel);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, words = MESSAGE_TEXT, remedy = PG_EXCEPTION_HINT;
        RAISE EXCEPTION '%: %', place, words USING ERRCODE = state, HINT = coalesce(nullif(remedy, ''), 'Use another table.');
    END;
    PERFORM sync.check_columns(place, rel, sent);
    PERFORM sync.register_table(place, rel, sent);
    UPDATE sync.synced_table SET upload = true, mode = 'insert_only' WHERE relid = rel;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.put_upload(regclass, name[]) IS 'Second half of add_upload_table; not to be called directly.';

CREATE FUNCTION sync.drop_upload_table("table" regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.synced_table SET upload = false WHERE relid = "table" AND upload;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not one for uploads', "table" USING ERRCODE = 'undefined_object', HINT = 'See the view sync.tables.';
    END IF;
    DELETE FROM sync.synced_table t WHERE t.relid = "table" AND NOT EXISTS (SELECT FROM sync.entry e WHERE e.relid = t.relid);
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.drop_upload_table(regclass) IS
    'The opposite of add_upload_table: devices let go of the table, and what they still send into it is rejected.';
