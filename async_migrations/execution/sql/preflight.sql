-- What is asked before a migration begins. Nothing here takes more than ACCESS SHARE, and the session has short timeouts.

-- limits --
SELECT set_config('statement_timeout', %(statement)s, false), set_config('lock_timeout', %(lock)s, false)

-- preflight_done --
-- What the next attempt would find marked as done, and not do again.
SELECT done FROM async_migrations_asyncmigrationcheckpoint
WHERE name = %(name)s AND migration_id = %(migration_id)s AND direction = %(direction)s

-- preflight_role --
-- Who is not allowed to mark what is done is no worker.
SELECT current_user::text AS role,
       coalesce(has_table_privilege(to_regclass('async_migrations_asyncmigrationcheckpoint'), 'UPDATE'), false)
           AS may_be_the_workers

-- preflight_elsewhere --
-- Where something has a name that means nothing to this role, and whether the role may use that schema.
SELECT n.nspname::text AS schema, has_schema_privilege(n.oid, 'USAGE') AS usable
FROM parse_ident(%(name)s, false) AS part
JOIN pg_class AS c ON c.relname = part[array_length(part, 1)]
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (array_length(part, 1) = 1 OR n.nspname = part[1]) AND n.nspname !~ '^pg_(temp|toast)'
ORDER BY usable, schema LIMIT 1

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

-- preflight_tablespace --
-- Temporary tables and their indexes go where others go.
SELECT set_config('temp_tablespaces', coalesce(quote_ident(nullif(current_setting('default_tablespace'), '')), ''), false)

-- preflight_index --
-- Of an index that is there.
SELECT pg_relation_size(c.oid) AS bytes, s.oid::bigint AS oid, s.spcname AS tablespace
FROM pg_class AS c
JOIN pg_database AS d ON d.datname = current_database()
JOIN pg_tablespace AS s ON s.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace)
WHERE c.oid = %(oid)s

-- preflight_twin --
-- What an index on an empty copy tells of the one that is to be built: where it lies, and by the statistics of the table
-- the rows, the bytes of a key, and how many keys differ. NULL where that is not known.
WITH RECURSIVE family (oid) AS (
    SELECT to_regclass(%(table)s)::oid
    UNION
    SELECT i.inhrelid
    FROM pg_inherits AS i
    JOIN family ON i.inhparent = family.oid
    JOIN pg_class AS p ON p.oid = family.oid AND p.relkind = 'p'
), size AS (
    SELECT CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples)::float END AS rows
    FROM family
    JOIN pg_class AS c USING (oid)
    WHERE c.relkind <> 'p'
), keys AS (
    SELECT coalesce(s.avg_width, nullif(t.typlen, -1)) AS width,
           CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * size.rows ELSE s.n_distinct END AS different
    FROM size
    JOIN pg_index AS i ON i.indexrelid = to_regclass(%(name)s)
    JOIN pg_attribute AS k ON k.attrelid = i.indexrelid
    JOIN pg_type AS t ON t.oid = k.atttypid
    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.attnum - 1] AND a.attnum > 0
    LEFT JOIN LATERAL (
        SELECT p.avg_width, p.n_distinct
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_stats AS p ON p.schemaname = n.nspname AND p.tablename = c.relname AND p.attname = a.attname
        WHERE c.oid = to_regclass(%(table)s)
        ORDER BY p.inherited DESC LIMIT 1
    ) AS s ON true
)
SELECT m.amname AS method, pg_get_expr(i.indpred, i.indrelid) AS condition, size.rows,
       (SELECT CASE WHEN bool_and(width IS NOT NULL) THEN sum(width) END FROM keys)::int AS width,
       -- What is unique, or carries further columns, is kept row by row.
       CASE WHEN i.indisunique OR i.indnatts > i.indnkeyatts THEN size.rows
            ELSE (SELECT exp(sum(ln(greatest(1, coalesce(different, size.rows))))) FROM keys) END AS "distinct",
       s.oid::bigint AS oid, s.spcname AS tablespace
FROM pg_index AS i
CROSS JOIN size
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_am AS m ON m.oid = c.relam
JOIN pg_database AS d ON d.datname = current_database()
JOIN pg_tablespace AS s ON s.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace)
WHERE i.indexrelid = to_regclass(%(name)s)

-- preflight_server --
-- Where the server keeps a tablespace, and since when it runs. The view leaves out what the role may not see.
SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS directory,
       pg_tablespace_location(%(tablespace)s::oid) AS location,
       extract(epoch FROM pg_postmaster_start_time())::float AS started

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
-- What the roles that may do the work begin a session with: the most particular of each, as a login takes it. And with
-- which timeouts our own began, before we set them to 0, where neither its role nor the database say so: the server does.
WITH workers AS (
    SELECT r.oid, r.rolname
    FROM pg_roles AS r
    WHERE CASE WHEN %(role)s IS NOT NULL THEN r.rolname = %(role)s
               ELSE r.rolcanlogin AND (r.rolsuper OR (SELECT bool_and(pg_has_role(r.oid, c.relowner, 'MEMBER'))
                                                      FROM pg_class AS c WHERE c.oid = ANY (%(tables)s::oid[]))) END
), given AS (
    SELECT s.setrole, s.setdatabase, split_part(pair, '=', 1) AS name, substr(pair, strpos(pair, '=') + 1) AS value
    FROM pg_db_role_setting AS s
    CROSS JOIN unnest(s.setconfig) AS pair
    WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
), taken AS (
    SELECT DISTINCT ON (w.oid, g.name) w.rolname, g.name, g.value
    FROM workers AS w
    JOIN given AS g ON g.setrole IN (0, w.oid)
    WHERE g.name = ANY (%(names)s)
    ORDER BY w.oid, g.name, g.setrole = 0, g.setdatabase = 0
)
SELECT name, value, array_agg(rolname::text ORDER BY rolname) AS roles FROM taken GROUP BY name, value
UNION ALL
SELECT s.name, s.reset_val || coalesce(s.unit, ''), NULL
FROM pg_settings AS s
WHERE s.name = ANY (%(timeouts)s) AND s.reset_val <> '0'
  AND NOT EXISTS (SELECT FROM given AS g
                  JOIN pg_roles AS r ON r.rolname = session_user
                  WHERE g.name = s.name AND g.setrole IN (0, r.oid))
ORDER BY name, value

-- preflight_applied --
SELECT EXISTS (SELECT FROM django_migrations WHERE app = %(app)s AND name = %(name)s) AS applied

-- preflight_version --
SELECT current_setting('server_version_num')::int / 10000 AS major

-- preflight_locked --
-- What a lock is about, seen from a name, and how many partitions or children are below it. This locks nothing.
WITH RECURSIVE it AS (
    SELECT to_regclass(%(name)s)::oid AS oid
), truncated (oid) AS (
    SELECT oid FROM it
    UNION
    SELECT f.conrelid
    FROM pg_constraint AS f
    JOIN truncated ON f.confrelid = truncated.oid
    WHERE f.contype = 'f' AND %(of)s = 'TRUNCATED'
), keys AS (
    SELECT f.conrelid, f.confrelid, f.conname, f.conindid, f.conkey, f.confkey
    FROM pg_constraint AS f
    JOIN it ON it.oid IN (f.conrelid, f.confrelid)
    WHERE f.contype = 'f' AND %(of)s IN ('REFERENCED', 'REFERENCING')
), meant (oid) AS (
    SELECT oid FROM truncated WHERE %(of)s IN ('ITSELF', 'TRUNCATED')
    UNION
    SELECT i.indrelid FROM pg_index AS i JOIN it ON i.indexrelid = it.oid WHERE %(of)s = 'TABLE'
    UNION
    SELECT i.indexrelid FROM pg_index AS i JOIN it ON i.indrelid = it.oid WHERE %(of)s = 'INDEXES'
    UNION
    SELECT nullif(unnest(ARRAY[p.partrelid, p.partdefid]), 0)
    FROM pg_inherits AS h
    JOIN it ON h.inhrelid = it.oid
    JOIN pg_partitioned_table AS p ON p.partrelid = h.inhparent
    WHERE %(of)s = 'PARENT'
    UNION
    SELECT nullif(p.partdefid, 0) FROM pg_partitioned_table AS p JOIN it ON p.partrelid = it.oid WHERE %(of)s = 'DEFAULT'
    UNION
    SELECT k.confrelid
    FROM keys AS k
    JOIN it ON k.conrelid = it.oid
    WHERE %(of)s = 'REFERENCED' AND (%(constraint)s IS NULL OR k.conname = %(constraint)s)
      AND (%(column)s IS NULL OR k.conkey && ARRAY(SELECT a.attnum FROM pg_attribute AS a
                                                    WHERE a.attrelid = it.oid AND a.attname = %(column)s))
    UNION
    SELECT k.conrelid
    FROM keys AS k
    JOIN it ON k.confrelid = it.oid
    WHERE %(of)s = 'REFERENCING'
      AND (%(constraint)s IS NULL OR k.conindid = (SELECT c.conindid FROM pg_constraint AS c
                                                   WHERE c.conrelid = it.oid AND c.conname = %(constraint)s))
      AND (%(column)s IS NULL OR k.confkey && ARRAY(SELECT a.attnum FROM pg_attribute AS a
                                                     WHERE a.attrelid = it.oid AND a.attname = %(column)s))
)
SELECT meant.oid::regclass::text AS relation,
       (WITH RECURSIVE family (oid) AS (
            SELECT h.inhrelid FROM pg_inherits AS h WHERE h.inhparent = meant.oid
            UNION
            SELECT h.inhrelid FROM pg_inherits AS h JOIN family ON h.inhparent = family.oid
        ) SELECT count(*) FILTER (WHERE %(below)s) FROM family) AS below
FROM meant
WHERE meant.oid IS NOT NULL
ORDER BY relation
