-- Who asks. Claims count only where the session may be believed; see docs/operations.md.

CREATE FUNCTION sync.claims() RETURNS jsonb
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'claims_wrapper';
COMMENT ON FUNCTION sync.claims() IS
    'The claims of the user who asks: those that sync.authenticate() has verified in this transaction, else request.jwt.claims where the session user belongs to sync_transport or is a superuser, else NULL.';

CREATE FUNCTION sync.user_id() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'user_id_wrapper';
COMMENT ON FUNCTION sync.user_id() IS 'The claim sub; without believed claims the name of the database role.';

CREATE FUNCTION sync.param(name text) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'param_wrapper';
COMMENT ON FUNCTION sync.param(text) IS
    'In a rule''s members: a parameter of the subscription that is being looked at; NULL elsewhere. Anything may stand in it.';
