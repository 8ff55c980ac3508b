//! PostgREST, and Supabase's API which is one: functions called by name, bytes in and out. A stand-in does what they do to the
//! session: log in as `authenticator`, begin, take the token's role, set the claims, call, commit.

use postgres::Client;
use serde_json::{json, Value as Json};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use sync_tests::cluster::describe;
use sync_tests::gateway::{ask, read, signed, Reply};
use sync_tests::{Cluster, Device};

const SECRET: &str = "the secret that signs tokens of this project";

/// docs/transports.md: what an administrator runs once, with the roles as a self-hosted Supabase has them.
const RECIPE: &str = "
    GRANT sync_transport TO authenticator;
    GRANT EXECUTE ON FUNCTION sync.pull(bytea), sync.push(bytea) TO authenticated;
    CREATE FUNCTION public.sync_pull(bytea) RETURNS bytea LANGUAGE sql STABLE AS 'SELECT sync.pull($1)';
    CREATE FUNCTION public.sync_push(bytea) RETURNS bytea LANGUAGE sql VOLATILE AS 'SELECT sync.push($1)';
    REVOKE EXECUTE ON FUNCTION public.sync_pull(bytea), public.sync_push(bytea) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION public.sync_pull(bytea), public.sync_push(bytea) TO authenticated;";

/// `POST /rpc/NAME` with a body of `application/octet-stream`, one after the other.
fn stand_in(mut client: Client) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let Ok(request) = read(&mut stream) else { continue };
            let (status, body) = serve(&mut client, &request);
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _gone = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

fn serve(client: &mut Client, request: &Reply) -> (u16, Vec<u8>) {
    let name = request.head.split(' ').nth(1).and_then(|path| path.strip_prefix("/rpc/")).unwrap_or_default();
    let token = request.head.lines().find_map(|l| l.strip_prefix("Authorization: Bearer ")).unwrap_or_default();
    let claims = if token.is_empty() { json!({ "role": "anon" }) } else { verified(token) };
    if claims.is_null() {
        return (401, b"JWSError JWSInvalidSignature".to_vec());
    }
    match call(client, name, &claims, &request.body) {
        Ok(bytes) => (200, bytes),
        Err(e) => (if e.starts_with("42501") { 403 } else { 400 }, e.into_bytes()),
    }
}

fn verified(token: &str) -> Json {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (at, letter) in payload.bytes().enumerate() {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".iter().position(|l| *l == letter);
        bits = bits << 6 | value.unwrap_or(0) as u32;
        if at % 4 > 0 {
            bytes.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    let claims: Json = serde_json::from_slice(&bytes).unwrap_or_default();
    if signed(&claims, SECRET) == token {
        claims
    } else {
        Json::Null
    }
}

/// As PostgREST: a function that is not volatile runs in a transaction that can only read.
fn call(client: &mut Client, name: &str, claims: &Json, body: &[u8]) -> Result<Vec<u8>, String> {
    let said = |e: postgres::Error| describe(&e);
    let row = client.query_opt(
        "SELECT provolatile <> 'v' FROM pg_proc WHERE proname = $1 AND pronamespace = 'public'::regnamespace",
        &[&name],
    );
    let only_reads: bool = row.map_err(said)?.ok_or("PGRST202 there is no such function")?.get(0);
    let role = claims["role"].as_str().ok_or("no role")?;
    let mut transaction = client.build_transaction().read_only(only_reads).start().map_err(said)?;
    let settings = "SELECT set_config('search_path', 'public', true), set_config('role', $1, true), set_config('request.jwt.claims', $2, true),
        set_config('request.method', 'POST', true), set_config('request.path', '/rpc/' || $3, true)";
    transaction.execute(settings, &[&role, &claims.to_string(), &name]).map_err(said)?;
    let answer = transaction.query_one(&format!("SELECT public.{name}($1)"), &[&body]).map_err(said)?.get(0);
    transaction.commit().map_err(said)?;
    Ok(answer)
}

#[test]
fn devices_sync_through_postgrest_with_the_roles_of_supabase() {
    // Roles are of the whole cluster, so it is one of its own.
    let cluster = Cluster::start("");
    let db = cluster.database();
    db.run(
        "CREATE ROLE anon NOLOGIN NOINHERIT; CREATE ROLE authenticated NOLOGIN NOINHERIT; CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
         CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated, service_role TO authenticator;
         CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, body text);
         ALTER TABLE note ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON note TO authenticated USING (owner = current_setting('request.jwt.claims')::json ->> 'sub');
         GRANT ALL ON note TO anon, authenticated, service_role;
         CREATE INDEX ON note (owner, id)",
    );
    db.run("SELECT sync.create_bucket('own', members => 'SELECT sync.user_id()'); SELECT sync.add_table('own', 'note', key => 'owner', rls => 'rules_decide')");
    db.run(RECIPE);
    let address = stand_in(db.connect_as("authenticator"));
    let rpc = |name: &str, token: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        ask(&mut stream, "POST", &format!("/rpc/{name}"), token, body).expect("an answer")
    };
    let token = |role: &str, user: &str| signed(&json!({ "sub": user, "role": role, "aud": "authenticated" }), SECRET);
    let sync = |device: &Device, token: &str| -> Result<(), String> {
        while let Some(batches) = device.pending_ops() {
            device.apply(&rpc("sync_push", token, &batches).content()?)?;
        }
        while device.apply(&rpc("sync_pull", token, &device.pull_request()).content()?)?.more() {}
        Ok(())
    };
    db.run("INSERT INTO note (owner, body) VALUES ('ann', 'hers'), ('bob', 'his')");
    let (device, ann) = (Device::new("ann"), token("authenticated", "ann"));
    sync(&device, &ann).expect("a sync");
    assert_eq!(device.value("SELECT group_concat(body) FROM note"), "hers");
    device.run("INSERT INTO note (owner, body) VALUES ('ann', 'new'); INSERT INTO note (owner, body) VALUES ('bob', 'forged')");
    sync(&device, &ann).expect("a sync");
    assert_eq!(device.value("SELECT count(*) FROM note"), "2");
    assert_eq!(device.value("SELECT code FROM sync_rejected"), "42501", "row level security decides");
    assert_eq!(db.connect().query_one("SELECT count(*) FROM note", &[]).expect("a count").get::<_, i64>(0), 3);
    // Who has no token, or forged one, gets nothing.
    let request = device.pull_request();
    assert_eq!(rpc("sync_pull", "", &request).status, 403);
    assert_eq!(
        rpc("sync_pull", &signed(&json!({ "sub": "bob", "role": "authenticated" }), "another secret"), &request).status,
        401
    );
    // The service's own key is nobody's device.
    let service = signed(&json!({ "role": "service_role" }), SECRET);
    assert_eq!(rpc("sync_pull", &service, &request).status, 403);
    // Without the membership the claims are not believed, and nobody becomes another.
    db.run("REVOKE sync_transport FROM authenticator");
    let stranger = Device::new("ann");
    sync(&stranger, &ann).expect("a sync");
    assert_eq!(stranger.value("SELECT count(*) FROM note"), "0");
}
