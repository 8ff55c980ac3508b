//! Two devices of two users who hold the same rows.

use postgres::Client;
use sync_tests::compare::{assert_same, assert_verified, server_rows};
use sync_tests::{Cluster, Database, Device};

pub struct Pair {
    /// Dropped with the pair.
    _db: Database<'static>,
    pub server: Client,
    pub ann: Device,
    pub bob: Device,
}

impl Pair {
    /// `sql` makes the table `note` and its policies; everybody gets all of it.
    pub fn new(sql: &str) -> Pair {
        let db = Cluster::shared().database();
        db.run(sql);
        db.run("SELECT sync.create_bucket('all'); SELECT sync.add_table('all', 'note')");
        let server = db.connect();
        let mut pair = Pair { _db: db, server, ann: Device::new("ann"), bob: Device::new("bob") };
        pair.sync();
        pair
    }

    /// Ann first, so what Bob wrote meets what she wrote; in the end both have seen everything.
    pub fn sync(&mut self) {
        for device in [&self.ann, &self.bob, &self.ann] {
            device.sync(&mut self.server);
        }
    }

    /// Each writes offline, Bob a little later, then both sync. Fails unless both devices and the server then hold the same.
    #[track_caller]
    pub fn write(&mut self, ann: &str, bob: &str) {
        self.ann.run(ann);
        // A device's plain SQL reads its clock to the millisecond; the edits must differ.
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.bob.run(bob);
        self.sync();
        self.check("*");
    }

    /// Fails unless both devices hold what the server has; `columns` are what both sides write alike.
    #[track_caller]
    pub fn check(&mut self, columns: &str) {
        for device in [&self.ann, &self.bob] {
            assert_same(device, &mut self.server, &format!("SELECT {columns} FROM note"));
            assert_verified(device);
            assert_eq!(device.value("SELECT count(*) FROM sync_pending"), "0");
        }
    }

    /// What the server has.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        server_rows(&mut self.server, sql)
    }

    /// Policy and column of what was recorded, in order.
    pub fn recorded(&mut self) -> Vec<Vec<String>> {
        self.rows("SELECT policy, column_name FROM sync.conflict ORDER BY conflict_id")
    }
}
