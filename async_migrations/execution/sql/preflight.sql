-- What is asked before a migration begins. Nothing here takes more than ACCESS SHARE, and the session has short timeouts.

-- limits --
SELECT set_config('statement_timeout', %(statement)s, false), set_config('lock_timeout', %(lock)s, false)

-- preflight_done --
-- What the next attempt would find marked as done, and not do again.
SELECT done FROM async_migrations_asyncmigrationcheckpoint
WHERE name = %(name)s AND migration_id = %(migration_id)s AND direction = %(direction)s

-- preflight_subject --
-- The table that a name of a table or of an index means, and what the role may do with it. This locks nothing.
SELECT t.oid::bigint AS oid, t.oid::regclass::text AS "table", r.role,
       array_remove(ARRAY[
           CASE WHEN pg_has_role(r.role, t.relowner, 'USAGE') THEN 'OWNER' END,
           CASE WHEN has_schema_privilege(r.role, t.relnamespace, 'CREATE') THEN 'CREATE' END,
           CASE WHEN has_any_column_privilege(r.role, t.oid, 'SELECT') THEN 'SELECT' END,
           CASE WHEN has_any_column_privilege(r.role, t.oid, 'INSERT') THEN 'INSERT' END,
           CASE WHEN has_any_column_privilege(r.role, t.oid, 'UPDATE') THEN 'UPDATE' END,
           CASE WHEN has_table_privilege(r.role, t.oid, 'DELETE') THEN 'DELETE' END,
           CASE WHEN has_table_privilege(r.role, t.oid, 'TRUNCATE') THEN 'TRUNCATE' END
       ], NULL) AS allowed
FROM pg_class AS c
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
JOIN pg_class AS t ON t.oid = coalesce(i.indrelid, c.oid)
CROSS JOIN (SELECT coalesce(%(role)s, current_user)::name AS role) AS r
WHERE c.oid = to_regclass(%(name)s)

-- preflight_size --
-- Of a table with its partitions. Rows are those of the last ANALYZE; NULL where one of them never had any.
WITH RECURSIVE family (oid) AS (
    SELECT %(oid)s::oid
    UNION
    SELECT i.inhrelid
    FROM pg_inherits AS i
    JOIN family ON i.inhparent = family.oid
    JOIN pg_class AS p ON p.oid = family.oid AND p.relkind = 'p'
)
SELECT sum(pg_table_size(c.oid))::bigint AS table_bytes, sum(pg_indexes_size(c.oid))::bigint AS index_bytes,
       CASE WHEN bool_or(c.reltuples < 0 AND c.relkind <> 'p') THEN NULL
            ELSE sum(c.reltuples) FILTER (WHERE c.relkind <> 'p')::bigint END AS rows
FROM family
JOIN pg_class AS c USING (oid)

-- preflight_busy --
-- Who builds, vacuums or alters the tables, or waits for that; reading and writing does not count.
SELECT a.pid, a.application_name, a.backend_type, l.mode, l.granted,
       (SELECT p.phase FROM pg_stat_progress_create_index AS p WHERE p.pid = a.pid) AS building,
       extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds, left(a.query, 120) AS query
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'relation' AND l.relation = ANY (%(tables)s)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND a.pid <> pg_backend_pid() AND NOT starts_with(a.application_name, %(own)s)
ORDER BY a.xact_start, a.pid

-- preflight_old_transactions --
-- What a concurrent build waits for: whoever has a snapshot, or has changed the table. All others: who has locked it.
SELECT a.pid, a.application_name, a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds,
       left(a.query, 120) AS query
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.backend_type <> 'autovacuum worker'
  AND a.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
  AND a.pid <> pg_backend_pid() AND NOT starts_with(a.application_name, %(own)s)
  AND (%(snapshots)s AND coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL
       OR EXISTS (SELECT FROM pg_locks AS l
                  WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.relation = ANY (%(tables)s)))
ORDER BY a.xact_start LIMIT 5

-- preflight_prepared --
-- A prepared transaction has no process that would end it; it keeps its locks over restarts. Which are its own is told by
-- the lock on its id: its virtual transaction is that of the session that it came from, until the server restarts.
WITH locks AS MATERIALIZED (SELECT * FROM pg_locks WHERE pid IS NULL)
SELECT p.gid, p.owner, extract(epoch FROM clock_timestamp() - p.prepared)::int AS seconds,
       array_agg(DISTINCT l.mode) AS modes
FROM pg_prepared_xacts AS p
JOIN locks AS x ON x.locktype = 'transactionid' AND x.transactionid = p.transaction
JOIN locks AS l ON l.virtualtransaction = x.virtualtransaction
WHERE p.database = current_database() AND l.locktype = 'relation' AND l.relation = ANY (%(tables)s)
  AND (l.mode <> 'AccessShareLock' OR %(blocking)s)
GROUP BY p.gid, p.owner, p.prepared
ORDER BY p.prepared LIMIT 5

-- preflight_settings --
-- What this role and database begin a session with, before we set it to 0.
SELECT name, reset_val || coalesce(unit, '') AS value FROM pg_settings
WHERE name = ANY (%(names)s) AND reset_val <> '0' ORDER BY name

-- preflight_applied --
SELECT EXISTS (SELECT FROM django_migrations WHERE app = %(app)s AND name = %(name)s) AS applied

-- preflight_version --
SELECT current_setting('server_version_num')::int / 10000 AS major
