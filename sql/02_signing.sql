-- Signed answers: what sync.pull() and sync.push() return can then not be altered on its way to a device that knows the public key.
--
-- Where there is a key, answers carry a signature of it; of two keys both, so that devices can change from one to the other.

CREATE TABLE sync.signing_key (
    public_key bytea PRIMARY KEY CHECK (pg_catalog.octet_length(public_key) OPERATOR(pg_catalog.=) 32),
    seed       bytea NOT NULL CHECK (pg_catalog.octet_length(seed) OPERATOR(pg_catalog.=) 32),
    made       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE sync.signing_key IS 'Keys that answers to devices are signed with (Ed25519). They are secrets: only the owner of the schema reads it.';
COMMENT ON COLUMN sync.signing_key.seed IS 'The secret from which the private key follows.';
SELECT pg_catalog.pg_extension_config_dump('sync.signing_key', '');

CREATE FUNCTION sync.public_key_of(seed bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'public_key_of_wrapper';
COMMENT ON FUNCTION sync.public_key_of(bytea) IS 'The public key that belongs to the secret bytes of a signing key.';

CREATE FUNCTION sync.make_signing_key() RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Each UUID has 122 random bits.
    secret bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    public bytea := sync.public_key_of(secret);
BEGIN
    LOCK TABLE sync.signing_key IN SHARE ROW EXCLUSIVE MODE;
    IF (SELECT count(*) FROM sync.signing_key) >= 2 THEN
        RAISE EXCEPTION 'there are two signing keys already: drop the one that no device trusts any longer with sync.drop_signing_key()'
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    INSERT INTO sync.signing_key (public_key, seed) VALUES (public, secret);
    RETURN encode(public, 'hex');
END
$$;
COMMENT ON FUNCTION sync.make_signing_key() IS
    'Makes a key that answers to devices are signed with from now on; of two keys each answer carries both signatures. Returns the public key, which the application gives to sync_trust() on its devices.';

CREATE FUNCTION sync.drop_signing_key(public_key text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM sync.signing_key k WHERE encode(k.public_key, 'hex') = lower(drop_signing_key.public_key);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no signing key %: see sync.signing_keys', public_key USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.drop_signing_key(text) IS
    'Forgets a signing key. Devices that trust no other refuse every answer from then on, until they are given another key.';

CREATE VIEW sync.signing_keys AS
SELECT pg_catalog.encode(public_key, 'hex') AS public_key, made FROM sync.signing_key;
COMMENT ON VIEW sync.signing_keys IS 'The public keys of sync.signing_key: what devices are given to trust.';
