//! GeoNames places: one table, one bucket for each country, and who may hold which.

use postgres::Client;
use std::io::Write;
use sync_tests::compare::server_rows;
use sync_tests::Device;

/// Used when no registry can be reached for the whole set.
const SAMPLE: &str = include_str!("sample.csv");

const TABLES: &str = "
    CREATE TABLE places (
        id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        lat      double precision NOT NULL,
        lon      double precision NOT NULL,
        name     text NOT NULL,
        region   text,
        district text,
        country  text NOT NULL
    );
    CREATE TABLE entitlements (profile_id uuid, country text, PRIMARY KEY (profile_id, country));
";

const RULES: &str = "
    SELECT sync.create_bucket('country', priority => 10, members =>
        'SELECT country FROM entitlements WHERE profile_id = me()');
    SELECT sync.add_table('country', 'places', key => 'country');
";

/// Creates, fills and adds the table. Returns the number of places.
pub fn install(server: &mut Client, file: Option<&str>) -> u64 {
    let found = file.and_then(|path| std::fs::read_to_string(path).ok());
    if found.is_none() {
        println!("  (no package registry could be reached: these are the few places built in, not the 144,000)");
    }
    server.batch_execute(TABLES).expect("tables for places");
    let copy = "COPY places (lat, lon, name, region, district, country) FROM STDIN (FORMAT csv, HEADER, FORCE_NOT_NULL (name))";
    let mut writer = server.copy_in(copy).expect("COPY begins");
    writer.write_all(found.as_deref().unwrap_or(SAMPLE).as_bytes()).expect("COPY takes the file");
    let count = writer.finish().expect("COPY ends");
    server.batch_execute("CREATE INDEX ON places (country, id); ANALYZE places").expect("an index");
    let entitlements = format!(
        "INSERT INTO entitlements SELECT '{}', unnest('{{US,MX,CA,BR,CH}}'::text[]);
         INSERT INTO entitlements SELECT '{}', unnest('{{DE,FR,IT,ES,GB,CH}}'::text[])",
        crate::ANN,
        crate::BOB
    );
    server.batch_execute(&entitlements).expect("entitlements");
    server.batch_execute(RULES).expect("rules for places");
    count
}

/// One country more for Ann, and one less.
pub fn change_entitlements(server: &mut Client) {
    let change = format!(
        "INSERT INTO entitlements VALUES ('{0}', 'JP'); DELETE FROM entitlements WHERE profile_id = '{0}' AND country = 'MX'",
        crate::ANN
    );
    server.batch_execute(&change).expect("entitlements change");
}

/// Compares every value that the device holds with what the user is entitled to.
pub fn check(device: &Device, user: &str, server: &mut Client) -> bool {
    let columns = "id, name, region, district, country";
    let mut have = device.rows(&format!("SELECT {columns} FROM places ORDER BY id"));
    let query = format!(
        "SELECT {columns} FROM places WHERE country IN (SELECT country FROM entitlements WHERE profile_id = '{user}') ORDER BY id"
    );
    let want = server_rows(server, &query);
    have.sort_by_key(|row| row[0].parse::<i64>().ok());
    have == want
}
