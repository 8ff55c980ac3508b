-- Tokens that prove who asks, where nobody in front of the database has verified them already.
--
-- A key is for one algorithm, one issuer and one audience; NULL: any, which only an issuer that serves nobody else makes safe. The
-- role sync_transport may authenticate; nobody but the owner of the schema reads keys, since some of them are secrets.

CREATE TABLE sync.auth_key (
    key_id     pg_catalog.uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    kid        text CHECK (kid OPERATOR(pg_catalog.<>) ''),
    algorithm  text NOT NULL CHECK (algorithm OPERATOR(pg_catalog.=) ANY ('{HS256,RS256,ES256,ES256K,EdDSA}')),
    jwk        pg_catalog.jsonb NOT NULL,
    issuer     text CHECK (issuer OPERATOR(pg_catalog.<>) ''),
    audience   text CHECK (audience OPERATOR(pg_catalog.<>) ''),
    not_before timestamptz,
    retires    timestamptz,
    from_set   boolean NOT NULL DEFAULT false,
    added      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE sync.auth_key IS 'Keys that tokens are verified with, see sync.authenticate(). Secrets stand in it: only the owner of the schema reads it.';
COMMENT ON COLUMN sync.auth_key.jwk IS 'The key as a JWK: public, or of HS256 the secret itself.';
COMMENT ON COLUMN sync.auth_key.retires IS 'From then on the key verifies nothing; NULL: it stays.';
COMMENT ON COLUMN sync.auth_key.from_set IS 'It came from sync.load_jwks(), which also retires it once its issuer does not publish it any longer.';
SELECT pg_catalog.pg_extension_config_dump('sync.auth_key', '');

CREATE TABLE sync.did_service (
    audience text NOT NULL CHECK (audience OPERATOR(pg_catalog.<>) ''),
    lxm      text CHECK (lxm OPERATOR(pg_catalog.<>) ''),
    methods  text[] NOT NULL CHECK (methods OPERATOR(pg_catalog.<@) '{key,plc,web}'),
    role     pg_catalog.name,
    UNIQUE NULLS NOT DISTINCT (audience, lxm)
);
COMMENT ON TABLE sync.did_service IS 'The AT Protocol services that this database is: whose tokens sync.authenticate() takes.';
SELECT pg_catalog.pg_extension_config_dump('sync.did_service', '');

CREATE TABLE sync.did_document (
    did      text PRIMARY KEY,
    document pg_catalog.jsonb NOT NULL,
    fetched  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX did_document_fetched ON sync.did_document (fetched);
COMMENT ON TABLE sync.did_document IS 'Documents of did:plc and did:web, as a transport has fetched them: the keys that their tokens are verified with.';

CREATE FUNCTION sync.authenticate(token text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'authenticate_wrapper';
COMMENT ON FUNCTION sync.authenticate(text) IS
    'Verifies a signed token (JWT) and makes its user the one who asks, until this transaction ends. Returns the user. Writes nothing.';

CREATE FUNCTION sync.jwk_of(key text, algorithm text) RETURNS pg_catalog.jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'jwk_of_wrapper';
COMMENT ON FUNCTION sync.jwk_of(text, text) IS 'A key in PEM, as a JWK, or as the text of an HS256 secret, checked and made a JWK.';

CREATE FUNCTION sync.keys_of_set(jwks pg_catalog.jsonb) RETURNS TABLE (kid text, algorithm text, jwk pg_catalog.jsonb)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'keys_of_set_wrapper';
COMMENT ON FUNCTION sync.keys_of_set(jsonb) IS 'The keys of a JWK set that tokens can be verified with.';

CREATE FUNCTION sync.did_of_document(document pg_catalog.jsonb) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'did_of_document_wrapper';
COMMENT ON FUNCTION sync.did_of_document(jsonb) IS 'The identifier that a DID document is of, if its key #atproto can be used.';

CREATE FUNCTION sync.add_auth_key(key text, algorithm text, issuer text, audience text, kid text DEFAULT NULL,
    not_before timestamptz DEFAULT NULL, retires timestamptz DEFAULT NULL) RETURNS pg_catalog.uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added uuid;
BEGIN
    IF add_auth_key.key IS NULL OR add_auth_key.algorithm IS NULL THEN
        RAISE EXCEPTION 'a key needs its text and its algorithm' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    INSERT INTO sync.auth_key AS k (kid, algorithm, jwk, issuer, audience, not_before, retires)
    VALUES (add_auth_key.kid, add_auth_key.algorithm, sync.jwk_of(add_auth_key.key, add_auth_key.algorithm),
        add_auth_key.issuer, add_auth_key.audience, add_auth_key.not_before, add_auth_key.retires)
    RETURNING k.key_id INTO added;
    RETURN added;
END
$$;
COMMENT ON FUNCTION sync.add_auth_key(text, text, text, text, text, timestamptz, timestamptz) IS
    'Adds a key that tokens are verified with: PEM (PUBLIC KEY), a JWK, or the text of an HS256 secret; for the tokens of one issuer, meant for one audience (NULL: any). Returns its key_id.';

CREATE FUNCTION sync.retire_auth_key(key_id pg_catalog.uuid, at timestamptz DEFAULT pg_catalog.clock_timestamp()) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.auth_key k SET retires = retire_auth_key.at WHERE k.key_id = retire_auth_key.key_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no key %: see sync.auth_keys', key_id USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.retire_auth_key(uuid, timestamptz) IS 'From then on (at once) a key verifies no token any longer. NULL: it stays.';

CREATE FUNCTION sync.drop_auth_key(key_id pg_catalog.uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.auth_key k WHERE k.key_id = drop_auth_key.key_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no key %: see sync.auth_keys', key_id USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.drop_auth_key(uuid) IS 'Forgets a key.';

CREATE FUNCTION sync.load_jwks(jwks pg_catalog.jsonb, issuer text, audience text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    loaded integer;
BEGIN
    IF load_jwks.issuer IS NULL THEN
        RAISE EXCEPTION 'a set of keys needs its issuer: what the claim iss of its tokens says' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- One load at a time; tokens are verified meanwhile.
    LOCK TABLE sync.auth_key IN SHARE ROW EXCLUSIVE MODE;
    UPDATE sync.auth_key k SET retires = clock_timestamp()
    WHERE k.from_set AND k.issuer = load_jwks.issuer AND k.audience IS NOT DISTINCT FROM load_jwks.audience
        AND (k.retires IS NULL OR k.retires > clock_timestamp())
        AND NOT EXISTS (SELECT FROM sync.keys_of_set(jwks) s WHERE s.kid IS NOT DISTINCT FROM k.kid AND s.jwk = k.jwk);
    INSERT INTO sync.auth_key (kid, algorithm, jwk, issuer, audience, from_set)
    SELECT s.kid, s.algorithm, s.jwk, load_jwks.issuer, load_jwks.audience, true FROM sync.keys_of_set(jwks) s
    WHERE NOT EXISTS (SELECT FROM sync.auth_key k
        WHERE k.issuer = load_jwks.issuer AND k.audience IS NOT DISTINCT FROM load_jwks.audience
            AND k.kid IS NOT DISTINCT FROM s.kid AND k.jwk = s.jwk AND (k.retires IS NULL OR k.retires > clock_timestamp()));
    SELECT count(*) INTO loaded FROM sync.keys_of_set(jwks);
    RETURN loaded;
END
$$;
COMMENT ON FUNCTION sync.load_jwks(jsonb, text, text) IS
    'Takes over the keys that an issuer publishes (its JWK set): new ones are added, those it does not publish any longer retire at once. Returns how many of the set can be used.';

CREATE FUNCTION sync.accept_dids(audience text, lxm text, methods text[] DEFAULT '{key,plc,web}', role pg_catalog.name DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.did_service s WHERE s.audience = accept_dids.audience AND s.lxm IS NOT DISTINCT FROM accept_dids.lxm;
    INSERT INTO sync.did_service (audience, lxm, methods, role)
    VALUES (accept_dids.audience, accept_dids.lxm, accept_dids.methods, accept_dids.role);
END
$$;
COMMENT ON FUNCTION sync.accept_dids(text, text, text[], name) IS
    'Takes tokens that people of the AT Protocol sign for this service: audience is its own DID, lxm the method (NULL: any), methods the kinds of their identifiers, role what they write as.';

CREATE FUNCTION sync.refuse_dids(audience text, lxm text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.did_service s WHERE s.audience = refuse_dids.audience AND s.lxm IS NOT DISTINCT FROM refuse_dids.lxm;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no tokens for % and that method are taken: see sync.did_service', audience USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.refuse_dids(text, text) IS 'Takes back sync.accept_dids().';

CREATE FUNCTION sync.did_document_age() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('sync.did_document_age', true), ''), '1 day')::interval
$$;
COMMENT ON FUNCTION sync.did_document_age() IS 'How long a DID document counts before it must be fetched again: the setting sync.did_document_age, 1 day by default.';

CREATE FUNCTION sync.put_did_document(document pg_catalog.jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text := sync.did_of_document(document);
BEGIN
    IF pg_column_size(document) > 65536 THEN
        RAISE EXCEPTION 'the document of % is larger than 64 KiB', found USING ERRCODE = 'program_limit_exceeded';
    END IF;
    DELETE FROM sync.did_document d WHERE d.did IN (SELECT o.did FROM sync.did_document o
        WHERE o.fetched < clock_timestamp() - sync.did_document_age() ORDER BY o.fetched LIMIT 10 FOR UPDATE SKIP LOCKED);
    INSERT INTO sync.did_document AS d (did, document) VALUES (found, document)
    ON CONFLICT (did) DO UPDATE SET document = excluded.document, fetched = clock_timestamp();
    RETURN found;
END
$$;
COMMENT ON FUNCTION sync.put_did_document(jsonb) IS
    'Stores the document of a did:plc or did:web that the transport has fetched; tokens are verified with its key #atproto. Returns the identifier. Whoever may call it is trusted to have fetched it from the right place.';

CREATE VIEW sync.auth_keys AS
SELECT key_id, kid, algorithm, issuer, audience, not_before, retires, from_set, added,
    (not_before IS NULL OR not_before OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp())
        AND (retires IS NULL OR retires OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) AS in_force
FROM sync.auth_key;
COMMENT ON VIEW sync.auth_keys IS 'The keys that tokens are verified with, without the keys themselves.';
