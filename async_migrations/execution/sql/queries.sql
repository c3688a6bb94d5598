-- Every question that the executor asks PostgreSQL, by name. Parameters are psycopg2's: %(name)s.
-- {own} is the schema of our own tables: a search path that a migration sets must not lead to others of that name.

-- backend --
-- Who we are, so that a cancel cannot hit a pid that was given to somebody else.
-- The function, not the view over it: the view's first use in a session costs a millisecond.
SELECT pid, application_name, backend_start FROM pg_stat_get_activity(pg_backend_pid())

-- cancel_backend --
-- Cancel the statement of one known backend; no row when it is gone or is another one by now.
SELECT pg_cancel_backend(pid)
FROM pg_stat_activity
WHERE pid = %(pid)s AND application_name = %(application_name)s AND backend_start = %(backend_start)s

-- end_silent --
-- End one known session that has had nothing under way for so long; no row when it has, or is gone.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE pid = %(pid)s AND application_name = %(application_name)s AND backend_start = %(backend_start)s
  AND state LIKE 'idle%%' AND clock_timestamp() - state_change > make_interval(secs => %(silence)s)

-- try_advisory_lock --
-- Never the blocking form: a waiter holds a snapshot, and a concurrent build would wait for it for ever.
SELECT pg_try_advisory_lock(hashtextextended(%(key)s, 0)) AS locked

-- try_shared_lock --
SELECT pg_try_advisory_lock_shared(hashtextextended(%(key)s, 0)) AS locked

-- ancestors --
-- The partitioned tables of which a table is a part.
SELECT relid::oid::bigint AS oid FROM pg_partition_ancestors(%(oid)s) WHERE relid <> %(oid)s ORDER BY relid::oid

-- advisory_unlock --
SELECT pg_advisory_unlock(hashtextextended(%(key)s, 0))

-- has_written --
SELECT txid_current_if_assigned() IS NOT NULL

-- advisory_lock_holder --
-- Who holds the lock of a migration: the orphan of a worker that died, or a `migrate` that is not through yet.
SELECT a.pid, a.application_name, a.state, a.backend_start,
       extract(epoch FROM now() - a.state_change)::int AS seconds, left(a.query, 120) AS query
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended(%(key)s, 0)
  AND l.objsubid = 1

-- take_checkpoint --
-- From here on only the attempt with this token can mark anything as done. A lane that the attempt before was at work in
-- is free: it held the advisory lock that is ours now, so it is over.
WITH freed AS (
    UPDATE {own}async_migrations_asyncmigrationlane SET token = NULL, lease_expires_at = NULL
    WHERE name = %(name)s
      AND token = (SELECT token FROM {own}async_migrations_asyncmigrationcheckpoint WHERE name = %(name)s)
)
INSERT INTO {own}async_migrations_asyncmigrationcheckpoint AS c (name, migration_id, token, direction, done, begun)
VALUES (%(name)s, %(migration_id)s, %(token)s, %(direction)s, '[]', '')
ON CONFLICT (name) DO UPDATE SET
    token = excluded.token,
    migration_id = excluded.migration_id,
    direction = excluded.direction,
    done = CASE WHEN c.direction = excluded.direction AND c.migration_id = excluded.migration_id
                THEN c.done ELSE '[]' END,
    begun = CASE WHEN c.direction = excluded.direction AND c.migration_id = excluded.migration_id
                 THEN c.begun ELSE '' END,
    updated_at = now()
RETURNING done, begun

-- mark_done --
UPDATE {own}async_migrations_asyncmigrationcheckpoint
SET done = %(done)s, begun = '', updated_at = now()
WHERE name = %(name)s AND token = %(token)s

-- mark_begun --
UPDATE {own}async_migrations_asyncmigrationcheckpoint
SET begun = %(begun)s, updated_at = now()
WHERE name = %(name)s AND token = %(token)s

-- begun --
-- What earlier attempts have marked: the statements that are done, and the one that they had under way.
SELECT done, begun FROM {own}async_migrations_asyncmigrationcheckpoint WHERE name = %(name)s AND migration_id = %(migration_id)s

-- created_index --
-- The index of this name beside its table: an index lives in the schema of its table.
SELECT c.oid, n.nspname AS schema, c.relname AS name, i.indrelid = t.oid AS on_table,
       i.indisvalid AND i.indisready AS valid, c.relkind = 'I' AS partitioned, i.indisunique AS unique,
       pg_get_indexdef(c.oid) AS definition
FROM pg_class AS t
JOIN pg_namespace AS n ON n.oid = t.relnamespace
JOIN pg_class AS c ON c.relnamespace = t.relnamespace AND c.relname = %(name)s AND c.relkind IN ('i', 'I')
JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE t.oid = to_regclass(%(table)s)

-- named_index --
-- The index that a DROP or REINDEX of this name would find, by the search path if it names no schema.
SELECT c.oid, n.nspname AS schema, c.relname AS name, true AS on_table,
       i.indisvalid AND i.indisready AS valid, c.relkind = 'I' AS partitioned, i.indisunique AS unique,
       pg_get_indexdef(c.oid) AS definition
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE c.oid = to_regclass(%(name)s)

-- schemas_of --
-- In which schema the search path finds each of these names, of those that it finds.
SELECT c.relname AS name, n.nspname AS schema
FROM unnest(%(names)s::text[]) AS wanted(name)
JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(wanted.name))
JOIN pg_namespace AS n ON n.oid = c.relnamespace

-- definition --
SELECT pg_get_indexdef(to_regclass(%(name)s)) AS definition

-- search_temporary_last --
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), 'pg_temp'), true)

-- builder --
-- An invalid index is not a leftover while somebody is building it. Which index that is, PostgreSQL hides where the role
-- is another one, and a drop or a first phase reports nothing: then whoever holds SHARE UPDATE EXCLUSIVE on the table may
-- be at it (`perhaps`), but for VACUUM and ANALYZE, and for our own, which take turns.
SELECT a.pid, a.application_name, a.state, extract(epoch FROM now() - a.query_start)::int AS seconds, left(a.query, 120) AS query
FROM pg_stat_activity AS a
LEFT JOIN pg_stat_progress_create_index AS p USING (pid)
WHERE a.pid <> pg_backend_pid() AND (
    p.index_relid = %(oid)s
    OR (
        %(perhaps)s AND coalesce(p.index_relid, 0) = 0 AND coalesce(a.application_name, '') NOT LIKE 'async-migrations/%%'
        AND a.pid IN (
            SELECT l.pid FROM pg_index AS i
            JOIN pg_locks AS l ON l.locktype = 'relation' AND l.relation = i.indrelid
            WHERE i.indexrelid = %(oid)s AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )
        AND a.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum UNION ALL SELECT pid FROM pg_stat_progress_analyze)
    )
)

-- progress --
-- One row at most: what the backend reports of a build, a vacuum, an analyze, a cluster or a copy.
SELECT 'create_index' AS command, phase,
       CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
       CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total,
       CASE WHEN tuples_total > 0 THEN 'tuples' ELSE 'blocks' END AS unit,
       current_locker_pid
FROM pg_stat_progress_create_index WHERE pid = %(pid)s
UNION ALL
SELECT 'vacuum', phase, heap_blks_scanned, heap_blks_total, 'blocks', NULL
FROM pg_stat_progress_vacuum WHERE pid = %(pid)s
UNION ALL
SELECT 'analyze', phase, sample_blks_scanned, sample_blks_total, 'blocks', NULL
FROM pg_stat_progress_analyze WHERE pid = %(pid)s
UNION ALL
SELECT 'cluster', phase, heap_blks_scanned, heap_blks_total, 'blocks', NULL
FROM pg_stat_progress_cluster WHERE pid = %(pid)s
UNION ALL
SELECT 'copy', 'copying', bytes_processed, bytes_total, 'bytes', NULL
FROM pg_stat_progress_copy WHERE pid = %(pid)s

-- queued --
-- Who has waited for too long for a lock that our statement is in the way of. Autovacuum gives way by itself.
SELECT a.pid, a.application_name, a.backend_start, a.state, l.mode,
       round(extract(epoch FROM clock_timestamp() - l.waitstart)::numeric, 1)::float AS seconds,
       left(a.query, 120) AS query
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE NOT l.granted AND l.relation = ANY (%(tables)s) AND a.backend_type = 'client backend'
  AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND clock_timestamp() - l.waitstart > make_interval(secs => %(seconds)s)
  AND %(pid)s = ANY (pg_blocking_pids(l.pid))
ORDER BY l.waitstart

-- schema_of --
-- Where a table or an index is that this session finds by a name.
SELECT n.nspname AS schema FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(name)s)

-- tables_of --
-- The tables that are meant by names of tables or of indexes, and how large each is.
SELECT DISTINCT coalesce(i.indrelid, c.oid) AS oid, pg_table_size(coalesce(i.indrelid, c.oid)) AS bytes
FROM unnest(%(names)s::text[]) AS name
JOIN pg_class AS c ON c.oid = to_regclass(name)
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
ORDER BY oid

-- blockers --
-- Who keeps the backend waiting: holders of locks, and of the snapshot or transaction that a concurrent build waits for.
SELECT a.pid, a.application_name, a.state, extract(epoch FROM now() - a.xact_start)::int AS seconds, left(a.query, 120) AS query
FROM pg_stat_activity AS a
WHERE a.pid = ANY (pg_blocking_pids(%(pid)s))
   OR a.pid = (SELECT current_locker_pid FROM pg_stat_progress_create_index WHERE pid = %(pid)s)
ORDER BY a.xact_start

-- index_keys --
-- What a unique index compares, column by column; the collation is named because it may not be the column's own.
SELECT coalesce(a.attname, pg_get_indexdef(i.indexrelid, k.at, true)) AS label,
       pg_get_indexdef(i.indexrelid, k.at, true)
           || coalesce(' COLLATE ' || nullif(i.indcollation[k.at - 1], 0)::regcollation::text, '') AS expression,
       pg_get_expr(i.indpred, i.indrelid) AS condition,
       -- The column is new in PostgreSQL 15.
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS nulls_not_distinct,
       t.relkind = 'p' AS partitioned
FROM pg_index AS i
JOIN pg_class AS t ON t.oid = to_regclass(%(table)s)
CROSS JOIN generate_series(1, i.indnkeyatts::int) AS k (at)
LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.at - 1] AND a.attnum > 0
WHERE i.indexrelid = to_regclass(%(name)s)
ORDER BY k.at

-- reindexed --
-- What a REINDEX CONCURRENTLY of these tables or their partitions left behind: it outlives a later success. `busy`: others
-- may be at work on it, since they hold SHARE UPDATE EXCLUSIVE on the table, but for VACUUM and ANALYZE.
WITH meant AS (
    SELECT t.oid, t.reltoastrelid
    FROM pg_class AS t
    WHERE t.oid IN (SELECT unnest(%(tables)s::oid[]) UNION SELECT relid FROM unnest(%(tables)s::oid[]) AS p, pg_partition_tree(p))
)
SELECT n.nspname AS schema, c.relname AS name, EXISTS (
    SELECT FROM pg_locks AS l
    WHERE l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation IN (meant.oid, meant.reltoastrelid, c.oid) AND l.pid <> pg_backend_pid()
      AND l.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum UNION ALL SELECT pid FROM pg_stat_progress_analyze)
) AS busy
FROM pg_index AS i
JOIN meant ON i.indrelid IN (meant.oid, meant.reltoastrelid)
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'

-- skipped_by_reindex --
-- INVALID indexes of these tables and their partitions: REINDEX CONCURRENTLY of a table leaves them as they are, with a
-- warning. Not those that somebody may be building on a partition, of which it is through.
SELECT c.oid::regclass::text AS name
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relkind = 'i' AND c.relname !~ '_cc(new|old)[0-9]*$'
  AND i.indrelid IN (SELECT unnest(%(tables)s::oid[]) UNION SELECT relid FROM unnest(%(tables)s::oid[]) AS p, pg_partition_tree(p))
  AND NOT EXISTS (
      SELECT FROM pg_locks AS l
      WHERE l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted AND l.relation = i.indrelid
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
        AND l.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum UNION ALL SELECT pid FROM pg_stat_progress_analyze)
  )
ORDER BY 1

-- not_maintained --
-- Tables that VACUUM and ANALYZE of this role would skip, with a warning; of these tables and their partitions.
SELECT c.oid::regclass::text AS name
FROM pg_class AS c
WHERE c.oid IN (SELECT unnest(%(tables)s::oid[]) UNION SELECT relid FROM unnest(%(tables)s::oid[]) AS p, pg_partition_tree(p))
  AND NOT pg_has_role(c.relowner, 'USAGE')
  AND NOT pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
  AND NOT CASE WHEN current_setting('server_version_num')::int >= 170000
               THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
ORDER BY 1

-- leftovers --
-- INVALID indexes that nobody builds or drops. Who does holds SHARE UPDATE EXCLUSIVE on the table from the first phase to
-- the last, in which no progress is reported; so do VACUUM and ANALYZE, which are none of it. A TOAST table's index is
-- shown, and looked after, with the table that it belongs to.
SELECT n.nspname AS schema, c.relname AS name, quote_ident(m.nspname) || '.' || quote_ident(o.relname) AS "table",
       pg_relation_size(c.oid) AS size_bytes, pg_get_indexdef(c.oid) AS definition
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_class AS o ON o.oid = coalesce((SELECT w.oid FROM pg_class AS w WHERE t.relkind = 't' AND w.reltoastrelid = t.oid), t.oid)
JOIN pg_namespace AS m ON m.oid = o.relnamespace
WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
  AND c.relkind = 'i' AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE c.oid = p.index_relid AND p.pid <> pg_backend_pid())
  AND NOT EXISTS (
      SELECT FROM pg_locks AS l
      WHERE l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.relation IN (t.oid, o.oid, c.oid) AND l.pid <> pg_backend_pid()
        AND l.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum UNION ALL SELECT pid FROM pg_stat_progress_analyze)
  )
ORDER BY size_bytes DESC, schema, name
