-- People talk in conversations: what the example for the desktop syncs.
CREATE EXTENSION IF NOT EXISTS pg_sync;

CREATE TABLE conversation (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL);
CREATE TABLE participant (
    conversation_id uuid NOT NULL REFERENCES conversation ON DELETE CASCADE,
    person          text NOT NULL,
    name            text NOT NULL,
    may_write       boolean NOT NULL DEFAULT true,
    PRIMARY KEY (conversation_id, person)
);
CREATE INDEX ON participant (person);
CREATE TABLE message (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES conversation ON DELETE CASCADE,
    author          text NOT NULL,
    body            text NOT NULL CHECK (length(body) BETWEEN 1 AND 500),
    sent_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON message (conversation_id, id);

-- Who may write what: the database decides, for devices as for everybody.
DO $$
BEGIN
    CREATE ROLE desktop_user NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to all databases of a server.
END
$$;
GRANT SELECT ON conversation, participant TO desktop_user;
GRANT SELECT, INSERT ON message TO desktop_user;
ALTER TABLE message ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON message FOR SELECT TO desktop_user USING (EXISTS (
    SELECT FROM participant p WHERE p.conversation_id = message.conversation_id AND p.person = sync.user_id()));
CREATE POLICY send ON message FOR INSERT TO desktop_user WITH CHECK (author = sync.user_id() AND EXISTS (
    SELECT FROM participant p WHERE p.conversation_id = message.conversation_id AND p.person = sync.user_id() AND p.may_write));

-- Who gets what: everything in the conversations that the user takes part in.
SELECT sync.create_bucket('conversation', members => 'SELECT conversation_id FROM participant WHERE person = sync.user_id()');
SELECT sync.add_table('conversation', 'conversation', key => 'id');
SELECT sync.add_table('conversation', 'participant', key => 'conversation_id');
SELECT sync.add_table('conversation', 'message', key => 'conversation_id', rls => 'rules_decide');
