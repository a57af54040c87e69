-- Refused kernel extensions are events that an unprivileged user can cause, as
-- kmodquery.Event.IsUnprivileged says since this version.
UPDATE events SET cheap = 1 WHERE event_name = 'kext_blocked';
UPDATE events SET cheap = 1 WHERE event_name = 'kextload' AND error <> '';
