//! The tables most tests use: items in lists, and who may hold which list.

use postgres::Client;
use sync_tests::compare::{assert_alike, assert_verified};
use sync_tests::{Cluster, Database, Device};

const TABLES: &str = "
    CREATE TABLE reader (name text, list int, PRIMARY KEY (name, list));
    CREATE TABLE item (id int PRIMARY KEY, list int, body text, hidden boolean NOT NULL DEFAULT false);
    CREATE INDEX ON item (list, id);
    INSERT INTO reader VALUES ('ann', 1), ('ann', 2), ('bob', 2), ('bob', 3);
    SELECT sync.create_bucket('list', members => 'SELECT list FROM reader WHERE name = sync.user_id()');
    SELECT sync.add_table('list', 'item', key => 'list', filter => 'NOT hidden');
";

/// A server and the devices of two users who share one list of three.
pub struct Lists {
    pub db: Database<'static>,
    pub server: Client,
    pub ann: Device,
    pub bob: Device,
}

impl Lists {
    pub fn new() -> Lists {
        Lists::on(Cluster::shared())
    }

    pub fn on(cluster: &'static Cluster) -> Lists {
        let db = cluster.database();
        db.run(TABLES);
        let server = db.connect();
        let mut lists = Lists { db, server, ann: Device::new("ann"), bob: Device::new("bob") };
        lists.run("INSERT INTO item SELECT i, i % 3 + 1, 'item ' || i FROM generate_series(1, 30) i");
        lists.sync();
        lists
    }

    /// Runs statements on the server.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        if let Err(e) = self.server.batch_execute(sql) {
            panic!("{}\nin: {sql}", sync_tests::cluster::describe(&e));
        }
    }

    /// Both devices sync twice: the second time shows what the first one wrote.
    pub fn sync(&mut self) {
        for device in [&self.ann, &self.bob, &self.ann] {
            device.sync(&mut self.server);
        }
    }

    /// Syncs, then fails unless each device holds exactly the rows it is entitled to, with the right sums.
    #[track_caller]
    pub fn check(&mut self) {
        self.sync();
        self.check_as_it_is();
    }

    /// Runs statements on the server, then [`Lists::check`].
    #[track_caller]
    pub fn run_and_check(&mut self, sql: &str) {
        self.run(sql);
        self.check();
    }

    /// Fails unless each device holds exactly the rows it is entitled to.
    #[track_caller]
    pub fn check_as_it_is(&mut self) {
        for device in [&self.ann, &self.bob] {
            let entitled = format!(
                "SELECT id, list, body, hidden::int FROM item
                 WHERE NOT hidden AND list IN (SELECT list FROM reader WHERE name = '{}')",
                device.user.id
            );
            assert_alike(device, "SELECT id, list, body, hidden FROM item", &mut self.server, &entitled);
            assert_verified(device);
        }
    }
}
