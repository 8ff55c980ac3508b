-- Every refusal names the rule, the table and the remedy.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE TABLE good (id int PRIMARY KEY, list int, body text, at timestamptz);
CREATE TABLE no_key (id int);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (10);
CREATE VIEW looking AS SELECT * FROM good;
CREATE TABLE sync_like (id int PRIMARY KEY);
CREATE INDEX ON good (list, id);

SELECT sync.create_bucket('list', members => 'SELECT 1');
SELECT sync.create_bucket('all');

-- Names and numbers.
SELECT sync.create_bucket('list');
SELECT sync.create_bucket('');
SELECT sync.create_bucket('p', priority => 300);
SELECT sync.add_table('nowhere', 'good');
SELECT sync.drop_bucket('nowhere');
SELECT sync.drop_table('list', 'good');

-- Tables.
SELECT sync.add_table('all', 'no_key');
SELECT sync.add_table('all', 'unlogged');
SELECT sync.add_table('all', 'parent');
SELECT sync.add_table('all', 'parted_1');
SELECT sync.add_table('all', 'looking');
SELECT sync.add_table('all', 'pg_class');
SELECT sync.add_table('all', 'sync.rule');
SELECT sync.add_table('all', 'sync_like');

-- Expressions over the row must be a pure function of the row.
SELECT sync.add_table('list', 'good', key => 'nothing');
SELECT sync.add_table('list', 'good', key => 'list + random()::int');
SELECT sync.add_table('list', 'good', key => '(SELECT 1)');
SELECT sync.add_table('list', 'good', key => 'sum(list)');
SELECT sync.add_table('list', 'good', key => 'list', filter => 'at < now()');
SELECT sync.add_table('list', 'good', key => 'list', filter => 'at::text = ''''');
SELECT sync.add_table('list', 'good', key => 'list', filter => 'list');
SELECT sync.add_table('list', 'good', key => 'list; DROP TABLE good');
SELECT sync.add_table('list', 'good', key => 'list', filter => 'true), (true');

-- Keys and members.
SELECT sync.add_table('list', 'good');
SELECT sync.add_table('all', 'good', key => 'list');
SELECT sync.create_bucket('broken', members => 'SELECT nothing FROM nowhere');
SELECT sync.create_bucket('volatile', members => 'SELECT (random() * 10)::int');
SELECT sync.create_bucket('writing', members => 'DELETE FROM good RETURNING id');
SELECT sync.create_bucket('two', members => 'SELECT 1; SELECT 2');
SELECT sync.create_bucket('pair', members => 'SELECT 1, 2');
SELECT sync.add_table('pair', 'good', key => 'list');

-- Columns.
SELECT sync.add_table('all', 'good', columns => '{id,nothing}');
SELECT sync.add_table('all', 'good', columns => '{body}');

-- What works, and then does not work twice or differently.
SELECT sync.add_table('list', 'good', key => 'list', columns => '{id,list,body}');
SELECT sync.add_table('list', 'good', key => 'list', columns => '{id,list,body}');
SELECT sync.add_table('all', 'good');
SELECT sync.add_table('list', 'parted', key => 'id::text');

-- A transaction of its own.
BEGIN;
INSERT INTO parted VALUES (1);
SELECT sync.add_table('all', 'parted');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT sync.add_table('all', 'parted');
ROLLBACK;
