-- What the throttle asks PostgreSQL. It must never wait: no function here locks a table.

-- throttle_abilities --
-- Asked once: what this role may look at, and how many sessions the server is made for. Cores cannot be asked for;
-- max_parallel_workers says how many whoever set the server up thinks it has. With 0 somebody has only turned it off.
SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS reads_statistics,
       EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE usesysid IS NOT NULL AND query = '<insufficient privilege>')
           AS hidden_sessions,
       current_setting('archive_mode') <> 'off' AS archives,
       has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE') AS reads_archive,
       2 * coalesce(nullif(current_setting('max_parallel_workers')::int, 0), current_setting('max_worker_processes')::int)
           AS auto_sessions

-- throttle_signals --
-- The functions instead of the views over them: what is joined in a view costs more than all of this. The catalogue
-- tells the partitions, since pg_partition_tree locks them.
WITH RECURSIVE family (oid) AS (
    SELECT to_regclass(%(relation)s)::oid
    UNION
    SELECT i.inhrelid FROM pg_inherits AS i JOIN family ON i.inhparent = family.oid
),
tables (oid) AS MATERIALIZED (
    SELECT oid FROM family
    UNION ALL
    SELECT c.reltoastrelid FROM pg_class AS c JOIN family USING (oid) WHERE c.reltoastrelid <> 0
),
others AS MATERIALIZED (
    SELECT pid, state, backend_type, query, query_start
    FROM pg_stat_get_activity(NULL)
    WHERE NOT starts_with(coalesce(application_name, ''), 'async-migrations/')
),
locks AS MATERIALIZED (
    SELECT *
    FROM pg_locks
    WHERE NOT granted AND locktype = 'transactionid'
       OR database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND relation IN (SELECT oid FROM tables) AND (NOT granted OR locktype = 'tuple')
),
-- Who waits for a row waits for the transaction that changed it last and meanwhile holds the lock of the tuple; who comes
-- after that waits for the lock of the tuple.
waiters AS (
    SELECT w.pid
    FROM locks AS w
    JOIN others AS o USING (pid)
    WHERE NOT w.granted
      AND (w.locktype <> 'transactionid' OR EXISTS (SELECT FROM locks AS t WHERE t.pid = w.pid AND t.locktype = 'tuple'))
      -- The column is new in PostgreSQL 14.
      AND coalesce((to_jsonb(w) ->> 'waitstart')::timestamptz, o.query_start)
          < clock_timestamp() - make_interval(secs => %(patience)s)
)
SELECT (SELECT count(DISTINCT pid) FROM waiters) AS lock_waiters,
       -- Grows by one with every transaction of the server that writes, and with every part of one that has a savepoint.
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS transactions,
       (SELECT count(*) FROM others WHERE state = 'active' AND backend_type = 'client backend') AS active_sessions,
       (SELECT count(*)
        FROM pg_stat_get_progress_info('VACUUM') AS v
        JOIN others AS o USING (pid)
        WHERE v.relid IN (SELECT oid FROM tables) AND strpos(o.query, '(to prevent wraparound)') > 0) AS wraparound_vacuum,
       -- Of each standby that is behind: where it is, and what it says itself of how long that took. A subscriber of logical
       -- replication is none, nor is a pg_receivewal, which replays nothing.
       (SELECT coalesce(jsonb_object_agg(replay_lsn, lag), '{}')
        FROM (SELECT replay_lsn, max(coalesce(extract(epoch FROM replay_lag), 0)) AS lag
              FROM pg_stat_get_wal_senders()
              WHERE replay_lsn < pg_current_wal_flush_lsn()
                AND pid NOT IN (SELECT active_pid FROM pg_get_replication_slots()
                                WHERE slot_type = 'logical' AND active_pid IS NOT NULL)
              GROUP BY replay_lsn) AS behind) AS behind

-- throttle_archive --
-- It reads a directory, so it is not asked at every look.
SELECT count(*) AS wal_archive_queue FROM pg_ls_archive_statusdir() WHERE name LIKE '%%.ready'
