# A whole client in Ruby: the sqlite3 gem on the device, net/http to the gateway.
#
#     ruby client.rb phone.db laptop.db

require 'net/http'
require 'sqlite3'

# sync: begin

# Opens POST /sync/pull or /sync/push with a message, or GET /sync/events; bytes go there and come back.
def request(path, message = nil)
  url = URI("#{ENV.fetch('SYNC_URL')}/#{path}")
  headers = { 'Authorization' => "Bearer #{ENV.fetch('SYNC_TOKEN')}", 'Content-Type' => 'application/octet-stream' }
  question = (message ? Net::HTTP::Post : Net::HTTP::Get).new(url, headers)
  question.body = message
  Net::HTTP.start(url.host, url.port, use_ssl: url.scheme == 'https') do |http|
    http.request(question) do |response|
      raise "#{path}: HTTP #{response.code} #{response.body}" unless response.is_a?(Net::HTTPOK)

      return yield response
    end
  end
end

class Device
  attr_reader :db

  def initialize(path)
    @db = SQLite3::Database.new(path)
    @db.enable_load_extension(true)
    @db.load_extension(ENV.fetch('SYNC_LIBRARY'))
    @db.enable_load_extension(false)
  end

  # Sends a message and applies the answer. Answers whether there is more to come.
  def exchange(path, message)
    answer = request(path, message, &:body)
    @db.get_first_value("SELECT apply_delta(?) ->> 'more'", SQLite3::Blob.new(answer)) == 1
  end

  def sync
    while (batches = @db.get_first_value('SELECT pending_ops()'))
      exchange('push', batches)
    end
    nil while exchange('pull', @db.get_first_value('SELECT pull_request()'))
  end

  # Syncs now and whenever the server says that something has changed; yields after each time.
  def events
    request('events') do |stream|
      sync
      yield
      stream.read_body do |text|
        next unless text.match?(/^data:/)

        sync
        yield
      end
    end
  end
end

# sync: end

SHOW = <<~SQL
  SELECT iif(done, '[x] ', '[ ] ') || body FROM task
  UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
  UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected
SQL

def show(title, device)
  puts title
  device.db.execute(SHOW) { |(line)| puts "  #{line}" }
end

phone, laptop = ARGV.map { |path| Device.new(path) }
phone.sync
laptop.sync
show('after the first sync', phone)

# Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
phone.db.execute("INSERT INTO task (list_id, body) SELECT id, 'from ruby' FROM list")
phone.db.execute("UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'")
phone.db.execute("INSERT INTO task (list_id, body) SELECT id, '' FROM list")
show('offline', phone)

# A moment later the same row changes elsewhere, and the later edit counts.
sleep 0.01
laptop.db.execute("UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'")
laptop.sync
phone.sync
show('online again', phone)

# Live: the phone waits, the laptop writes.
written = false
phone.events do
  unless written
    laptop.db.execute("INSERT INTO task (list_id, body) SELECT id, 'live from ruby' FROM list")
    laptop.sync
    written = true
  end
  break if phone.db.get_first_value("SELECT EXISTS (SELECT 1 FROM task WHERE body LIKE 'live %')") == 1
end
show('live', phone)
phone.db.close
laptop.db.close
