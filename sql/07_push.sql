-- Push: what its conflicts are decided by.

-- The last edit of one row that touched the columns in mask, as far as it matters; nothing if the log does not show it.
--
-- * Every bucket that the row is in has the same history of it, so the first that knows the row answers: push puts small ones first.
-- * Transaction ids do not tell which of two concurrent writers came last, but the snapshot kept with a batch does: whoever touched
--   the row before the batch had committed and is visible in it, whoever came after could not yet have.
-- * The log has no index by row. Looking stops at transactions that had ended before mine_at (a checkpoint tells), whose edits
--   cannot be later, and after 50,000 ops in any case (measured: about 15 ms). Only for what came after a batch of the device
--   itself it looks at everything, or that would be overwritten in silence.
CREATE FUNCTION sync.last_edit(buckets uuid[], entries integer[], row_key bytea, mask bigint, of_device uuid, mine_at bigint,
    OUT own boolean, OUT at bigint) RETURNS SETOF record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT integer := 50000;
    skew CONSTANT interval := '5 minutes';
    current_one CONSTANT xid8 := pg_current_xact_id();
    ended CONSTANT xid8 := coalesce((SELECT max(c.oldest) FROM sync.checkpoint c
        WHERE c.at < to_timestamp(greatest(mine_at, 0) / 1000000.0) - skew), '0');
    mine record;
    found_at bigint;
BEGIN
    FOR i IN 1 .. cardinality(buckets) LOOP
        IF EXISTS (SELECT FROM sync.op l WHERE l.bucket = buckets[i] AND l.xid = current_one
                AND l.entry = entries[i] AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0)) THEN
            RETURN QUERY SELECT true, mine_at;
            RETURN;
        END IF;
        FOR mine IN
            SELECT b.xid, b.snapshot FROM sync.batch b WHERE b.device = of_device AND b.verdict <> 'rejected' AND NOT b.repeats
            ORDER BY b.number DESC LIMIT 200
        LOOP
            CONTINUE WHEN NOT EXISTS (SELECT FROM sync.op l WHERE l.bucket = buckets[i] AND l.xid = mine.xid
                AND l.entry = entries[i] AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0));
            SELECT l.at INTO found_at
            FROM sync.op l
            WHERE l.bucket = buckets[i] AND l.xid >= pg_snapshot_xmin(mine.snapshot)
                AND l.xid <> mine.xid AND NOT pg_visible_in_snapshot(l.xid, mine.snapshot)
                AND l.entry = entries[i] AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0)
            ORDER BY l.xid DESC, l.op_id DESC LIMIT 1;
            RETURN QUERY SELECT NOT FOUND, found_at;
            RETURN;
        END LOOP;
        SELECT l.at INTO found_at
        FROM (SELECT o.* FROM sync.op o WHERE o.bucket = buckets[i] AND o.xid >= ended
            ORDER BY o.xid DESC, o.op_id DESC LIMIT most) l
        WHERE l.entry = entries[i] AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0)
        ORDER BY l.xid DESC, l.op_id DESC LIMIT 1;
        IF FOUND THEN
            RETURN QUERY SELECT false, found_at;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.last_edit(uuid[], integer[], bytea, bigint, uuid, bigint) IS
    'Whether a device itself made the last edit of some columns of a row, and when that edit was made. Called by push.';
