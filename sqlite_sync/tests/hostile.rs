//! Bytes that are wrong in any way are refused with a sentence, and change nothing.

mod common;
use common::*;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use sync_shared::envelope;

fn refused(device: &Device, bytes: &[u8]) -> String {
    let before = device.dump();
    let error = device.apply_bytes(bytes).unwrap_err().to_string();
    assert_eq!(device.dump(), before, "{error}");
    error
}

#[test]
fn pages_that_contradict_themselves() {
    let device = Device::with(&[row(1, "a")]);
    let good = page(&[row(1, "b")]).publish();
    type Change = fn(&mut Delta);
    let wrong: [(&str, Change); 8] = [
        ("table tag", |d| d.changes[0].table = 1),
        ("bucket 5", |d| d.changes[0].bucket = 5),
        ("bucket 9", |d| d.whole.push(9)),
        ("do not fit", |d| d.changes[0].row_count = 0),
        ("cut short", |d| d.changes[0].row_count = u32::MAX),
        ("cut short", |d| d.changes[0].gone_count = 1),
        ("is not a value", |d| d.changes[0].rows = ByteBuf::from(vec![0xc1; 4])),
        ("a key", |d| d.changes[0].rows = ByteBuf::from(vec![0xc0; 4])),
    ];
    for (say, change) in wrong {
        let mut delta = good.0.clone();
        change(&mut delta);
        let error = refused(&device, &envelope::encode(&delta).unwrap());
        assert!(error.contains(say), "{error}");
    }
    device.apply(&good);
}

#[test]
fn messages_of_the_wrong_kind_and_no_messages() {
    let device = Device::with(&[row(1, "a")]);
    let request = envelope::encode(&device.request()).unwrap();
    assert!(refused(&device, &request).contains("pull request"));
    for bytes in [&b""[..], b"SY", b"hello world, this is not one", &[0; 100]] {
        refused(&device, bytes);
    }
    for sql in [
        "SELECT apply_delta(NULL)",
        "SELECT apply_delta(1)",
        "SELECT apply_delta('SY')",
        "SELECT sync_sign_out('x')",
        "SELECT sync_subscribe('a', '[]')",
    ] {
        assert!(device.db.query_row(sql, [], |r| r.get::<_, Option<String>>(0)).is_err(), "{sql}");
    }
}

#[test]
fn on_an_empty_database() {
    let device = Device::new();
    assert!(device.push_request().is_none());
    assert!(device.db.query_row("SELECT sync_verify()", [], |r| r.get::<_, String>(0)).is_err());
    refused(&device, &page(&[row(1, "a")]).publish().bytes());
    assert_eq!(device.number("SELECT count(*) FROM sqlite_schema"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn changed_and_cut_messages_never_crash(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut in any::<u16>()) {
        let device = Device::with(&[row(1, "a")]);
        for message in [page(&[row(1, "b"), row(2, "c")]).with_schema().publish().bytes(), envelope::encode(&notice(NoticeKind::Verified, vec![bucket("all").id])).unwrap(), envelope::encode(&reply(&[], Verdict::Accepted)).unwrap()] {
            let mut bytes = message.clone();
            for (at, value) in &changes {
                let at = 9 + usize::from(*at) % (bytes.len() - 9);
                bytes[at] = *value;
            }
            let before = device.dump();
            if device.apply_bytes(&bytes).is_err() {
                prop_assert_eq!(device.dump(), before);
            }
            refused(&device, &message[..usize::from(cut) % message.len()]);
        }
        prop_assert!(device.db.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap() == "ok");
    }
}
