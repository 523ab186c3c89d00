package sqliteviews

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"cartwright/projections"
)

// Parked gives those of some streams that are parked. In the usual case, that
// none of the generation is, it asks no database.
func (g *Generation[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	if none, err := g.noneParked(ctx); err != nil || none {
		return nil, err
	}
	list, err := json.Marshal(streams)
	if err != nil {
		return nil, fmt.Errorf("look for parked streams of %s: %w", g.views.name, err)
	}
	records, err := g.records(ctx, "AND stream IN (SELECT value FROM json_each(?))", string(list))
	parked := make(map[string]projections.Parked, len(records))
	for _, record := range records {
		parked[record.Stream] = record
	}
	return parked, err
}

func (g *Generation[V]) noneParked(ctx context.Context) (bool, error) {
	err := ctx.Err()
	if err == nil {
		err = g.hold()
	}
	if err != nil {
		return false, fmt.Errorf("look for parked streams of %s: %w", g.views.name, err)
	}
	defer g.use.RUnlock()
	return g.free.Load(), nil
}

// mind remembers whether no stream is parked, once the transaction is done.
func (g *Generation[V]) mind(tx *txn) error {
	var none bool
	err := tx.row("SELECT NOT EXISTS (SELECT 1 FROM parking WHERE view = ? AND generation = ?)", g.views.name, g.number).Scan(&none)
	if err != nil {
		return fmt.Errorf("look for parked streams of generation %d: %w", g.number, err)
	}
	tx.then = append(tx.then, func() { g.free.Store(none) })
	return nil
}

// AllParked gives all records, by stream.
func (g *Generation[V]) AllParked(ctx context.Context) ([]projections.Parked, error) {
	return g.records(ctx, "ORDER BY stream")
}

func (g *Generation[V]) records(ctx context.Context, rest string, args ...any) ([]projections.Parked, error) {
	var records []projections.Parked
	err := g.query(ctx, func(rows *sql.Rows) error {
		record, err := scanParked(rows)
		records = append(records, record)
		return err
	}, "SELECT record FROM parking WHERE view = ? AND generation = ? "+rest, append([]any{g.views.name, g.number}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read parking records of %s: %w", g.views.name, err)
	}
	return records, nil
}

// scanParked reads a row, or a single one, of a record.
func scanParked(row interface{ Scan(dest ...any) error }) (projections.Parked, error) {
	var record projections.Parked
	var raw []byte
	if err := row.Scan(&raw); err != nil {
		return record, err
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return record, fmt.Errorf("decode a parking record: %w", err)
	}
	return record, nil
}

// Park parks streams, or says more of those that are.
func (g *Generation[V]) Park(ctx context.Context, records []projections.Parked) error {
	err := g.change(ctx, func(tx *txn) error {
		for _, record := range records {
			if err := g.parkOne(tx, record); err != nil {
				return fmt.Errorf("park %s: %w", record.Stream, err)
			}
		}
		return g.mind(tx)
	})
	if err != nil {
		return fmt.Errorf("park %d streams of %s: %w", len(records), g.views.name, err)
	}
	return nil
}

func (g *Generation[V]) parkOne(tx *txn, record projections.Parked) error {
	before, err := scanParked(tx.row("SELECT record FROM parking WHERE view = ? AND generation = ? AND stream = ?",
		g.views.name, g.number, record.Stream))
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return err
	case !record.Supersedes(before):
		return nil
	default:
		record = record.Onto(before)
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return tx.exec("INSERT OR REPLACE INTO parking (view, generation, stream, record) VALUES (?, ?, ?, ?)",
		g.views.name, g.number, record.Stream, string(raw))
}

// Unpark forgets records.
func (g *Generation[V]) Unpark(ctx context.Context, streams []string) error {
	err := g.change(ctx, func(tx *txn) error {
		for _, stream := range streams {
			err := tx.exec("DELETE FROM parking WHERE view = ? AND generation = ? AND stream = ?", g.views.name, g.number, stream)
			if err != nil {
				return err
			}
		}
		return g.mind(tx)
	})
	if err != nil {
		return fmt.Errorf("unpark %d streams of %s: %w", len(streams), g.views.name, err)
	}
	return nil
}
