package kmodquery

// A Delivery is an event on its way from a source to the event store. Its other fields let
// the source resume after a restart without losing or repeating an event.
type Delivery struct {
	Event Event
	// Position is a position in the source's log: the source has emitted every
	// event before it. The store keeps the last position of each source in the
	// transaction that writes the event. Position is empty if the source cannot
	// reread its log or has no new position.
	Position string
	// Key is the event's deduplication key, unique among all events of its source.
	// A source that rereads records which may be stored already asks the store for
	// the keys that it has. Keys and positions of a source compare as strings; the
	// store deletes the keys that sort before the source's last position. Key is
	// empty in sources that never repeat an event.
	Key string
}
