-- Encrypted columns: devices encrypt what is written to them, and the server stores, sums and hands on ciphertext.
--
-- That a column is encrypted stands in sync.policy, beside what decides its conflicts. It cannot be taken back: devices would send what they
-- hold as it is.

CREATE FUNCTION sync.set_encrypted("table" regclass, "column" text) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'set_encrypted_wrapper';
COMMENT ON FUNCTION sync.set_encrypted(regclass, text) IS
    'Has devices encrypt a column of type bytea that holds no values yet, with keys that only they have (sync_set_key). It cannot be taken back.';

CREATE FUNCTION sync.put_encrypted(rel regclass, column_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place CONSTANT text := format('table %s, column "%s"', rel, column_name);
    a pg_attribute;
    why text;
    filled boolean;
BEGIN
    PERFORM sync.check_policy_table(rel);
    SELECT * INTO a FROM pg_attribute t WHERE t.attrelid = rel AND t.attname = column_name AND t.attnum > 0 AND NOT t.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION '%: there is no such column', place USING ERRCODE = 'undefined_column';
    ELSIF a.atttypid <> 'bytea'::regtype THEN
        RAISE EXCEPTION '%: an encrypted column must be of type bytea, since the server has nothing but ciphertext; it is of type %',
            place, format_type(a.atttypid, a.atttypmod)
            USING ERRCODE = 'datatype_mismatch', HINT = 'Devices still write texts and numbers to it, and read them from it.';
    END IF;
    why := CASE
        WHEN a.attgenerated <> '' THEN 'a generated column is the server''s own'
        WHEN a.atthasdef THEN 'a default would stand in it as it is'
        WHEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary AND a.attnum = ANY ((i.indkey::smallint[])[0 : i.indnkeyatts - 1]))
            THEN 'the primary key tells rows apart on the server too'
        WHEN EXISTS (SELECT FROM sync.key_sequence(rel)) THEN
            'the table''s key comes from a sequence, and a value is bound to its row''s key, which would change: use a uuid'
        ELSE sync.misfit_encrypted((SELECT p.policy FROM sync.policy p WHERE p.relid = rel AND p.attnum = a.attnum AND p.event = 'change'), NULL)
    END;
    IF why IS NULL THEN
        SELECT sync.misfit_encrypted(p.policy, p.link) INTO why FROM sync.policy p WHERE p.relid = rel AND p.attnum = 0 AND p.event = 'change';
    END IF;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION '%: it cannot be encrypted: %', place, why USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', rel);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I IS NOT NULL)', rel, column_name) INTO filled;
    IF filled THEN
        RAISE EXCEPTION '%: it has values already, which the server knows', place USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Add another column, have it encrypted, and let devices write to that one.';
    END IF;
    INSERT INTO sync.policy (relid, attnum, event, policy) VALUES (rel, a.attnum, 'encrypted', 'encrypted') ON CONFLICT DO NOTHING;
    PERFORM sync.raise_generation();
END
$$;
COMMENT ON FUNCTION sync.put_encrypted(regclass, text) IS 'Second half of set_encrypted; not to be called directly.';

-- Why a policy cannot decide about encrypted values; NULL: it can, or there is none.
CREATE FUNCTION sync.misfit_encrypted(policy text, link smallint) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN policy IN ('counter', 'max', 'min', 'set', 'text') THEN format('the policy "%s" looks at values, and the server cannot read them', policy)
        WHEN policy = 'custom' THEN 'the handler of the policy "custom" could not read it'
        WHEN policy = 'keep_both' AND link IS NOT NULL THEN
            'keep_both as a row copies values to another key, to which they are not bound: use options => ''{"as": "record"}'''
    END
$$;
COMMENT ON FUNCTION sync.misfit_encrypted(text, smallint) IS 'Why a policy cannot decide about values that the server cannot read; NULL: it can.';
