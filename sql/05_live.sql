-- What a transport watches, so that devices need not ask all the time. Writers pay nothing for it but an entry in op_xid.

CREATE FUNCTION sync.head() RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'live_head_wrapper';
COMMENT ON FUNCTION sync.head() IS
    'Another text whenever something was committed that a pull could bring (and also when it was something else). Takes microseconds.';

CREATE FUNCTION sync.changed_since(head text, wait integer DEFAULT 0)
    RETURNS TABLE (head text, buckets uuid[], members boolean, everyone boolean)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'changed_since_wrapper';
COMMENT ON FUNCTION sync.changed_since(text, integer) IS
    'The buckets that changed since a head, and the next head. members: who holds what may have changed; everyone: all should ask. Waits up to so many milliseconds (10,000) for something to tell. NULL: begins.';

CREATE FUNCTION sync.my_buckets(request bytea DEFAULT NULL) RETURNS uuid[]
    LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'my_buckets_wrapper';
COMMENT ON FUNCTION sync.my_buckets(bytea) IS
    'The buckets that the asking user may hold now, as sync.changed_since() names them. What pull_request() made says what the device subscribes to.';

CREATE FUNCTION sync.wake_channel() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'sync_' || left(encode(sha256(s.secret || convert_to('wake_channel', 'UTF8')), 'hex'), 32)
    FROM sync.secret s ORDER BY s.made, s.secret LIMIT 1
$$;
COMMENT ON FUNCTION sync.wake_channel() IS
    'The channel that the background worker notifies, where sync.wake_interval is set. Anybody may LISTEN, so its name is nothing that can be guessed.';

-- What the native parts call.

CREATE FUNCTION sync.relations_of(query text, owner oid) RETURNS oid[]
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'relations_of_wrapper';
COMMENT ON FUNCTION sync.relations_of(text, oid) IS 'The relations that a query names, also through views. It is parsed with the rights of the role, and not run.';

-- Each query is parsed in a subtransaction that is undone, so that its locks are gone at once; one that cannot be parsed stops nothing. A lock
-- that is not had soon stops nothing either: it is waited for once, and what is behind it is not waited for at all.
CREATE FUNCTION sync.members_read(OUT relations oid[], OUT complete boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    r record;
    named oid[];
BEGIN
    relations := '{}';
    complete := true;
    FOR r IN SELECT u.members, u.owner::oid AS owner FROM sync.rule u WHERE u.members IS NOT NULL ORDER BY u.rule_id LOOP
        named := NULL;
        BEGIN
            named := sync.relations_of(r.members, r.owner);
            named := ARRAY(SELECT DISTINCT coalesce(p.relid, f.relid)::oid FROM unnest(named) AS f(relid)
                LEFT JOIN LATERAL pg_partition_tree(f.relid) p ON true);
            RAISE EXCEPTION 'enough';
        EXCEPTION WHEN lock_not_available THEN
            complete := false;
            relations := relations || coalesce(named, '{}');
            PERFORM set_config('lock_timeout', '1', true);
        WHEN OTHERS THEN
            relations := relations || coalesce(named, '{}');
        END;
    END LOOP;
    relations := ARRAY(SELECT DISTINCT f.relid FROM unnest(relations) AS f(relid));
END
$$;
COMMENT ON FUNCTION sync.members_read() IS
    'The relations that members name, with their partitions. complete: false where somebody holds a lock that keeps one from being looked at.';

CREATE FUNCTION sync.written(relations oid[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_stat_clear_snapshot();
    RETURN coalesce((SELECT sum(hashint8extended(pg_stat_get_tuples_inserted(r) + pg_stat_get_tuples_updated(r) + pg_stat_get_tuples_deleted(r),
        r::bigint + coalesce(pg_relation_filenode(r), 0)::bigint * 4294967296) % 1000000000000000) FROM unnest(relations) r), 0)::bigint;
END
$$;
COMMENT ON FUNCTION sync.written(oid[]) IS 'Another number once these relations were written to, or emptied, as far as Postgres has counted it.';

-- A payload holds 8,000 bytes. Of very many buckets it is only said that there are.
CREATE FUNCTION sync.tell(before text) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n record;
    channel text := sync.wake_channel();
    part uuid[];
BEGIN
    SELECT * INTO n FROM sync.changed_since(before);
    IF n.everyone OR cardinality(n.buckets) > 3000 THEN
        PERFORM pg_notify(channel, jsonb_build_object('head', n.head, 'everyone', true)::text);
        RETURN n.head;
    END IF;
    IF n.members THEN
        PERFORM pg_notify(channel, jsonb_build_object('head', n.head, 'members', true)::text);
    END IF;
    FOR at IN 1 .. cardinality(n.buckets) BY 150 LOOP
        part := n.buckets[at : at + 149];
        PERFORM pg_notify(channel, jsonb_build_object('head', n.head, 'buckets', to_jsonb(part))::text);
    END LOOP;
    RETURN n.head;
END
$$;
COMMENT ON FUNCTION sync.tell(text) IS 'Notifies those who listen of what changed since a head, and answers the next one. Called by the background worker, never by writers.';
