-- Who gets which rows: for people who write rules, and for those who check them.

CREATE FUNCTION sync.explain("table" regclass, key text, claims jsonb)
    RETURNS TABLE (bucket text, bucket_key jsonb, verdict text, reason text)
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'explain_wrapper';
COMMENT ON FUNCTION sync.explain(regclass, text, jsonb) IS
    'Why a row is or is not on the devices of the user whom the claims name: one line for each rule that its table is in. key: as text, or a JSON object of its columns.';

CREATE FUNCTION sync.audit(claims jsonb)
    RETURNS TABLE (bucket text, bucket_key jsonb, "table" regclass, key jsonb, kind text)
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_wrapper';
COMMENT ON FUNCTION sync.audit(jsonb) IS
    'Every row that the rules hand out to the user whom the claims name and that row level security would not show them (only by rules), or the other way round (only by policies). Reads all synced tables.';
