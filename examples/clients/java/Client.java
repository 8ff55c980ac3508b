// A whole client in Java: the SQLite JDBC driver on the device, java.net.http to the gateway.
//
//     java -cp sqlite-jdbc.jar Client.java phone.db laptop.db

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.Iterator;
import java.util.stream.Stream;
import org.sqlite.SQLiteConfig;

public class Client {
    static final String SHOW = """
        SELECT iif(done, '[x] ', '[ ] ') || body FROM task
        UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
        UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected""";

    static void show(String title, Device device) throws SQLException {
        System.out.println(title);
        try (var statement = device.db.createStatement(); var rows = statement.executeQuery(SHOW)) {
            while (rows.next()) System.out.println("  " + rows.getString(1));
        }
    }

    static void run(Device device, String sql) throws SQLException {
        try (var statement = device.db.createStatement()) {
            statement.executeUpdate(sql);
        }
    }

    public static void main(String[] files) throws Exception {
        try (var phone = new Device(files[0]); var laptop = new Device(files[1])) {
            phone.sync();
            laptop.sync();
            show("after the first sync", phone);

            // Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
            run(phone, "INSERT INTO task (list_id, body) SELECT id, 'from java' FROM list");
            run(phone, "UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'");
            run(phone, "INSERT INTO task (list_id, body) SELECT id, '' FROM list");
            show("offline", phone);

            // A moment later the same row changes elsewhere, and the later edit counts.
            Thread.sleep(10);
            run(laptop, "UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'");
            laptop.sync();
            phone.sync();
            show("online again", phone);

            // Live: the phone waits, the laptop writes.
            try (var events = phone.events()) {
                phone.sync();
                run(laptop, "INSERT INTO task (list_id, body) SELECT id, 'live from java' FROM list");
                laptop.sync();
                Iterator<String> lines = events.iterator();
                while (phone.value("SELECT id FROM task WHERE body LIKE 'live %'", null) == null) {
                    if (lines.next().startsWith("data:")) phone.sync();
                }
            }
            show("live", phone);
        }
    }
}

// sync: begin

class Device implements AutoCloseable {
    private static final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    final Connection db;

    Device(String path) throws SQLException {
        var config = new SQLiteConfig();
        config.enableLoadExtension(true);
        db = config.createConnection("jdbc:sqlite:" + path);
        try (var load = db.prepareStatement("SELECT load_extension(?)")) {
            load.setString(1, System.getenv("SYNC_LIBRARY"));
            load.execute();
        }
    }

    /** POST /sync/pull or /sync/push with a message, or GET /sync/events without; bytes go there and come back. */
    private static <T> T request(String path, byte[] message, HttpResponse.BodyHandler<T> read) throws IOException, InterruptedException {
        var body = message == null ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofByteArray(message);
        var request = HttpRequest.newBuilder(URI.create(System.getenv("SYNC_URL") + "/" + path))
            .header("Authorization", "Bearer " + System.getenv("SYNC_TOKEN")).header("Content-Type", "application/octet-stream")
            .method(message == null ? "GET" : "POST", body).build();
        var response = http.send(request, read);
        if (response.statusCode() != 200) throw new IOException(path + ": HTTP " + response.statusCode());
        return response.body();
    }

    byte[] value(String sql, byte[] parameter) throws SQLException {
        try (var statement = db.prepareStatement(sql)) {
            if (parameter != null) statement.setBytes(1, parameter);
            var rows = statement.executeQuery();
            return rows.next() ? rows.getBytes(1) : null;
        }
    }

    /** Sends a message and applies the answer. Answers whether there is more to come. */
    private boolean exchange(String path, byte[] message) throws Exception {
        byte[] answer = request(path, message, HttpResponse.BodyHandlers.ofByteArray());
        return value("SELECT apply_delta(?) ->> 'more'", answer)[0] == '1';
    }

    void sync() throws Exception {
        for (byte[] batches; (batches = value("SELECT pending_ops()", null)) != null; ) exchange("push", batches);
        while (exchange("pull", value("SELECT pull_request()", null)));
    }

    /** What the server says from now on: a line that begins with "data:" means that something has changed. */
    Stream<String> events() throws Exception {
        return request("events", null, HttpResponse.BodyHandlers.ofLines());
    }

    @Override public void close() throws SQLException {
        db.close();
    }
}

// sync: end
