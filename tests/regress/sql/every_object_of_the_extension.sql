-- What CREATE EXTENSION makes, so that nothing appears or vanishes unnoticed.
SELECT pg_describe_object(classid, objid, 0) AS object
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_sync')
    -- Since 17 the types of tables' rows are members, too, and those of arrays.
    AND NOT EXISTS (
        SELECT FROM pg_type t WHERE classid = 'pg_type'::regclass AND t.oid = objid AND (t.typrelid <> 0 OR t.typelem <> 0))
ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";

-- What everybody may do with it.
SELECT p.oid::regprocedure AS function FROM pg_proc p
WHERE p.pronamespace = 'sync'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT c.oid::regclass AS relation FROM pg_class c
WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'v', 'S')
    AND has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE') ORDER BY c.relname COLLATE "C";

-- Every function and table says what it is for.
SELECT p.oid::regprocedure AS without_comment FROM pg_proc p
WHERE p.pronamespace = 'sync'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass AS without_comment FROM pg_class c
WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL;

-- No function runs with its definer's rights under a search_path that the caller chooses.
SELECT p.oid::regprocedure AS unpinned FROM pg_proc p
WHERE p.pronamespace = 'sync'::regnamespace AND p.prosecdef
    AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false);

DROP EXTENSION pg_sync;
SELECT count(*) FROM pg_namespace WHERE nspname = 'sync';
