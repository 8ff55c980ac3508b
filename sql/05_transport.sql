-- The two functions that a transport calls with opaque bytes.

CREATE FUNCTION sync.pull(request bytea) RETURNS bytea
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'pull_wrapper';
COMMENT ON FUNCTION sync.pull(bytea) IS
    'What changed for the asking device. Takes what pull_request() made, returns what apply_delta() takes. Writes nothing.';

-- Not SECURITY DEFINER, and without settings of its own: the user's triggers and policies must see those of the session. It
-- takes the rights of the owner of the schema itself, for its own tables only, and pins its settings there.
CREATE FUNCTION sync.push(batches bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'push_wrapper';
COMMENT ON FUNCTION sync.push(bytea) IS
    'Applies what a device wrote, with the rights of its user. Takes what pending_ops() made, returns what apply_delta() takes.';
