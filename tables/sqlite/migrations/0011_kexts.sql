-- What a policy of macOS decided on a kernel extension.
ALTER TABLE events ADD COLUMN verdict TEXT;
