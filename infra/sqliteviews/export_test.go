package sqliteviews

import "context"

// Upset leaves a transaction open in each reader of the first file.
func (d *DB) Upset(ctx context.Context) error {
	for range readers {
		r, err := d.main.read.take(ctx)
		if err != nil {
			return err
		}
		if r.conn == nil {
			r.conn, err = d.main.read.db.Conn(ctx)
		}
		if err == nil {
			err = r.exec(ctx, "BEGIN")
		}
		d.main.read.free <- r
		if err != nil {
			return err
		}
	}
	return nil
}
