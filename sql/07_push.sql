-- Push: what its conflicts are decided by.

-- The last edit of one row that touched the columns in mask, as far as the log reaches back; nothing if it does not.
--
-- Transaction ids do not tell which of two concurrent writers came last, but the snapshot kept with a batch does: whoever
-- touched the row before the batch had committed and is visible in it, whoever came after could not yet have.
CREATE FUNCTION sync.last_edit(buckets uuid[], entries integer[], row_key bytea, mask bigint, of_device uuid,
    OUT own boolean, OUT at bigint) RETURNS SETOF record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    current_one CONSTANT xid8 := pg_current_xact_id();
    newest record;
    mine record;
    later record;
BEGIN
    -- One probe per bucket, backwards through the index until the row is met.
    SELECT o.xid, o.at INTO newest
    FROM unnest(buckets, entries) AS p (bucket, entry)
    CROSS JOIN LATERAL (
        SELECT l.xid, l.op_id, l.at FROM sync.op l
        WHERE l.bucket = p.bucket AND l.entry = p.entry AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0)
        ORDER BY l.xid DESC, l.op_id DESC LIMIT 1) o
    ORDER BY o.xid DESC, o.op_id DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF newest.xid = current_one OR EXISTS (
        SELECT FROM unnest(buckets, entries) AS p (bucket, entry) JOIN sync.op l ON l.bucket = p.bucket AND l.xid = current_one
        WHERE l.entry = p.entry AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0)) THEN
        RETURN QUERY SELECT true, newest.at;
        RETURN;
    END IF;
    SELECT b.xid, b.snapshot INTO mine
    FROM (SELECT * FROM sync.batch x WHERE x.device = of_device ORDER BY x.number DESC LIMIT 200) b
    WHERE b.verdict <> 'rejected' AND NOT b.repeats
        AND (b.xid = newest.xid OR b.xid < newest.xid AND pg_visible_in_snapshot(newest.xid, b.snapshot))
        AND EXISTS (SELECT FROM unnest(buckets, entries) AS p (bucket, entry) JOIN sync.op l ON l.bucket = p.bucket AND l.xid = b.xid
            WHERE l.entry = p.entry AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0))
    ORDER BY b.number DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, newest.at;
        RETURN;
    END IF;
    SELECT l.at INTO later
    FROM unnest(buckets, entries) AS p (bucket, entry) JOIN sync.op l ON l.bucket = p.bucket
    WHERE l.xid >= pg_snapshot_xmin(mine.snapshot) AND l.xid <> mine.xid AND NOT pg_visible_in_snapshot(l.xid, mine.snapshot)
        AND l.entry = p.entry AND l.key = row_key AND (l.changed = -1 OR l.changed & mask <> 0)
    ORDER BY l.xid DESC, l.op_id DESC LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT false, later.at;
    ELSE
        RETURN QUERY SELECT true, newest.at;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.last_edit(uuid[], integer[], bytea, bigint, uuid) IS
    'Whether a device itself made the last edit of some columns of a row, and when that edit was made. Called by push.';
