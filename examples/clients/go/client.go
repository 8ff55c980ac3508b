// A whole client in Go: go-sqlite3 on the device, net/http to the gateway.
//
//	go run client.go phone.db laptop.db
package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
)

// sync: begin

type Device struct{ *sql.DB }

func open(path string) Device {
	db, err := sql.Open("sqlite3_sync", path)
	check(err)
	return Device{db}
}

// request is POST /sync/pull or /sync/push with a message, or GET /sync/events; bytes go there and come back.
func request(method, path string, message []byte) (io.ReadCloser, error) {
	request, err := http.NewRequest(method, os.Getenv("SYNC_URL")+"/"+path, bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("SYNC_TOKEN"))
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := http.DefaultClient.Do(request)
	if err == nil && response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("%s: %s: %s", path, response.Status, why)
	}
	return response.Body, err
}

// exchange sends a message and applies the answer, and says whether there is more to come.
func (d Device) exchange(path string, message []byte) (more bool, err error) {
	body, err := request("POST", path, message)
	if err != nil {
		return false, err
	}
	defer body.Close()
	answer, err := io.ReadAll(body)
	if err != nil {
		return false, err
	}
	err = d.QueryRow("SELECT apply_delta(?) ->> 'more'", answer).Scan(&more)
	return more, err
}

func (d Device) sync() error {
	for {
		var message []byte
		if err := d.QueryRow("SELECT pending_ops()").Scan(&message); err != nil {
			return err
		}
		if message == nil {
			break
		}
		if _, err := d.exchange("push", message); err != nil {
			return err
		}
	}
	for more := true; more; {
		var message []byte
		err := d.QueryRow("SELECT pull_request()").Scan(&message)
		if err == nil {
			more, err = d.exchange("pull", message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sync: end

const show = `
	SELECT iif(done, '[x] ', '[ ] ') || body FROM task
	UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
	UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected`

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func (d Device) run(sql string) {
	_, err := d.Exec(sql)
	check(err)
}

func (d Device) show(title string) {
	fmt.Println(title)
	rows, err := d.Query(show)
	check(err)
	defer rows.Close()
	for rows.Next() {
		var line string
		check(rows.Scan(&line))
		fmt.Println("  " + line)
	}
	check(rows.Err())
}

func main() {
	// The driver loads the extension on each connection that it opens.
	sql.Register("sqlite3_sync", &sqlite3.SQLiteDriver{Extensions: []string{os.Getenv("SYNC_LIBRARY")}})
	phone, laptop := open(os.Args[1]), open(os.Args[2])
	check(phone.sync())
	check(laptop.sync())
	phone.show("after the first sync")

	// Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
	phone.run("INSERT INTO task (list_id, body) SELECT id, 'from go' FROM list")
	phone.run("UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'")
	phone.run("INSERT INTO task (list_id, body) SELECT id, '' FROM list")
	phone.show("offline")

	// A moment later the same row changes elsewhere, and the later edit counts.
	time.Sleep(10 * time.Millisecond)
	laptop.run("UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'")
	check(laptop.sync())
	check(phone.sync())
	phone.show("online again")

	// Live: the phone waits, the laptop writes.
	events, err := request("GET", "events", nil)
	check(err)
	check(phone.sync())
	laptop.run("INSERT INTO task (list_id, body) SELECT id, 'live from go' FROM list")
	check(laptop.sync())
	lines := bufio.NewScanner(events)
	for there := false; !there && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			check(phone.sync())
		}
		check(phone.QueryRow("SELECT EXISTS (SELECT 1 FROM task WHERE body LIKE 'live %')").Scan(&there))
	}
	check(lines.Err())
	events.Close()
	phone.show("live")
	check(phone.Close())
	check(laptop.Close())
}
