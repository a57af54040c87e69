package osqueryhost

import (
	"context"
	"slices"
)

// Live runs a live query as osqueryd's distributed thread does: beside the schedule, and
// one after another (Distributed::runQueries, distributed.cpp). A query that ran while its
// worker was killed is refused for a day (--distributed_denylist_duration). Of several
// statements, the rows of all are returned, with the columns of the first.
func (h *Host) Live(ctx context.Context, query string) ([]map[string]string, error) {
	w, err := h.running()
	if err != nil {
		return nil, err
	}
	h.liveMu.Lock()
	defer h.liveMu.Unlock()
	state := h.schedule.state
	if !state.beginLive(query, h.clock.now(), h.set.int("distributed_denylist_duration")) {
		return nil, refusal("distributed query is denylisted")
	}
	rows, err := w.sql(ctx, query)
	if w.ctx.Err() == nil {
		state.endLive(query)
	}
	return texts(rows), err
}

// sql runs a query for a caller that asks for its columns first (SQL::SQL, sql.cpp). It
// fails if the first statement is empty, and returns only that statement's columns.
func (w *worker) sql(ctx context.Context, query string) ([]row, error) {
	list := statements(query)
	if len(list) == 0 || isEmpty(list[0]) {
		return nil, refusal("not an error")
	}
	e := w.execute()
	defer e.close()
	rows, columns, err := e.query(ctx, query)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		for column := range r {
			if !slices.Contains(columns, column) {
				delete(r, column)
			}
		}
	}
	return rows, nil
}
