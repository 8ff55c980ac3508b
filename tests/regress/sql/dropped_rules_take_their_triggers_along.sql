-- A table that is in no rule any more is an ordinary table again.
CREATE TABLE item (id int PRIMARY KEY, list int);
CREATE INDEX ON item (list, id);
CREATE VIEW triggers AS
    SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'item'::regclass AND NOT tgisinternal ORDER BY tgname;
SELECT sync.create_bucket('list', members => 'SELECT 1');
SELECT sync.create_bucket('all');
SELECT sync.add_table('list', 'item', key => 'list');
SELECT sync.add_table('all', 'item');
SELECT * FROM triggers;
INSERT INTO item VALUES (1, 1), (2, NULL);
SELECT entry, n FROM sync.op ORDER BY entry, n;
SELECT sync.drop_table('list', 'item');
SELECT * FROM triggers;
SELECT sync.drop_bucket('all');
SELECT * FROM triggers;
SELECT sync.drop_bucket('list');
INSERT INTO item VALUES (3, 1);
