-- What a policy of macOS decided on a kernel extension.
ALTER TABLE events ADD COLUMN verdict TEXT;

-- From where a kernel extension was loaded, whether the boot loaded it, and whether the system
-- volume must have Apple's seal.
ALTER TABLE events ADD COLUMN collection TEXT;
ALTER TABLE events ADD COLUMN boot_load INTEGER;
ALTER TABLE events ADD COLUMN authenticated_root INTEGER;
