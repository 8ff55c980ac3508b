-- Conflict policies: who decides where a device and somebody else changed the same row. See docs/conflicts.md.
--
-- The functions that declare are native, because they ask for the caller's rights; they hand over to put_policy and take_policy,
-- which only the extension's owner may call.

CREATE TABLE sync.policy (
    relid        pg_catalog.oid NOT NULL,
    attnum       smallint NOT NULL,
    event        text NOT NULL CHECK (event IN ('change', 'delete', 'encrypted')),
    policy       text NOT NULL,
    handler      pg_catalog.oid,
    handler_name text,
    home         text,
    link         smallint,
    PRIMARY KEY (relid, attnum, event)
);
COMMENT ON TABLE sync.policy IS 'Declared conflict policies; a table without any merges column by column.';
COMMENT ON COLUMN sync.policy.attnum IS 'The column''s number, which a new name does not change; 0: the whole table.';
COMMENT ON COLUMN sync.policy.event IS 'change: both sides changed a row; delete: one of them deleted it; encrypted: no policy, but that devices encrypt the column.';
COMMENT ON COLUMN sync.policy.handler IS 'For custom: the function, by its id in the database that home names.';
COMMENT ON COLUMN sync.policy.handler_name IS 'The same by name: for a function that was made anew, and after pg_upgrade.';
COMMENT ON COLUMN sync.policy.link IS 'For keep_both: the column that gets the key of the row that won. NULL: the losing version is only recorded.';

CREATE FUNCTION sync.set_policy("table" regclass, policy text, "column" text DEFAULT NULL, handler regprocedure DEFAULT NULL,
    options jsonb DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'set_policy_wrapper';
COMMENT ON FUNCTION sync.set_policy(regclass, text, text, regprocedure, jsonb) IS
    'Declares who decides where a device and somebody else changed the same. For a table: merge, server_wins, client_wins, last_writer, keep_both (options as, link), reject, custom (handler); for a column: server_wins, client_wins, last_writer, reject, counter, max, min, set, text.';

CREATE FUNCTION sync.drop_policy("table" regclass, "column" text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'drop_policy_wrapper';
COMMENT ON FUNCTION sync.drop_policy(regclass, text) IS
    'Takes back what set_policy declared for a column; without a column, what set_policy and set_delete_policy declared for the table.';

CREATE FUNCTION sync.set_delete_policy("table" regclass, policy text) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'set_delete_policy_wrapper';
COMMENT ON FUNCTION sync.set_delete_policy(regclass, text) IS
    'Declares what happens where one side deleted a row that the other changed: keep_update (as without a policy), delete_wins, last_writer or reject.';

-- The column of a primary key that a copy of a row gets a new value in: one with a default or an identity, else a uuid that refers to
-- no other table.
CREATE FUNCTION sync.fresh_key(rel regclass) RETURNS smallint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attnum
    FROM pg_index i
    CROSS JOIN unnest((i.indkey::smallint[])[0 : i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = rel AND i.indisprimary AND a.attgenerated = ''
        AND (a.atthasdef OR a.attidentity <> '' OR sync.base_type(a.atttypid) = 'uuid'::regtype)
        AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = rel AND f.contype = 'f' AND a.attnum = ANY (f.conkey))
    ORDER BY a.atthasdef OR a.attidentity <> '' DESC, k.place DESC LIMIT 1
$$;
COMMENT ON FUNCTION sync.fresh_key(regclass) IS 'The column of a table''s key that a copy of a row can get a new value in; NULL: none.';

CREATE FUNCTION sync.base_type(type_id oid) RETURNS oid
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE step (id, base) AS (
        SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = type_id
        UNION ALL
        SELECT t.oid, t.typbasetype FROM step s JOIN pg_type t ON t.oid = s.base
    )
    SELECT s.id FROM step s WHERE s.base = 0
$$;
COMMENT ON FUNCTION sync.base_type(oid) IS 'What a domain is over; any other type itself.';

-- Why a column policy does not fit the column's type; NULL: it does.
CREATE FUNCTION sync.misfit(policy text, type_id oid) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base oid := sync.base_type(type_id);
    category "char" := (SELECT t.typcategory FROM pg_type t WHERE t.oid = base);
BEGIN
    CASE policy
        WHEN 'counter' THEN
            RETURN CASE WHEN base <> ALL ('{smallint,integer,bigint,numeric,real,double precision,money,interval}'::regtype[]::oid[])
                THEN 'it needs a number, money or an interval' END;
        WHEN 'set' THEN
            RETURN CASE WHEN category <> 'A' AND base NOT IN ('json'::regtype, 'jsonb'::regtype) THEN 'it needs an array, json or jsonb' END;
        WHEN 'text' THEN
            RETURN CASE WHEN category <> 'S' OR base IN ('name'::regtype, '"char"'::regtype, 'character'::regtype)
                THEN 'it needs text or varchar' END;
        WHEN 'max', 'min' THEN
            BEGIN
                EXECUTE format('SELECT GREATEST(NULL::%1$s, NULL::%1$s)', format_type(base, NULL));
            EXCEPTION WHEN undefined_function THEN
                RETURN 'it needs a type with an order';
            END;
        ELSE
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.misfit(text, oid) IS 'Why a column policy cannot be used for a type; NULL: it can.';

CREATE FUNCTION sync.put_policy(rel regclass, wanted text, column_name text, handler_id oid, options jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_table CONSTANT text[] := '{merge,server_wins,client_wins,last_writer,keep_both,reject,custom}';
    of_column CONSTANT text[] := '{server_wins,client_wins,last_writer,reject,counter,max,min,set,text}';
    a pg_attribute;
    place text := format('table %s', rel);
    linked smallint;
    words text;
BEGIN
    PERFORM sync.check_policy_table(rel);
    IF column_name IS NULL THEN
        IF wanted IS NULL OR wanted <> ALL (of_table) THEN
            RAISE EXCEPTION '%: there is no policy "%" for a whole table', place, coalesce(wanted, 'NULL') USING ERRCODE = 'invalid_parameter_value',
                HINT = CASE WHEN wanted = ANY (of_column) THEN format('It is for one column: SELECT sync.set_policy(%L, %L, ''column'')', rel, wanted)
                    ELSE 'Choose one of ' || array_to_string(of_table, ', ') || '.' END;
        END IF;
    ELSE
        SELECT * INTO a FROM pg_attribute t WHERE t.attrelid = rel AND t.attname = column_name AND t.attnum > 0 AND NOT t.attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION '%: there is no column "%"', place, column_name USING ERRCODE = 'undefined_column';
        END IF;
        place := format('table %s, column "%s"', rel, column_name);
        IF wanted IS NULL OR wanted <> ALL (of_column) THEN
            RAISE EXCEPTION '%: there is no policy "%" for one column', place, coalesce(wanted, 'NULL') USING ERRCODE = 'invalid_parameter_value',
                HINT = CASE WHEN wanted = 'merge' THEN 'For one column that is last_writer.'
                    WHEN wanted = ANY (of_table) THEN format('It is for a whole table: SELECT sync.set_policy(%L, %L, ...)', rel, wanted)
                    ELSE 'Choose one of ' || array_to_string(of_column, ', ') || '.' END;
        ELSIF a.attgenerated <> '' THEN
            RAISE EXCEPTION '%: a generated column is never written by a device, so it cannot conflict', place
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Declare policies for the columns that it is computed from.';
        ELSIF EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary AND a.attnum = ANY ((i.indkey::smallint[])[0 : i.indnkeyatts - 1])) THEN
            RAISE EXCEPTION '%: a column of the primary key never changes, so it cannot conflict', place
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Declare the policy for another column, or for the table.';
        END IF;
        words := sync.misfit(wanted, a.atttypid);
        IF words IS NOT NULL THEN
            RAISE EXCEPTION '%: the policy "%" does not fit the type %: %', place, wanted, format_type(a.atttypid, a.atttypmod), words
                USING ERRCODE = 'datatype_mismatch', HINT = 'Choose another policy, such as last_writer, or change the column''s type.';
        END IF;
    END IF;
    IF wanted = 'custom' THEN
        PERFORM sync.check_handler(rel, handler_id);
    ELSIF handler_id IS NOT NULL THEN
        RAISE EXCEPTION '%: the policy "%" calls no handler', place, wanted
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave out the handler, or choose the policy custom.';
    END IF;
    IF wanted = 'keep_both' THEN
        linked := sync.check_keep_both(rel, coalesce(options, '{}'));
    ELSIF coalesce(options, '{}') <> '{}' THEN
        RAISE EXCEPTION '%: the policy "%" takes no options', place, wanted USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM sync.policy p WHERE p.relid = rel AND p.event = 'encrypted' AND (column_name IS NULL OR p.attnum = a.attnum)) THEN
        words := sync.misfit_encrypted(wanted, linked);
        IF words IS NOT NULL THEN
            RAISE EXCEPTION '%: %', CASE WHEN column_name IS NULL THEN place || ' has an encrypted column' ELSE place || ' is encrypted' END, words
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    INSERT INTO sync.policy (relid, attnum, event, policy, handler, handler_name, home, link)
    VALUES (rel, coalesce(a.attnum, 0), 'change', wanted, handler_id, handler_id::regprocedure::text, sync.home(), linked)
    ON CONFLICT (relid, attnum, event) DO UPDATE SET policy = excluded.policy, handler = excluded.handler,
        handler_name = excluded.handler_name, home = excluded.home, link = excluded.link;
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.put_policy(regclass, text, text, oid, jsonb) IS 'Second half of set_policy; not to be called directly.';

CREATE FUNCTION sync.check_policy_table(rel regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM sync.check_kind(rel);
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'table %: no policy can be declared: %', rel, SQLERRM USING ERRCODE = SQLSTATE,
        HINT = 'Policies are for tables that can be synced.';
END
$$;
COMMENT ON FUNCTION sync.check_policy_table(regclass) IS 'Refuses relations that cannot be synced.';

CREATE FUNCTION sync.check_handler(rel regclass, handler_id oid) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF handler_id IS NULL THEN
        RAISE EXCEPTION 'table %: the policy "custom" needs a handler', rel USING ERRCODE = 'invalid_parameter_value',
            HINT = format('SELECT sync.set_policy(%L, ''custom'', handler => ''function(jsonb)'')', rel);
    ELSIF NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = handler_id AND p.prokind = 'f' AND NOT p.proretset
            AND p.pronargs = 1 AND p.proargtypes[0] = 'jsonb'::regtype AND p.prorettype = 'jsonb'::regtype) THEN
        RAISE EXCEPTION 'table %: % cannot be a handler: it must be a function that takes one jsonb and returns one jsonb',
            rel, handler_id::regprocedure USING ERRCODE = 'invalid_function_definition',
            HINT = 'CREATE FUNCTION name(conflict jsonb) RETURNS jsonb ...';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.check_handler(regclass, oid) IS 'Refuses functions that cannot decide conflicts.';

-- The number of the column that links a losing version to the row that won; NULL where it is only recorded.
CREATE FUNCTION sync.check_keep_both(rel regclass, options jsonb) RETURNS smallint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    usage CONSTANT text := 'options => ''{"as": "record"}'', or ''{"as": "row", "link": "column"}''';
    fresh CONSTANT smallint := sync.fresh_key(rel);
    key pg_attribute;
    a pg_attribute;
BEGIN
    IF options = '{"as": "record"}' THEN
        RETURN NULL;
    ELSIF jsonb_typeof(options) <> 'object' OR options ->> 'as' IS DISTINCT FROM 'row' OR jsonb_typeof(options -> 'link') IS DISTINCT FROM 'string'
        OR options - 'as' - 'link' <> '{}' THEN
        RAISE EXCEPTION 'table %: keep_both does not say what becomes of the losing version: its options are %', rel, options
            USING ERRCODE = 'invalid_parameter_value', HINT = usage;
    ELSIF fresh IS NULL THEN
        RAISE EXCEPTION 'table %: keep_both cannot make a key for the losing version', rel USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give a column of the primary key a default (a sequence, an identity, gen_random_uuid()), or use options => ''{"as": "record"}''.';
    END IF;
    SELECT * INTO a FROM pg_attribute t WHERE t.attrelid = rel AND t.attname = options ->> 'link' AND t.attnum > 0 AND NOT t.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table %: there is no column "%" for the link of keep_both', rel, options ->> 'link' USING ERRCODE = 'undefined_column',
            HINT = format('Add one of the same type as the key: ALTER TABLE %s ADD COLUMN ...', rel);
    END IF;
    SELECT * INTO key FROM pg_attribute t WHERE t.attrelid = rel AND t.attnum = fresh;
    IF a.attgenerated <> '' OR sync.base_type(a.atttypid) <> sync.base_type(key.atttypid)
        OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary AND a.attnum = ANY (i.indkey::smallint[])) THEN
        RAISE EXCEPTION 'table %, column "%": it cannot link to "%" of type %', rel, a.attname, key.attname, format_type(key.atttypid, NULL)
            USING ERRCODE = 'datatype_mismatch', HINT = 'Use a column of that type that is neither generated nor part of the primary key.';
    END IF;
    RETURN a.attnum;
END
$$;
COMMENT ON FUNCTION sync.check_keep_both(regclass, jsonb) IS 'The column that links the losing version to the winner, from the options of keep_both.';

CREATE FUNCTION sync.put_delete_policy(rel regclass, wanted text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] := '{keep_update,delete_wins,last_writer,reject}';
BEGIN
    PERFORM sync.check_policy_table(rel);
    IF wanted IS NULL OR wanted <> ALL (known) THEN
        RAISE EXCEPTION 'table %: there is no policy "%" for deletes', rel, coalesce(wanted, 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Choose one of ' || array_to_string(known, ', ') || '.';
    END IF;
    INSERT INTO sync.policy (relid, attnum, event, policy) VALUES (rel, 0, 'delete', wanted)
    ON CONFLICT (relid, attnum, event) DO UPDATE SET policy = excluded.policy;
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.put_delete_policy(regclass, text) IS 'Second half of set_delete_policy; not to be called directly.';

CREATE FUNCTION sync.take_policy(rel regclass, column_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.policy p
    WHERE p.relid = rel AND p.event <> 'encrypted' AND CASE WHEN column_name IS NULL THEN p.attnum = 0 ELSE p.attnum = (
        SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = rel AND a.attname = column_name AND NOT a.attisdropped) END;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table %: no policy is declared for %', rel,
            CASE WHEN column_name IS NULL THEN 'the table' ELSE format('the column "%s"', column_name) END
            USING ERRCODE = 'undefined_object', HINT = 'See the view sync.policies.';
    END IF;
    PERFORM sync.pack();
END
$$;
COMMENT ON FUNCTION sync.take_policy(regclass, text) IS 'Second half of drop_policy; not to be called directly.';

CREATE FUNCTION sync.forget_policies() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sync.policy p
    WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relid)
        OR p.attnum > 0 AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.relid AND a.attnum = p.attnum AND NOT a.attisdropped)
$$;
COMMENT ON FUNCTION sync.forget_policies() IS 'Forgets the policies of dropped tables and columns.';

-- What a conflict is decided by, once for each push.
CREATE FUNCTION sync.policies_of(relations oid[], OUT relid oid, OUT attnum smallint, OUT event text, OUT policy text,
    OUT handler text, OUT handler_name text, OUT fresh smallint, OUT link smallint, OUT collated_by text) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.relid, p.attnum, p.event, p.policy, (
            SELECT format('%I.%I', n.nspname, f.proname) FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
            WHERE f.oid = coalesce(
                (SELECT k.oid FROM pg_proc k WHERE k.oid = p.handler AND p.home = sync.home()), to_regprocedure(p.handler_name))),
        p.handler_name, CASE WHEN p.link IS NOT NULL THEN sync.fresh_key(p.relid) END, p.link, (
            SELECT format(' COLLATE %I.%I', n.nspname, c.collname)
            FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = c.collnamespace
            WHERE a.attrelid = p.relid AND a.attnum = p.attnum)
    FROM sync.policy p WHERE p.relid = ANY (relations)
$$;
COMMENT ON FUNCTION sync.policies_of(oid[]) IS 'The policies of some tables as push reads them.';

-- Three ways: what either side added to or removed from base. NULL is the empty set; an outcome that is empty stays NULL where a side is.
CREATE FUNCTION sync.merge_sets(base jsonb, theirs jsonb, mine jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH before AS (SELECT e FROM jsonb_array_elements(base) e),
        server AS (SELECT e, n FROM jsonb_array_elements(theirs) WITH ORDINALITY t (e, n)),
        device AS (SELECT e, min(n) AS n FROM jsonb_array_elements(mine) WITH ORDINALITY m (e, n) GROUP BY e),
        merged AS (
            SELECT e, 1 AS side, n FROM server s
            WHERE NOT EXISTS (SELECT FROM before b WHERE b.e = s.e) OR EXISTS (SELECT FROM device d WHERE d.e = s.e)
            UNION ALL
            SELECT e, 2, n FROM device d
            WHERE NOT EXISTS (SELECT FROM before b WHERE b.e = d.e) AND NOT EXISTS (SELECT FROM server s WHERE s.e = d.e)
        )
    SELECT coalesce(jsonb_agg(e ORDER BY side, n), CASE WHEN theirs IS NOT NULL AND mine IS NOT NULL THEN '[]'::jsonb END) FROM merged
$$;
COMMENT ON FUNCTION sync.merge_sets(jsonb, jsonb, jsonb) IS 'JSON arrays as sets, merged three ways: the server''s order, then what the device added.';

CREATE VIEW sync.policies AS
SELECT p.relid::regclass AS "table", a.attname AS "column", p.event, p.policy,
    coalesce((SELECT format('%I.%I(jsonb)', n.nspname, f.proname) FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
        WHERE f.oid = p.handler), p.handler_name) AS handler,
    CASE WHEN p.policy = 'keep_both' AND p.link IS NULL THEN '{"as": "record"}'
        WHEN p.policy = 'keep_both' THEN jsonb_build_object('as', 'row', 'link', l.attname) ELSE '{}' END AS options
FROM sync.policy p
LEFT JOIN pg_attribute a ON a.attrelid = p.relid AND a.attnum = p.attnum AND p.attnum > 0
LEFT JOIN pg_attribute l ON l.attrelid = p.relid AND l.attnum = p.link
ORDER BY p.relid, p.attnum, p.event;
COMMENT ON VIEW sync.policies IS 'Declared conflict policies. event: change, both sides changed a row; delete, one of them deleted it; encrypted, devices encrypt the column.';
