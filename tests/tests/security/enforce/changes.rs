//! What changes, between the pages of a pull or between pulls, is what a device has in the end.

use super::*;

#[test]
fn what_changes_between_pages_is_what_a_device_has_in_the_end() {
    for before in 0..6 {
        let mut folders = Folders::new("enforce");
        folders.db.run(
            "INSERT INTO doc SELECT i, 1 + i % 4, repeat(md5(i::text), 10) FROM generate_series(1001, 1800) i;
             INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 1800) i WHERE i % 4 > 0",
        );
        let (known, fresh) = (folders.device("ann"), folders.device("ann"));
        known.sync(&mut folders.server);
        for device in [&known, &fresh] {
            device.pull_request();
            device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        }
        folders.db.run("UPDATE doc SET body = body || 'x'; INSERT INTO allowed SELECT id, 'ann' FROM doc WHERE id % 16 = 0 ON CONFLICT DO NOTHING");
        let pages = |folders: &mut Folders, device: &Device, count: usize| {
            for _ in 0..count {
                let reply = server_pull(&mut folders.server, &device.user, &device.pull_request()).expect("a page");
                device.apply(&reply).expect("a page is applied");
            }
        };
        for device in [&known, &fresh] {
            pages(&mut folders, device, before);
        }
        folders.db.run("DELETE FROM allowed WHERE doc % 7 = 0; UPDATE doc SET folder = folder % 4 + 1 WHERE id % 11 = 0; DELETE FROM doc WHERE id % 13 = 0");
        for device in [&known, &fresh] {
            pages(&mut folders, device, 1);
        }
        folders.db.run("INSERT INTO allowed SELECT id, 'ann' FROM doc WHERE id % 14 = 0 ON CONFLICT DO NOTHING; UPDATE doc SET body = 'y' WHERE id % 17 = 0");
        for device in [&known, &fresh] {
            device.sync(&mut folders.server);
            folders.check(device);
        }
    }
}

#[test]
fn a_bucket_that_is_lost_and_comes_back_between_pages_is_whole() {
    for before in 1..5 {
        let mut folders = Folders::new("enforce");
        folders.db.run(
            "CREATE TABLE member (k int PRIMARY KEY); INSERT INTO member VALUES (1), (2), (3);
             INSERT INTO doc SELECT i, 1 + i % 3, repeat(md5(i::text), 10) FROM generate_series(1001, 1600) i;
             INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 1600) i WHERE i % 4 > 0;
             SELECT sync.drop_bucket('folder'); SELECT sync.create_bucket('folder', members => 'SELECT k FROM member')",
        );
        folders.db.run("SELECT sync.add_table('folder', 'doc', key => 'folder', rls => 'enforce')");
        let device = folders.device("ann");
        device.sync(&mut folders.server);
        device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
        folders.db.run("UPDATE doc SET body = body || 'x'");
        for (change, count) in [
            ("SELECT 1", before),
            ("DELETE FROM member", 1),
            ("INSERT INTO member VALUES (1), (2), (3)", 1),
            ("DELETE FROM member WHERE k = 2", 1),
        ] {
            folders.db.run(change);
            for _ in 0..count {
                let reply = server_pull(&mut folders.server, &device.user, &device.pull_request()).expect("a page");
                device.apply(&reply).expect("a page is applied");
            }
        }
        folders.db.run("INSERT INTO member VALUES (2); UPDATE doc SET body = body || 'y' WHERE id % 5 = 0; DELETE FROM allowed WHERE doc % 3 = 0");
        device.sync(&mut folders.server);
        folders.check(&device);
    }
}

#[test]
fn random_changes_of_rows_and_of_what_is_seen() {
    let mut folders = Folders::new("enforce");
    folders.db.run("SELECT sync.create_bucket('some', priority => 3)");
    folders.db.run("SELECT sync.add_table('some', 'doc', filter => 'folder = 1', rls => 'enforce')");
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_130);
    let mut random = fastrand::Rng::with_seed(seed);
    let devices = ["ann", "ann", "bob"].map(|user| folders.device(user));
    for device in &devices {
        device.pull_request();
        device.run("UPDATE sync_setting SET value = 16384 WHERE name = 'page_bytes'");
    }
    for round in 0..60 {
        let (one, other) = (random.u32(1..40), random.u32(40..400));
        let sql = match random.u32(0..9) {
            0 => format!("INSERT INTO doc SELECT i, 1 + i % 4, repeat(md5(i::text), {}) FROM generate_series({one}, {other}) i ON CONFLICT DO NOTHING", random.u32(1..8)),
            1 => format!("DELETE FROM doc WHERE id % {one} = 0"),
            2 => format!("UPDATE doc SET body = 'b{round}' WHERE id % {one} = 0"),
            3 => format!("UPDATE doc SET folder = (folder + {one}) % 4 + 1 WHERE id < {other}"),
            4 => format!("DELETE FROM allowed WHERE doc % {one} = 0"),
            5 => format!("INSERT INTO allowed SELECT i, 'ann' FROM generate_series({one}, {other}) i ON CONFLICT DO NOTHING"),
            6 => format!("INSERT INTO allowed SELECT i, 'bob' FROM generate_series(1, {other}) i WHERE i % 3 = 0 ON CONFLICT DO NOTHING"),
            7 => "SELECT sync.maintain()".to_owned(),
            _ => format!("UPDATE doc SET id = id + 1000 WHERE id % {one} = 1 AND id < 400 AND NOT EXISTS (SELECT FROM doc d WHERE d.id = doc.id + 1000)"),
        };
        folders.db.run(&sql);
        let device = &devices[random.usize(0..3)];
        match random.u32(0..4) {
            0 => {
                let reply = server_pull(&mut folders.server, &device.user, &device.pull_request()).expect("a page");
                device.apply(&reply).unwrap_or_else(|e| panic!("SEED={seed} round {round}: {e}"));
            }
            1 => {
                let _ = device.try_run(&format!("UPDATE doc SET body = 'd{round}' WHERE id % {one} = 0"));
                device.sync(&mut folders.server);
            }
            2 => device.run("UPDATE sync_meta SET value = value - 86400000000 WHERE name = 'verified_at'"),
            _ => {
                device.sync(&mut folders.server);
                eprintln!("SEED={seed} round {round}");
                folders.check(device);
            }
        }
    }
    for device in &devices {
        device.sync(&mut folders.server);
        device.sync(&mut folders.server);
        folders.check(device);
    }
}

#[test]
fn after_the_lease_only_what_differs_comes() {
    let mut folders = Folders::new("enforce");
    folders.db.run("INSERT INTO doc SELECT i, 1, 'body' FROM generate_series(1001, 3000) i; INSERT INTO allowed SELECT i, 'ann' FROM generate_series(1001, 3000) i");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    folders.db.run("UPDATE doc SET body = 'changed' WHERE id = 1500; DELETE FROM allowed WHERE doc = 1600");
    device.run("UPDATE sync_meta SET value = x'' WHERE name = 'cursor'; INSERT INTO sync_meta (name, value) VALUES ('resync', 1) ON CONFLICT DO UPDATE SET value = 1");
    let rows: u64 = device.pull(&mut folders.server).iter().map(|a| a.rows()).sum();
    assert!(rows > 0 && rows < 500, "{rows}");
    folders.check(&device);
}

#[test]
fn a_choice_that_changes_changes_what_devices_hold() {
    let mut folders = Folders::new("rules_decide");
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "30");
    folders.after(&device, "SELECT sync.set_rls('folder', 'doc', 'enforce')");
    assert_eq!(device.value("SELECT count(*) FROM doc"), "20");
    // It outlives what gives the entry another number.
    folders.db.run("ALTER TABLE doc ALTER body TYPE varchar(100)");
    assert_eq!(server_rows(&mut folders.server, "SELECT rls FROM sync.rules"), [["enforce"]]);
    folders.after(&device, "SELECT sync.maintain()");
    folders.db.run("SELECT sync.set_rls('folder', 'doc', 'rules_decide'); SELECT sync.maintain()");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "30");
    assert_verified(&device);
}

#[test]
fn what_another_rule_hands_out_is_not_hidden_and_explain_says_so() {
    let mut folders = Folders::new("enforce");
    folders.db.run(
        "SELECT sync.create_bucket('news'); SELECT sync.add_table('news', 'doc', filter => 'id = 25', rls => 'rules_decide')",
    );
    let device = folders.device("ann");
    device.sync(&mut folders.server);
    assert_eq!(device.value("SELECT count(*) FROM doc"), "21");
    let role = folders.role.clone();
    let mut said = |id: u32, claims: &str| {
        let sql = format!("SELECT bucket, verdict, reason FROM sync.explain('doc', '{id}', '{claims}') ORDER BY bucket");
        server_rows(&mut folders.server, &sql)
    };
    let ann = format!(r#"{{"sub": "ann", "role": "{role}"}}"#);
    let hidden = format!("row level security hides it from role \"{role}\" with these claims (rls => 'enforce')");
    assert_eq!(said(25, &ann)[0], ["folder", "not held", hidden.as_str()]);
    assert_eq!(said(25, &ann)[1][..2], ["news", "held"]);
    let shown = format!("the user is a member of this bucket, and the policies show the row to role \"{role}\"");
    assert_eq!(said(1, &ann)[0], ["folder", "held", shown.as_str()]);
    assert_eq!(said(1, r#"{"sub": "ann"}"#)[0][1], "depends");
    // The audit lists what is handed out against the policies, and nothing that is held back.
    let audit = format!("SELECT bucket, key, kind FROM sync.audit('{ann}')");
    assert_eq!(server_rows(&mut folders.server, &audit), [["news", "{\"id\": 25}", "only by rules"]]);
}
