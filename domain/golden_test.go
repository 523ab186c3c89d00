package domain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/domain/stuck"
	"cartwright/domain/trade"
)

// golden holds one file for each version of each event that was ever stored: an
// event, or a list where one can't show it all. A file is written by hand when
// its version is born, and never changed: what it holds is in somebody's log.
const golden = "testdata/events"

// stored is every event that can be in a log.
func stored() []event.Type {
	return slices.Concat(order.Types(), inventory.Types(), account.Types(), catalog.Types(), orderid.Types(), personal.Types(), payment.Types(), stuck.Types(), trade.Types())
}

func fileOf(name string, version int) string { return fmt.Sprintf("%s.v%d.json", name, version) }

func TestEveryStoredVersionCanBeRead(t *testing.T) {
	registry, err := event.NewRegistry(stored()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range stored() {
		for version := 1; version <= typ.Version; version++ {
			t.Run(fileOf(typ.Name, version), func(t *testing.T) {
				for _, raw := range read(t, fileOf(typ.Name, version)) {
					e := decode(t, registry, typ.Name, version, raw)
					if version == typ.Version {
						encodesTo(t, registry, e, raw)
					}
				}
			})
		}
	}
}

func decode(t *testing.T, registry *event.Registry, name string, version int, raw []byte) any {
	t.Helper()
	e, err := registry.Decode(event.Recorded{Stream: golden, Name: name, Version: version, Data: raw})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// encodesTo checks that nothing of a stored event is lost or renamed, down to
// the order of its fields: digests are taken of such bytes.
func encodesTo(t *testing.T, registry *event.Registry, e any, raw []byte) {
	t.Helper()
	rec, err := registry.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	var want, got bytes.Buffer
	if err = errors.Join(json.Compact(&want, raw), json.Compact(&got, rec.Data)); err != nil {
		t.Fatal(err)
	}
	if plain(t, want.Bytes()) != plain(t, got.Bytes()) {
		t.Fatalf("is stored as\n%s\nand would be stored as\n%s", want.Bytes(), got.Bytes())
	}
}

// plain undoes the escapes that encoding/json writes and people do not.
func plain(t *testing.T, raw []byte) string {
	t.Helper()
	for escaped, char := range map[string]string{`\u0026`: "&", `\u003c`: "<", `\u003e`: ">"} {
		raw = bytes.ReplaceAll(raw, []byte(escaped), []byte(char))
	}
	return string(raw)
}

func TestNoGoldenFileIsAStray(t *testing.T) {
	known := map[string]bool{}
	for _, typ := range stored() {
		for version := 1; version <= typ.Version; version++ {
			known[fileOf(typ.Name, version)] = true
		}
	}
	err := filepath.WalkDir(golden, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !known[entry.Name()] {
			t.Errorf("%s is a version of nothing: stored names are for ever", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A field that no file holds could be renamed without a test noticing. So the
// files of the newest versions use every field; only flags may be down.
func TestGoldenFilesUseEveryField(t *testing.T) {
	registry, err := event.NewRegistry(stored()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range stored() {
		used := map[string]bool{}
		for _, raw := range read(t, fileOf(typ.Name, typ.Version)) {
			use(reflect.ValueOf(decode(t, registry, typ.Name, typ.Version, raw)), typ.Name, used)
		}
		for field, ok := range used {
			if !ok {
				t.Errorf("%s is nowhere used", field)
			}
		}
	}
}

// use notes which fields under v hold something, by path; the elements of a
// slice share theirs.
func use(v reflect.Value, path string, used map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			use(v.Elem(), path, used)
		}
	case reflect.Slice:
		for i := range v.Len() {
			use(v.Index(i), path, used)
		}
	case reflect.Struct:
		for f, value := range v.Fields() {
			if !f.IsExported() {
				continue
			}
			at := path + "." + f.Name
			used[at] = used[at] || !value.IsZero() || f.Type.Kind() == reflect.Bool
			use(value, at, used)
		}
	default:
	}
}

// read gives the events of a file, as they are stored.
func read(tb testing.TB, file string) []json.RawMessage {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join(golden, file))
	if err != nil {
		tb.Fatalf("%v: every version that was ever stored needs its file", err)
	}
	if !bytes.HasPrefix(raw, []byte("[")) {
		return []json.RawMessage{raw}
	}
	var list []json.RawMessage
	if err = json.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		tb.Fatalf("%s: %d events, %v", file, len(list), err)
	}
	return list
}
