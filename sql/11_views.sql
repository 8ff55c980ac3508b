-- What a person looks at.

CREATE VIEW sync.rules AS
SELECT r.name AS bucket, r.priority, r.members, e.relid AS "table", array_to_string(e.key, ', ') AS key, e.filter, t.columns,
    r.key_types, r.owner, e.state, e.problem, coalesce(e.rls, CASE WHEN k.relrowsecurity THEN 'not chosen: rules_decide' END) AS rls
FROM sync.rule r LEFT JOIN sync.entry e USING (rule_id) LEFT JOIN sync.synced_table t USING (relid) LEFT JOIN pg_class k ON k.oid = e.relid
ORDER BY r.priority, r.name, e.entry_id;
COMMENT ON VIEW sync.rules IS 'Every rule with its tables.';

CREATE VIEW sync.tables AS
SELECT t.relid AS "table", t.device_name, t.mode, t.upload, t.columns
FROM sync.synced_table t ORDER BY t.device_name;
COMMENT ON VIEW sync.tables IS 'Every table that devices know, and what they may do with it.';

CREATE VIEW sync.status AS
SELECT * FROM (VALUES
    ('rules', (SELECT count(*) FROM sync.rule)::text, ''),
    ('tables', (SELECT count(*) FROM sync.synced_table)::text, ''),
    ('sums not known yet', (SELECT count(*) FROM sync.entry WHERE state = 'building')::text, 'sync.maintain() makes them known'),
    ('came with a dump, not synced', (SELECT count(*) FROM sync.carried WHERE problem IS NOT NULL)::text,
        'see sync.carried, then call sync.maintain()'),
    ('broken entries', (SELECT count(*) FROM sync.entry WHERE state = 'broken')::text, 'see sync.rules'),
    ('row level security without a choice',
        (SELECT count(*) FROM sync.entry e JOIN pg_class k ON k.oid = e.relid WHERE e.rls IS NULL AND k.relrowsecurity)::text,
        'the rules decide until sync.set_rls() says otherwise: see sync.rules'),
    ('op log', pg_size_pretty(pg_total_relation_size('sync.op')), 'the changes of one lease'),
    ('lease', sync.lease()::text, 'setting sync.lease'),
    ('last maintained', coalesce((SELECT max(at) FROM sync.checkpoint)::text, 'never'), 'call sync.maintain() every few minutes'),
    ('background worker', CASE WHEN sync.worker_pid() IS NULL THEN 'none' WHEN current_setting('sync.worker', true)::boolean THEN 'runs' ELSE 'off' END,
        coalesce((SELECT 'its last visit failed: ' || problem FROM sync.visit), 'shared_preload_libraries, or sync.start_worker()')),
    ('oldest running transaction', coalesce((SELECT max(now() - xact_start) FROM pg_stat_activity WHERE backend_xid IS NOT NULL)::text, 'none'),
        'a long one holds back the log'),
    ('sums set right', (SELECT coalesce(sum(mended), 0) FROM sync.verified)::text,
        coalesce('last ' || (SELECT max(mended_at) FROM sync.verified)::text || ': rows were changed past the triggers', '')),
    ('tables to be compared', (SELECT count(*) FROM sync.verified WHERE at = '-infinity')::text, 'sync.maintain() compares one at a time'),
    ('devices', (SELECT count(*) FROM sync.device)::text, ''),
    ('conflicts', (SELECT count(*) FROM sync.conflict)::text, 'see sync.conflicts'),
    ('rejected batches', (SELECT count(*) FROM sync.batch WHERE verdict = 'rejected' AND content IS NOT NULL AND NOT repeats)::text, 'see sync.rejected')
) AS s (what, value, note);
COMMENT ON VIEW sync.status IS 'How things stand, for people.';

-- Rights: nothing to PUBLIC but asking who one is; pull, push and what to watch to sync_transport. sync_admin looks at everything, and changes rules
-- through functions only: what a trigger or a rule is made of is read back with the owner's rights, so nobody else may write it.
REVOKE ALL ON ALL TABLES IN SCHEMA sync FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sync FROM PUBLIC;
GRANT USAGE ON SCHEMA sync TO PUBLIC;
GRANT EXECUTE ON FUNCTION sync.user_id(), sync.claims(), sync.param(text), sync.device(), sync.batch_number(), sync.note(),
    sync.note_text() TO PUBLIC;
GRANT EXECUTE ON FUNCTION sync.authenticate(text), sync.put_did_document(jsonb), sync.pull(bytea), sync.push(bytea),
    sync.head(), sync.changed_since(text, integer), sync.my_buckets(bytea), sync.wake_channel() TO sync_transport;
GRANT SELECT ON ALL TABLES IN SCHEMA sync TO sync_admin;
REVOKE ALL ON sync.secret, sync.auth_key, sync.signing_key FROM sync_admin;
GRANT EXECUTE ON FUNCTION sync.add_auth_key(text, text, text, text, text, timestamptz, timestamptz), sync.retire_auth_key(uuid, timestamptz),
    sync.drop_auth_key(uuid), sync.load_jwks(jsonb, text, text), sync.accept_dids(text, text, text[], name), sync.refuse_dids(text, text),
    sync.make_signing_key(), sync.drop_signing_key(text), sync.name_device(uuid, text), sync.revoke_device(uuid, boolean), sync.admit_device(uuid) TO sync_admin;
GRANT EXECUTE ON FUNCTION sync.create_bucket(text, text, integer), sync.add_table(text, regclass, text, text, text[], text), sync.set_rls(text, regclass, text),
    sync.drop_table(text, regclass), sync.drop_bucket(text), sync.maintain(), sync.verify_table(regclass), sync.lease(), sync.set_mode(regclass, text),
    sync.add_upload_table(regclass, text[]), sync.drop_upload_table(regclass), sync.keys_per_lease(),
    sync.set_policy(regclass, text, text, regprocedure, jsonb), sync.drop_policy(regclass, text),
    sync.set_delete_policy(regclass, text), sync.set_encrypted(regclass, text) TO sync_admin;
GRANT EXECUTE ON FUNCTION sync.batch_json(bytea), sync.retry(uuid, bigint, jsonb), sync.discard(uuid, bigint),
    sync.discard_conflict(bigint), sync.keep_records(), sync.keep_devices(), sync.verify_every(), sync.start_worker(), sync.stop_worker(),
    sync.doctor(interval), sync.library_version() TO sync_admin;
GRANT EXECUTE ON FUNCTION sync.keep_history(regclass, interval), sync.drop_history(regclass), sync.history(regclass, text),
    sync.as_of(regclass, timestamptz), sync.restore_row(regclass, text, timestamptz), sync.restore_batch(uuid, bigint, boolean),
    sync.history_key(regclass, text), sync.key_condition(regclass, text), sync.current_row(regclass, jsonb),
    sync.check_reach(regclass, timestamptz), sync.row_at(regclass, jsonb, timestamptz), sync.restore_statements(regclass, jsonb),
    sync.batch_images(uuid, bigint), sync.constraint_test(regclass, text, oid) TO sync_admin;
GRANT EXECUTE ON FUNCTION sync.explain(regclass, text, jsonb), sync.audit(jsonb) TO sync_admin;
-- What the views above read.
GRANT EXECUTE ON FUNCTION sync.policies_of(oid[]), sync.home(), sync.fresh_key(regclass), sync.base_type(oid), sync.worker_pid(boolean),
    sync.worker_lock() TO sync_admin;
SELECT sync.remember_labels();
