package esdbnode

import (
	"context"
	"errors"
	"fmt"
)

// Backup makes a folder that holds the log as it is now, while the node works
// on, and returns the position up to which everything is certainly in it. The
// folder must not exist, and is on the disk when Backup returns; after an error
// there is none. On the disk of the log it costs little, as the files that never
// change are linked and not copied. It reads no events: the backup of a log that is
// damaged is, too, and Verify tells (TestABackupOfADamagedLogIsNotTakenForAWholeOne).
func (n *Node) Backup(ctx context.Context, dir string) (position uint64, err error) {
	if err = ctx.Err(); err != nil {
		return 0, fmt.Errorf("back up to %s: %w", dir, err)
	}
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return 0, fmt.Errorf("back up to %s: %w", dir, errClosing)
	}
	position = n.Head()
	known := n.store.witness.known()
	if err = n.store.db.Checkpoint(dir); err != nil {
		return 0, fmt.Errorf("back up to %s: %w", dir, err)
	}
	err = attest(n.fs, dir, position, known)
	// The marker comes last: without it the folder is not taken for a log.
	if err == nil {
		err = writeDurably(n.fs, dir, markerName, fmt.Sprintf("%s%d\n", markerText, folderFormat))
	}
	if err == nil {
		err = syncFolder(n.fs, n.fs.PathDir(dir))
	}
	if err != nil {
		return 0, fmt.Errorf("back up to %s: %w", dir, errors.Join(err, n.fs.RemoveAll(dir)))
	}
	return position, nil
}
