-- A million rows inserted in one transaction, an index, and queries over them.
CREATE TABLE measured (id INTEGER PRIMARY KEY, sensor INTEGER, value REAL, note TEXT);
BEGIN;
WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 1000000)
INSERT INTO measured SELECT i, i * 7919 % 997, i * 0.5, 'note ' || (i % 1000) FROM numbers;
COMMIT;
CREATE INDEX by_sensor ON measured (sensor, value);
SELECT count(*), sum(sensor) FROM measured;
SELECT count(*), max(value) FROM measured WHERE sensor BETWEEN 100 AND 300;
SELECT note, count(*) FROM measured WHERE note LIKE '%99' GROUP BY note ORDER BY note LIMIT 3;
