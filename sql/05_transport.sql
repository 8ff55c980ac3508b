-- The two functions that a transport calls with opaque bytes.

-- Neither is SECURITY DEFINER, and neither has settings of its own: functions of the user's policies and triggers must see those of the
-- session. Both take the rights of the owner of the schema themselves, for its own tables only, and pin their settings there.

CREATE FUNCTION sync.pull(request bytea) RETURNS bytea
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'pull_wrapper';
COMMENT ON FUNCTION sync.pull(bytea) IS
    'What changed for the asking device. Takes what pull_request() made, returns what apply_delta() takes. Writes nothing.';

CREATE FUNCTION sync.push(batches bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'push_wrapper';
COMMENT ON FUNCTION sync.push(bytea) IS
    'Applies what a device wrote, with the rights of its user. Takes what pending_ops() made, returns what apply_delta() takes.';
