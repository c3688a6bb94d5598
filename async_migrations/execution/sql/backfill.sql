-- What a backfill asks its target, by name. Keys are JSON lists of texts.

-- key_columns --
-- The columns of every key that rows can be walked by: unique, not deferrable, complete, without gaps for NULL. In the
-- order of the index, the primary key first.
SELECT i.indexrelid::bigint AS index, i.indisprimary AS primary, a.attname AS name,
       format_type(a.atttypid, a.atttypmod) AS type
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
CROSS JOIN generate_series(0, i.indnkeyatts - 1) AS k (at)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.at]
WHERE i.indrelid = to_regclass(%(table)s)
  AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
  -- A row is compared in one direction: all columns as the index has them, or none of them.
  AND NOT EXISTS (SELECT FROM unnest(i.indoption) AS o WHERE o & 1 <> 0)
  AND NOT EXISTS (
      SELECT FROM generate_series(0, i.indnkeyatts - 1) AS n (at)
      JOIN pg_attribute AS b ON b.attrelid = i.indrelid AND b.attnum = i.indkey[n.at]
      WHERE NOT b.attnotnull
  )
ORDER BY i.indisprimary DESC, i.indexrelid, k.at

-- relation --
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS relation, c.relname AS name, greatest(c.reltuples, 0)::bigint AS rows
FROM pg_class AS c WHERE c.oid = to_regclass(%(table)s)

-- lanes --
SELECT number, migration_id, digest, finished, rows_done
FROM {own}async_migrations_asyncmigrationlane WHERE name = %(name)s ORDER BY number

-- last_key --
-- Lanes are numbered in the order of their keys; one that sweeps over all of them again ends where the last of them does.
SELECT last FROM {own}async_migrations_asyncmigrationlane WHERE name = %(name)s ORDER BY number DESC LIMIT 1

-- drop_lanes --
-- Whoever still works in one of them finds it gone at its next checkpoint, and cannot commit.
DELETE FROM {own}async_migrations_asyncmigrationlane WHERE name = %(name)s

-- add_lane --
INSERT INTO {own}async_migrations_asyncmigrationlane
    (name, number, migration_id, digest, first, last, cursor, stretch, part, deferred, rows_done, batches, finished, worker)
VALUES (%(name)s, %(number)s, %(migration_id)s, %(digest)s, %(first)s, %(last)s, NULL, NULL, 0, '[]', 0, 0, false, '')

-- open_lanes --
-- A lane that was shut may be taken again; one that somebody is at work in stays theirs.
UPDATE {own}async_migrations_asyncmigrationlane
SET token = NULL, lease_expires_at = NULL
WHERE name = %(name)s AND lease_expires_at = '9999-12-31 00:00:00+00'

-- shut_lanes --
-- From here on nobody can commit in any of them, or take one, before the next attempt opens them.
UPDATE {own}async_migrations_asyncmigrationlane
SET token = NULL, lease_expires_at = '9999-12-31 00:00:00+00'
WHERE name = %(name)s AND NOT finished

-- lane_backends --
-- The sessions of other workers that are at work in lanes of this migration.
SELECT pid, application_name, backend_start FROM pg_stat_activity
WHERE application_name LIKE %(pattern)s AND datname = current_database()

-- take_lane --
UPDATE {own}async_migrations_asyncmigrationlane
SET token = %(token)s, worker = %(worker)s, updated_at = now(),
    lease_expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id = (
    SELECT id FROM {own}async_migrations_asyncmigrationlane
    WHERE name = %(name)s AND migration_id = %(migration_id)s AND digest = %(digest)s AND NOT finished
      AND (lease_expires_at IS NULL OR lease_expires_at < clock_timestamp())
    ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING number, first, last, cursor, stretch, part, deferred, batch_size

-- checkpoint_lane --
-- In the transaction of the batch: whose token is gone changes nothing here, and must not commit.
UPDATE {own}async_migrations_asyncmigrationlane
SET cursor = %(cursor)s, stretch = %(stretch)s, part = %(part)s, deferred = %(deferred)s, rows_done = rows_done + %(rows)s, batches = batches + 1,
    batch_size = %(batch_size)s, finished = %(finished)s, updated_at = now(),
    lease_expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE name = %(name)s AND number = %(number)s AND token = %(token)s

-- commit_durably --
-- Batches do not wait for the disk: what a crash of the server takes back, rows and cursor together, is done again. The
-- last one of a lane waits, and with it all before it.
SET LOCAL synchronous_commit TO DEFAULT

-- keep_lanes --
-- One that is locked is about to be kept by a batch that commits, which may take its time: nobody waits for that.
UPDATE {own}async_migrations_asyncmigrationlane
SET lease_expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id IN (
    SELECT id FROM {own}async_migrations_asyncmigrationlane
    WHERE name = %(name)s AND token = %(token)s AND NOT finished FOR UPDATE SKIP LOCKED
)

-- leave_lane --
UPDATE {own}async_migrations_asyncmigrationlane
SET token = NULL, lease_expires_at = NULL, updated_at = now()
WHERE name = %(name)s AND number = %(number)s AND token = %(token)s

-- lanes_state --
SELECT count(*) AS lanes, count(*) FILTER (WHERE NOT finished) AS unfinished, coalesce(sum(rows_done), 0)::bigint AS rows_done,
       count(*) FILTER (WHERE NOT finished AND (lease_expires_at IS NULL OR lease_expires_at < clock_timestamp())) AS free,
       round(avg(batch_size) FILTER (WHERE NOT finished AND token IS NOT NULL))::int AS batch_size,
       (SELECT count(*) FROM {own}async_migrations_asyncmigrationbadrow AS b
        WHERE b.name = %(name)s AND b.migration_id = %(migration_id)s) AS bad_rows
FROM {own}async_migrations_asyncmigrationlane WHERE name = %(name)s

-- batches_done --
-- Each was one transaction, whoever made it.
SELECT coalesce(sum(batches), 0)::bigint AS batches FROM {own}async_migrations_asyncmigrationlane WHERE name = %(name)s

-- set_aside --
INSERT INTO {own}async_migrations_asyncmigrationbadrow (name, migration_id, key, error)
VALUES (%(name)s, %(migration_id)s, %(key)s, %(error)s)
ON CONFLICT (name, key) DO UPDATE SET error = excluded.error, migration_id = excluded.migration_id

-- bad_rows --
-- A page of those set aside, in order of their keys' texts; memory stays constant however many there are.
SELECT id, key FROM {own}async_migrations_asyncmigrationbadrow
WHERE name = %(name)s AND migration_id = %(migration_id)s AND id > %(after)s ORDER BY id LIMIT 500

-- bad_row_done --
DELETE FROM {own}async_migrations_asyncmigrationbadrow WHERE id = %(id)s

-- drop_bad_rows --
DELETE FROM {own}async_migrations_asyncmigrationbadrow WHERE name = %(name)s

-- hold_checkpoint --
-- In the transaction of a change that belongs to no lane: another attempt's token there lets nothing commit.
UPDATE {own}async_migrations_asyncmigrationcheckpoint SET updated_at = now() WHERE name = %(name)s AND token = %(token)s

-- count_rows --
-- Rows that were changed outside of a walk count with the first lane.
UPDATE {own}async_migrations_asyncmigrationlane SET rows_done = rows_done + %(rows)s WHERE name = %(name)s AND number = 0

-- table_locked --
-- Whether somebody holds the whole table, or waits for it, in a mode that lets no row be changed.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'relation' AND relation = to_regclass(%(table)s) AND pid <> pg_backend_pid()
      AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
) AS locked
