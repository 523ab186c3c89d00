package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"cartwright/domain/personal"
	"cartwright/infra/esdbnode"
	"cartwright/infra/keyring"
)

// What a backup consists of, beside the log.
const (
	manifestName   = "backup.json"
	manifestFormat = 1
	masterKeyName  = "master.key"
	erasuresName   = "erasures.jsonl" // whose keys were destroyed, so that an older log can forget them again
	logName        = "eventstore"
	unfinished     = ".unfinished" // ends the name of a folder that is still being filled
	stageName      = "backup.tmp"  // in the data folder: what the owner of the log hands over
)

// A manifest says what a backup must be. It is written last.
type manifest struct {
	Format    int               `json:"format"`
	Made      time.Time         `json:"made"`
	Log       esdbnode.Contents `json:"log"`
	MasterKey string            `json:"master_key"` // the id of the key that opens personal data, also where the key itself is kept elsewhere
	Files     []backupFile      `json:"files"`
}

// A backupFile is one file of a backup. Its path begins in the backup's folder.
type backupFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func newBackupCommand(cfg config) *cobra.Command {
	var to string
	var withoutKey, asJSON bool
	cmd := &cobra.Command{
		Use:   "backup --data DIR --to FOLDER",
		Short: "Back up the embedded event log while it is in use",
		Long: `Make a folder with all that a shop can't do without: the embedded event log, the
master key and the list of erased buyers. Views and the bus are not in it, since
they are built from the log.

  cartwright backup --data ./data --to /backups/monday

The server that owns the data folder goes on meanwhile; without one the folder is
opened. Everything that was acknowledged before the command began is in the
backup. Every event of it is read once and checked, and every file has its
checksum in ` + manifestName + `. The folder appears under its name when it is whole.

Whoever has the master key and the log can read the buyers' addresses:
--without-master-key leaves the key out for those who keep it elsewhere.
A log in EventStoreDB is backed up by that one's own means.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usage(errors.New("where to? --to FOLDER"))
			}
			b := backup{cfg: cfg, to: to, withoutKey: withoutKey}
			m, err := b.run(cmd.Context())
			if err != nil {
				return err
			}
			return tellManifest(cmd.OutOrStdout(), asJSON, "backed up to "+to, m)
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&cfg.MasterKey, "master-key-file", cfg.MasterKey, "the master key; empty is master.key in the data folder (CARTWRIGHT_MASTER_KEY_FILE)")
	cmd.Flags().StringVar(&to, "to", "", "the folder to make; it must not be there")
	cmd.Flags().BoolVar(&withoutKey, "without-master-key", false, "leave the master key out")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newRestoreCommand(cfg config) *cobra.Command {
	var from, erasures string
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "restore --from FOLDER --data DIR",
		Short: "Make a data folder of a backup",
		Long: `Make a data folder of what backup made, ready for a server to start on. The folder
must be empty or not there. Every file is checked by its checksum, and every
event of the log is read once.

  cartwright restore --from /backups/monday --data /var/lib/cartwright
  cartwright restore --from /backups/monday --data … --erasures /safe/erasures.jsonl
  cartwright restore --from /backups/monday --dry-run       only check the backup

Who was erased since the backup has a key in it again. A server that starts on it
erases them anew, by the list in the data folder, to which --erasures adds that of
today, and by the one of CARTWRIGHT_ERASURES.

Views and the bus are built from the log when the server starts. Kafka,
Elasticsearch and Redis may know of events that the backup is too old to have:
give the restored server another --namespace, or empty them first.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || cfg.Data == "" {
				return usage(errors.New("--from FOLDER and --data DIR are needed"))
			}
			r := restoration{from: from, data: cfg.Data, erasures: erasures, dryRun: dryRun}
			m, err := r.run(cmd.Context())
			if err != nil {
				return err
			}
			said := "restored to " + cfg.Data
			if dryRun {
				said = "the backup is whole"
			}
			return tellManifest(cmd.OutOrStdout(), asJSON, said, m)
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "", "the folder that backup made")
	cmd.Flags().StringVar(&erasures, "erasures", "", "the list of who was erased up to now, to be added to that of the backup")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only check the backup")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func tellManifest(w io.Writer, asJSON bool, said string, m manifest) error {
	if asJSON {
		return json.NewEncoder(w).Encode(m)
	}
	size := int64(0)
	for _, f := range m.Files {
		size += f.Size
	}
	_, err := fmt.Fprintf(w, "%s: %d events of %d streams up to position %d, %d files of %.1f MiB\n",
		said, m.Log.Events, m.Log.Streams, m.Log.Position, len(m.Files), float64(size)/(1<<20))
	if err == nil && m.MasterKey != "" && !m.has(masterKeyName) {
		_, err = fmt.Fprintf(w, "the master key is not in it: addresses are opened by key %s\n", m.MasterKey)
	}
	return err
}

func (m *manifest) has(path string) bool {
	return slices.ContainsFunc(m.Files, func(f backupFile) bool { return f.Path == path })
}

// A backup is one that is being made.
type backup struct {
	cfg        config
	to         string
	withoutKey bool
}

// run makes a backup in a folder of another name, and gives it its name at the
// end: one that was broken off is never taken for a whole one.
func (b backup) run(ctx context.Context) (m manifest, err error) {
	if b.cfg.EventStore != "" {
		return m, usage(errors.New("the event log is in EventStoreDB: back it up by its own means"))
	}
	if _, err = os.Stat(b.cfg.path(logName)); err != nil {
		return m, fmt.Errorf("there is no event log in %s: %w", b.cfg.Data, err)
	}
	if _, err = os.Lstat(b.to); !errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s is there already: a backup makes its own folder", b.to)
	}
	err = staged(ctx, b.cfg, func(stage string) error {
		return appear(b.to, func(dir string) (err error) {
			m, err = b.fill(ctx, stage, dir)
			return err
		})
	})
	if err != nil {
		return m, err
	}
	note := lastBackup{At: m.Made, Position: m.Log.Position, To: b.to}
	if to, wrong := filepath.Abs(b.to); wrong == nil {
		note.To = to
	}
	if wrong := note.remember(b.cfg.Data); wrong != nil {
		b.cfg.logger().WarnContext(ctx, "the backup is whole, and that it was taken could not be noted", "err", wrong)
	}
	return m, nil
}

// staged has the log put into the stage of the data folder and used there, by one at
// a time.
func staged(ctx context.Context, cfg config, use func(stage string) error) (err error) {
	lock := flock.New(cfg.path("backup.lock"))
	free, err := lock.TryLock()
	if err != nil || !free {
		return errors.Join(fmt.Errorf("another backup or verify of %s is under way", cfg.Data), err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	stage := cfg.path(stageName)
	if err = errors.Join(os.RemoveAll(stage), os.MkdirAll(stage, 0o700)); err != nil { // of one that was killed
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	if err = stageLog(ctx, cfg); err != nil {
		return err
	}
	return use(stage)
}

// stageLog has the log put into the stage, by whoever has it open.
func stageLog(ctx context.Context, cfg config) error {
	f, err := own(cfg.Data)
	if errors.Is(err, errOwned) {
		return askOwner(ctx, cfg, job{Do: "backup"}, func(news) error { return nil })
	}
	if err != nil {
		return err
	}
	node, err := esdbnode.Open(esdbnode.Options{Dir: cfg.path(logName), Log: cfg.logger()})
	if err == nil {
		_, err = node.Backup(ctx, cfg.path(stageName, logName))
		err = errors.Join(err, node.Close(context.WithoutCancel(ctx)))
	}
	return errors.Join(err, f.Close())
}

// backup puts the log, as it is now, into the stage of the data folder, where
// the tool that asked for it fetches it. It is the owner's part of a backup.
func (s *system) backup(ctx context.Context) error {
	if s.store == nil || s.store.node == nil {
		return errors.New("this process has no event log of its own")
	}
	_, err := s.store.node.Backup(ctx, filepath.Join(s.folder.path, stageName, logName))
	return err
}

// fill copies everything into a folder and writes the manifest.
func (b backup) fill(ctx context.Context, stage, dir string) (m manifest, err error) {
	m = manifest{Format: manifestFormat, Made: time.Now().UTC()}
	if err = b.fillKey(ctx, dir, &m); err != nil {
		return m, err
	}
	if err = b.fillErasures(ctx, dir, &m); err != nil {
		return m, err
	}
	names, err := os.ReadDir(filepath.Join(stage, logName))
	if err != nil {
		return m, err
	}
	if err = os.Mkdir(filepath.Join(dir, logName), 0o750); err != nil {
		return m, err
	}
	for _, n := range names {
		if err = m.take(ctx, filepath.Join(stage, logName, n.Name()), dir, logName+"/"+n.Name()); err != nil {
			return m, err
		}
	}
	if m.Log, err = checkLog(ctx, filepath.Join(dir, logName)); err != nil {
		return m, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	return m, writeSynced(filepath.Join(dir, manifestName), append(text, '\n'))
}

// fillErasures writes down who is erased by now: the log was taken before, so
// that nobody is whom it knows of and the list does not.
func (b backup) fillErasures(ctx context.Context, dir string, m *manifest) error {
	listed, err := b.cfg.erasures(ctx, b.cfg.logger())
	if err != nil || len(listed) == 0 {
		return err
	}
	var text bytes.Buffer
	for lines := json.NewEncoder(&text); len(listed) > 0; listed = listed[1:] {
		if err = lines.Encode(listed[0]); err != nil {
			return err
		}
	}
	if err = writeSynced(filepath.Join(dir, erasuresName), text.Bytes()); err != nil {
		return err
	}
	f, err := sumFile(ctx, &text, io.Discard)
	f.Path = erasuresName
	m.Files = append(m.Files, f)
	return err
}

// checkLog reads the log in a folder once. Looking leaves Pebble's lock behind.
func checkLog(ctx context.Context, dir string) (esdbnode.Contents, error) {
	c, err := esdbnode.Check(ctx, dir)
	if rm := os.Remove(filepath.Join(dir, "LOCK")); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return c, err
}

// fillKey copies the master key, or notes which one it is. A log that has no
// personal data yet has none.
func (b backup) fillKey(ctx context.Context, dir string, m *manifest) error {
	path := b.cfg.MasterKey
	if path == "" {
		path = b.cfg.path(masterKeyName)
	}
	key, err := keyring.MasterKey(path, false)
	if errors.Is(err, fs.ErrNotExist) && b.cfg.MasterKey == "" {
		return nil
	}
	if err != nil {
		return err
	}
	m.MasterKey = personal.MasterID(key)
	if b.withoutKey {
		return nil
	}
	return m.take(ctx, path, dir, masterKeyName)
}

// take copies a file into the backup and notes its checksum.
func (m *manifest) take(ctx context.Context, from, dir, path string) error {
	f, err := copyFile(ctx, from, filepath.Join(dir, filepath.FromSlash(path)))
	if err != nil {
		return err
	}
	f.Path = path
	m.Files = append(m.Files, f)
	return nil
}

// copyFile copies a file onto the disk for whoever may read keys, and nobody else.
func copyFile(ctx context.Context, from, to string) (f backupFile, err error) {
	in, err := os.Open(from) //nolint:gosec // of the data folder, or of a backup
	if err != nil {
		return f, err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // in the folder being filled
	if err != nil {
		return f, err
	}
	f, err = sumFile(ctx, in, out)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return f, fmt.Errorf("copy %s: %w", from, err)
	}
	return f, nil
}

// sumFile reads a file to its end, into out, and gives its size and checksum.
func sumFile(ctx context.Context, in io.Reader, out io.Writer) (f backupFile, err error) {
	sum := sha256.New()
	f.Size, err = io.Copy(io.MultiWriter(out, sum), reader{ctx, in})
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return f, err
}

// A reader stops reading when its context ends.
type reader struct {
	ctx context.Context //nolint:containedctx // io.Copy hands none on
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // in the folder being filled
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// appear fills a folder under another name and gives it its own when it is whole
// and on the disk. After an error nothing is left of it.
func appear(path string, fill func(dir string) error) error {
	dir := path + unfinished
	if err := removeUnfinished(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	err := fill(dir)
	if err == nil {
		err = syncTree(dir)
	}
	if err == nil {
		err = os.Rename(dir, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return syncFolder(filepath.Dir(path))
}

// removeUnfinished removes what was left of one that was killed. A folder of that
// name with anything else in it is not ours to remove.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains([]string{manifestName, masterKeyName, erasuresName, logName}, e.Name()) {
			return fmt.Errorf("%s is in the way, and is no broken-off backup: it has %s", dir, e.Name())
		}
	}
	return os.RemoveAll(dir)
}

// syncTree makes the folders' entries durable; the files are already.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncFolder(path)
	})
}

func syncFolder(path string) error {
	d, err := os.Open(path) //nolint:gosec // a folder that was named by the operator
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// A restoration is a data folder being made of a backup.
type restoration struct {
	from, data string
	erasures   string // a list of who was erased since, may be empty
	dryRun     bool
}

func (r restoration) run(ctx context.Context) (m manifest, err error) {
	if m, err = readManifest(r.from); err != nil {
		return m, err
	}
	if r.dryRun {
		return m, r.fill(ctx, m, "")
	}
	if err := emptied(r.data); err != nil {
		return m, err
	}
	return m, appear(filepath.Clean(r.data), func(dir string) error {
		if err := r.fill(ctx, m, dir); err != nil {
			return err
		}
		if err := os.Remove(r.data); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty one; a rename takes no other's place
			return err
		}
		return nil
	})
}

// readManifest refuses what is no backup, and one of tomorrow.
func readManifest(dir string) (m manifest, err error) {
	text, err := os.ReadFile(filepath.Join(dir, manifestName)) //nolint:gosec // the operator names the folder
	if err != nil {
		return m, fmt.Errorf("%s is no backup, or one that was broken off: %w", dir, err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("read %s of %s: %w", manifestName, dir, err)
	}
	if m.Format != manifestFormat {
		return m, fmt.Errorf("%s has format %d, this binary knows format %d", dir, m.Format, manifestFormat)
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return m, fmt.Errorf("%s of %s names a file elsewhere: %s", manifestName, dir, f.Path)
		}
	}
	return m, nil
}

// emptied refuses a folder with anything in it.
func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: it has %s", dir, entries[0].Name())
	}
	return err
}

// fill copies the files of a backup, or only reads them where there is no folder
// to copy to, and compares them and what the log says with the manifest.
func (r restoration) fill(ctx context.Context, m manifest, dir string) error {
	for _, want := range m.Files {
		got, err := r.fetch(ctx, want.Path, dir)
		if err != nil {
			return err
		}
		if got.Path = want.Path; got != want {
			return fmt.Errorf("%s of %s is not what it was: %d bytes with checksum %s, not %d with %s",
				want.Path, r.from, got.Size, got.SHA256, want.Size, want.SHA256)
		}
	}
	if dir == "" {
		if err := r.noMore(m); err != nil {
			return err
		}
		dir = r.from
	}
	if err := r.addErasures(ctx, dir); err != nil {
		return err
	}
	got, err := checkLog(ctx, filepath.Join(dir, logName))
	if err == nil && got != m.Log {
		err = fmt.Errorf("the log of %s has %+v, and should have %+v", r.from, got, m.Log)
	}
	return err
}

// addErasures adds to the list of the backup who was erased since, by the list
// that was given. A dry run has only a look at it.
func (r restoration) addErasures(ctx context.Context, dir string) error {
	if r.erasures == "" {
		return nil
	}
	if _, err := os.Stat(r.erasures); err != nil {
		return fmt.Errorf("the list of erased buyers: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	since, err := erasureList{path: r.erasures, log: log}.read(ctx)
	if err != nil || dir == r.from {
		return err
	}
	into := erasureList{path: filepath.Join(dir, erasuresName), log: log}
	for _, e := range since {
		if _, err := into.note(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// noMore refuses files that the manifest does not name: where nothing is copied
// they would be read as part of the log.
func (r restoration) noMore(m manifest) error {
	entries, err := os.ReadDir(filepath.Join(r.from, logName))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := logName + "/" + e.Name(); !m.has(path) {
			return fmt.Errorf("%s is in %s, and not in its %s", path, r.from, manifestName)
		}
	}
	return nil
}

func (r restoration) fetch(ctx context.Context, path, dir string) (backupFile, error) {
	from := filepath.Join(r.from, filepath.FromSlash(path))
	if dir == "" {
		in, err := os.Open(from) //nolint:gosec // of a backup that the operator named
		if err != nil {
			return backupFile{}, err
		}
		defer func() { _ = in.Close() }()
		return sumFile(ctx, in, io.Discard)
	}
	to := filepath.Join(dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		return backupFile{}, err
	}
	return copyFile(ctx, from, to)
}
