-- An AI application: people talk with each other and with agents, on any number of devices, online or not.
--
-- Two kinds of bucket: what belongs to one person (`profile/<id>`), and what belongs to a conversation (`conversation/<id>`).
-- The rights are the database's own: row level security decides, for a device's writes as for everybody's.
CREATE EXTENSION IF NOT EXISTS pg_sync;

-- Devices write as this role; a transport names it in the claim "role".
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') THEN
        CREATE ROLE app_user NOLOGIN;
    END IF;
END
$$;

-- Tables --------------------------------------------------------------------------------------------------------------------

CREATE TABLE profiles (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    handle     text NOT NULL UNIQUE CHECK (handle <> ''),
    name       text NOT NULL,
    settings   jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE conversations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    title      text NOT NULL CHECK (length(title) <= 200),
    topic      text,
    created_by uuid REFERENCES profiles ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE participant_role AS ENUM ('owner', 'writer', 'reader');

CREATE TABLE participants (
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    profile_id      uuid NOT NULL REFERENCES profiles ON DELETE CASCADE,
    role            participant_role NOT NULL DEFAULT 'writer',
    joined_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversation_id, profile_id)
);
CREATE INDEX ON participants (profile_id, conversation_id);

CREATE TABLE messages (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    author_id       uuid NOT NULL REFERENCES profiles ON DELETE CASCADE,
    agent           text,
    body            text NOT NULL,
    draft           boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON messages (conversation_id, id);
CREATE INDEX ON messages (author_id, id);

CREATE TABLE agent_state (
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    agent           text NOT NULL,
    state           jsonb NOT NULL DEFAULT '{}',
    tokens_used     bigint NOT NULL DEFAULT 0 CHECK (tokens_used >= 0),
    PRIMARY KEY (conversation_id, agent)
);

CREATE TABLE knowledge (
    id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id uuid NOT NULL REFERENCES profiles ON DELETE CASCADE,
    title    text NOT NULL,
    body     text NOT NULL DEFAULT '',
    tags     text[] NOT NULL DEFAULT '{}'
);
CREATE INDEX ON knowledge (owner_id, id);

-- Where a file is and what must be in it; the file itself travels elsewhere.
CREATE TABLE media_refs (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    message_id      uuid REFERENCES messages ON DELETE CASCADE,
    content_type    text NOT NULL,
    size            bigint NOT NULL CHECK (size >= 0),
    sha256          bytea NOT NULL CHECK (length(sha256) = 32)
);
CREATE INDEX ON media_refs (conversation_id, id);
CREATE INDEX ON media_refs (message_id);

CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER touch BEFORE UPDATE ON profiles FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch();

-- Rights --------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION me() RETURNS uuid LANGUAGE sql STABLE RETURN sync.user_id()::uuid;

-- Looks past the policies of participants, which ask the same question.
CREATE FUNCTION my_role(conversation uuid) RETURNS participant_role
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    RETURN (SELECT p.role FROM participants p WHERE p.conversation_id = conversation AND p.profile_id = me());

ALTER TABLE profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE participants ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE agent_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE knowledge ENABLE ROW LEVEL SECURITY;
ALTER TABLE media_refs ENABLE ROW LEVEL SECURITY;

CREATE POLICY own ON profiles TO app_user USING (id = me());
CREATE POLICY own ON knowledge TO app_user USING (owner_id = me());

CREATE POLICY read ON conversations FOR SELECT TO app_user USING (created_by = me() OR my_role(id) IS NOT NULL);
CREATE POLICY make ON conversations FOR INSERT TO app_user WITH CHECK (created_by = me());
CREATE POLICY edit ON conversations FOR UPDATE TO app_user USING (my_role(id) IN ('owner', 'writer'));
CREATE POLICY remove ON conversations FOR DELETE TO app_user USING (my_role(id) = 'owner');

CREATE POLICY read ON participants FOR SELECT TO app_user USING (profile_id = me() OR my_role(conversation_id) IS NOT NULL);
CREATE POLICY invite ON participants FOR INSERT TO app_user WITH CHECK (my_role(conversation_id) = 'owner' OR profile_id = me()
    AND EXISTS (SELECT FROM conversations c WHERE c.id = conversation_id AND c.created_by = me()));
CREATE POLICY leave ON participants FOR DELETE TO app_user USING (profile_id = me() OR my_role(conversation_id) = 'owner');

CREATE POLICY read ON messages FOR SELECT TO app_user
    USING (CASE WHEN draft THEN author_id = me() ELSE my_role(conversation_id) IS NOT NULL END);
CREATE POLICY send ON messages FOR INSERT TO app_user
    WITH CHECK (author_id = me() AND my_role(conversation_id) IN ('owner', 'writer'));
CREATE POLICY edit ON messages FOR UPDATE TO app_user USING (my_role(conversation_id) IN ('owner', 'writer'));
CREATE POLICY remove ON messages FOR DELETE TO app_user USING (author_id = me() OR my_role(conversation_id) = 'owner');

CREATE POLICY talk ON agent_state TO app_user USING (my_role(conversation_id) IN ('owner', 'writer'));
CREATE POLICY talk ON media_refs TO app_user USING (my_role(conversation_id) IN ('owner', 'writer'));

GRANT SELECT, INSERT, UPDATE, DELETE ON profiles, conversations, participants, messages, agent_state, knowledge, media_refs TO app_user;

-- Buckets -------------------------------------------------------------------------------------------------------------------

-- The policies say who may write; who gets which rows the rules say, which is quick. SELECT * FROM sync.audit('{"sub": "...", "role": "app_user"}')
-- lists where the two differ: people who only read get agents' state and media, which the policies show to writers alone. With
-- rls => 'enforce' they would not.

-- What belongs to a person. A draft stays with its author, until it becomes a message of the conversation.
SELECT sync.create_bucket('profile', priority => 0, members => 'SELECT me()');
SELECT sync.add_table('profile', 'profiles', key => 'id', rls => 'rules_decide');
SELECT sync.add_table('profile', 'knowledge', key => 'owner_id', rls => 'rules_decide');
SELECT sync.add_table('profile', 'messages', key => 'author_id', filter => 'draft', rls => 'rules_decide');

-- What belongs to a conversation, for everybody who takes part.
SELECT sync.create_bucket('conversation', priority => 1, members =>
    $$ SELECT conversation_id FROM participants WHERE profile_id = me() $$);
SELECT sync.add_table('conversation', 'conversations', key => 'id', rls => 'rules_decide');
SELECT sync.add_table('conversation', 'participants', key => 'conversation_id', rls => 'rules_decide');
SELECT sync.add_table('conversation', 'messages', key => 'conversation_id', filter => 'NOT draft', rls => 'rules_decide');
SELECT sync.add_table('conversation', 'agent_state', key => 'conversation_id', rls => 'rules_decide');
SELECT sync.add_table('conversation', 'media_refs', key => 'conversation_id', rls => 'rules_decide');

-- History -------------------------------------------------------------------------------------------------------------------

-- What messages said before somebody edited or deleted them.
SELECT sync.keep_history('messages', '30 days');
