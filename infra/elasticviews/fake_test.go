package elasticviews_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cartwright/infra/elasticviews"
)

// A fake is as much of a server as views need without searches: documents with
// versions, indices, aliases and templates, in memory. Its search finds nothing.
type fake struct {
	// before may answer a request itself, by its method, path and body.
	before func(w http.ResponseWriter, r *http.Request, body []byte) bool

	mu        sync.Mutex // guards what follows
	indices   map[string]map[string]*fakeDoc
	versions  map[string]int             // of indices' mappings
	aliases   map[string]map[string]bool // the indices that have them
	templates map[string]int
	bulks     [][]string
	requests  []string
}

type fakeDoc struct {
	version, seq int64
	source       json.RawMessage
}

func newFake() *fake {
	return &fake{
		indices: map[string]map[string]*fakeDoc{}, versions: map[string]int{}, aliases: map[string]map[string]bool{}, templates: map[string]int{},
		before: func(http.ResponseWriter, *http.Request, []byte) bool { return false },
	}
}

// config connects to a fake that ends with the test, and does not wait long.
func (f *fake) config(tb testing.TB) elasticviews.Config {
	tb.Helper()
	server := httptest.NewServer(f)
	tb.Cleanup(server.Close)
	return elasticviews.Config{
		Addresses: []string{server.URL}, Namespace: "t", Log: slog.New(slog.DiscardHandler),
		Pause: time.Millisecond, Timeout: 5 * time.Second, Attempts: 3,
	}
}

// connect opens a database that is closed at the end.
func connect(tb testing.TB, cfg elasticviews.Config) *elasticviews.DB {
	tb.Helper()
	db, err := elasticviews.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Elastic-Product", "Elasticsearch") // without it the client takes a server for another product
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f.mu.Lock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	if f.before(w, r, body) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	status, answer := f.answer(r, body)
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(http.ErrAbortHandler)
	}
}

type object = map[string]any

func (f *fake) answer(r *http.Request, body []byte) (int, any) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case first == "_cluster":
		return 200, object{"status": "green"}
	case first == "_index_template":
		return f.template(r.Method, rest, body)
	case first == "_alias":
		return 200, f.aliased(rest)
	case first == "_aliases":
		return f.turn(body)
	case first == "_bulk":
		return f.bulk(body)
	case rest == "_alias":
		found := object{}
		for name := range f.indices {
			if matches(first, name) {
				found[name] = object{}
			}
		}
		return 200, found
	case rest == "_mapping":
		if f.indices[first] == nil {
			return missing(first)
		}
		return 200, object{first: object{"mappings": object{"_meta": object{"version": f.versions[first]}}}}
	case first == "_mget":
		return f.mget("", body)
	case rest == "_mget":
		return f.mget(first, body)
	case rest == "_search":
		return 200, object{"hits": object{"hits": []any{}}, "aggregations": object{"sums": object{"buckets": []any{}}}}
	case rest == "_refresh", rest == "_settings", rest == "_count":
		return 200, object{"count": 0}
	case rest == "" && r.Method == http.MethodPut:
		return f.create(first, body)
	case rest == "" && r.Method == http.MethodDelete:
		f.delete(first)
		return 200, object{}
	}
	return 400, object{"error": object{"type": "unknown", "reason": r.Method + " " + r.URL.Path}}
}

// matches tells whether one of some patterns fits a name.
func matches(patterns, name string) bool {
	for pattern := range strings.SplitSeq(patterns, ",") {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}

func missing(index string) (int, any) {
	return 404, object{"error": object{"type": "index_not_found_exception", "reason": "no such index [" + index + "]"}}
}

func (f *fake) delete(index string) {
	delete(f.indices, index)
	for _, on := range f.aliases {
		delete(on, index)
	}
}

func (f *fake) aliased(patterns string) object {
	found := object{}
	for alias, on := range f.aliases {
		if !matches(patterns, alias) {
			continue
		}
		for index := range on {
			if found[index] == nil {
				found[index] = object{"aliases": object{}}
			}
			found[index].(object)["aliases"].(object)[alias] = object{}
		}
	}
	return found
}

func (f *fake) give(alias, index string) {
	if f.aliases[alias] == nil {
		f.aliases[alias] = map[string]bool{}
	}
	f.aliases[alias][index] = true
}

// live gives the index that a name or an alias names.
func (f *fake) live(name string) string {
	for index := range f.aliases[name] {
		return index
	}
	return name
}

func (f *fake) template(method, name string, body []byte) (int, any) {
	if method == http.MethodPut {
		var said struct{ Version int }
		if err := json.Unmarshal(body, &said); err != nil {
			return 400, object{}
		}
		f.templates[name] = said.Version
		return 200, object{}
	}
	version, ok := f.templates[name]
	if !ok {
		return 404, object{"error": object{"type": "resource_not_found_exception", "reason": name}}
	}
	return 200, object{"index_templates": []any{object{"index_template": object{"version": version}}}}
}

func (f *fake) create(name string, body []byte) (int, any) {
	if f.indices[name] != nil {
		return 400, object{"error": object{"type": "resource_already_exists_exception", "reason": name}}
	}
	var said struct {
		Aliases  map[string]any
		Mappings struct {
			Meta struct{ Version int } `json:"_meta"`
		}
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return 400, object{}
	}
	f.indices[name], f.versions[name] = map[string]*fakeDoc{}, said.Mappings.Meta.Version
	for alias := range said.Aliases {
		f.give(alias, name)
	}
	return 200, object{}
}

func (f *fake) turn(body []byte) (int, any) {
	var said struct {
		Actions []map[string]struct{ Index, Alias string }
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return 400, object{}
	}
	for _, action := range said.Actions {
		if away, ok := action["remove"]; ok && !f.aliases[away.Alias][away.Index] {
			return 404, object{"error": object{"type": "aliases_not_found_exception", "reason": "missing"}}
		}
	}
	for _, action := range said.Actions {
		if away, ok := action["remove"]; ok {
			delete(f.aliases[away.Alias], away.Index)
		}
		if to, ok := action["add"]; ok {
			f.give(to.Alias, to.Index)
		}
	}
	return 200, object{}
}

func (f *fake) mget(index string, body []byte) (int, any) {
	var said struct {
		Docs []struct {
			Index   string `json:"_index"`
			ID      string `json:"_id"`
			Routing string `json:"routing"`
		}
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return 400, object{}
	}
	var docs []any
	for _, ref := range said.Docs {
		if ref.Index != "" {
			index = ref.Index
		}
		index = f.live(index)
		if f.indices[index] == nil {
			return missing(index)
		}
		doc := object{"_index": index, "_id": ref.ID, "found": false}
		if d := f.indices[index][ref.Routing+"/"+ref.ID]; d != nil {
			doc["found"], doc["_version"], doc["_seq_no"], doc["_primary_term"], doc["_source"] = true, d.version, d.seq, 1, d.source
		}
		docs = append(docs, doc)
	}
	return 200, object{"docs": docs}
}

// A fakeOp is the head of a line of a bulk request.
type fakeOp struct {
	Index       string `json:"_index"`
	ID          string `json:"_id"`
	Routing     string `json:"routing"`
	Version     *int64 `json:"version"`
	VersionType string `json:"version_type"`
	Seen        *int64 `json:"if_seq_no"`
}

func (f *fake) bulk(body []byte) (int, any) {
	var items []any
	var ids []string
	err := bulkLines(body, func(action string, op fakeOp, source []byte) {
		ids = append(ids, op.Index+"/"+op.ID)
		status := f.write(action, op, source)
		said := object{"status": status}
		if status >= 300 {
			said["error"] = object{"type": map[int]string{404: "index_not_found_exception", 409: "version_conflict_engine_exception"}[status], "reason": op.ID}
		}
		items = append(items, object{action: said})
	})
	if err != nil {
		return 400, object{"error": object{"type": "parse", "reason": err.Error()}}
	}
	f.bulks = append(f.bulks, ids)
	return 200, object{"items": items}
}

func bulkLines(body []byte, take func(action string, op fakeOp, source []byte)) error {
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var head map[string]fakeOp
		if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
			return err
		}
		for action, op := range head {
			var source []byte
			if action != "delete" {
				if !lines.Scan() {
					return fmt.Errorf("%s has no document", op.ID)
				}
				source = bytes.Clone(lines.Bytes())
			}
			take(action, op, source)
		}
	}
	return lines.Err()
}

func (f *fake) write(action string, op fakeOp, source []byte) int {
	docs, ok := f.indices[op.Index]
	if !ok {
		return 404
	}
	key := op.Routing + "/" + op.ID
	old := docs[key]
	switch {
	case action == "create" && old != nil,
		op.Seen != nil && (old == nil || old.seq != *op.Seen),
		op.VersionType == "external" && old != nil && old.version >= *op.Version,
		op.VersionType == "external_gte" && old != nil && old.version > *op.Version:
		return 409
	case action == "delete":
		delete(docs, key)
		return 200
	}
	now := &fakeDoc{version: 1, source: source}
	if old != nil {
		now.version, now.seq = old.version+1, old.seq+1
	}
	if op.Version != nil {
		now.version = *op.Version
	}
	docs[key] = now
	return 201
}

// has gives the ids of an index.
func (f *fake) has(index string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for key := range maps.Keys(f.indices[index]) {
		_, id, _ := strings.Cut(key, "/")
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// asked counts the requests of a method and a path.
func (f *fake) asked(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if r == what {
			n++
		}
	}
	return n
}
