-- Devices, as people know them: listed, named, shut out and let in again.

CREATE VIEW sync.devices AS
SELECT device, name, user_id, registered, seen, last_number AS batches, revoked, revoked IS NOT NULL AND wipe AS told_to_wipe
FROM sync.device;
COMMENT ON VIEW sync.devices IS 'Devices that have pushed at least once: whose, since when, when they were last heard of, whether they were revoked.';

CREATE FUNCTION sync.name_device(device uuid, name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.device d SET name = nullif(name_device.name, '') WHERE d.device = name_device.device;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no device %: see sync.devices', device USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.name_device(uuid, text) IS 'What people call a device.';

CREATE FUNCTION sync.revoke_device(device uuid, wipe boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.device d SET revoked = coalesce(d.revoked, now()), wipe = coalesce(revoke_device.wipe, true), told = pg_current_xact_id()
    WHERE d.device = revoke_device.device;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no device %: see sync.devices', device USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.revoke_device(uuid, boolean) IS
    'Shuts a device out: nothing is sent to it and nothing taken from it any longer. Next time it asks it is told to remove everything that it has synced, unsent writes too, unless wipe is false.';

CREATE FUNCTION sync.admit_device(device uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sync.device d SET revoked = NULL, wipe = false, told = pg_current_xact_id() WHERE d.device = admit_device.device;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no device %: see sync.devices', device USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.admit_device(uuid) IS 'Takes sync.revoke_device() back, for a device that was not wiped yet.';
