-- The boxes.
CREATE TABLE app.boxes (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  lid_id INTEGER REFERENCES lids (id)
);

CREATE UNIQUE INDEX boxes_name ON boxes (name);

/* What is open. */
CREATE OR REPLACE VIEW open_boxes AS
SELECT b.id, b.name FROM boxes b JOIN lids l ON l.id = b.lid_id;

CREATE FUNCTION box_count(minimum INTEGER) RETURNS INTEGER AS $$
  SELECT count(*) FROM boxes;
$$ LANGUAGE sql;

CREATE TYPE level AS ENUM ('low', 'high');
CREATE SCHEMA app;
CREATE SEQUENCE box_ids;
CREATE TRIGGER touched BEFORE UPDATE ON boxes FOR EACH ROW EXECUTE FUNCTION touch();
CREATE MATERIALIZED VIEW totals AS SELECT 1 AS one;
ALTER TABLE boxes ADD COLUMN weight REAL;
INSERT INTO boxes (name) VALUES ('x');
