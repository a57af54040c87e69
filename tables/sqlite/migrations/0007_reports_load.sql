-- 1 for the event that stands for an attempt to load a module, 0 for the others of the
-- attempt. NULL in the rows from before this migration.
ALTER TABLE events ADD COLUMN reports_load INTEGER;
