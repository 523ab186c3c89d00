package elasticviews

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A kind is one of the indices that a generation has: <namespace>-<kind>-<number>,
// with the alias <namespace>-<kind> on the live one.
type kind struct {
	name    string
	version int // of the mapping
	fields  map[string]any
}

// The types of fields.
var (
	keyword = map[string]any{"type": "keyword"}
	long    = map[string]any{"type": "long"}
	flag    = map[string]any{"type": "boolean"}
	// stored is in the document and nowhere else, whatever it is.
	stored = map[string]any{"type": "object", "enabled": false}
	kept   = map[string]any{"type": "keyword", "index": false, "doc_values": false}
	keptN  = map[string]any{"type": "long", "index": false, "doc_values": false}
	// sorted is what lists are ordered and sums are grouped by, and found by nothing.
	sorted = map[string]any{"type": "keyword", "index": false}
	// summed is read by sums only, shown by none and found by nothing.
	summed = map[string]any{"type": "long", "index": false}
	// text comes cut into terms.
	text = map[string]any{"type": "text", "analyzer": "whitespace", "norms": false}
)

// lineages has a document for each view that says which generations there are.
var lineages = kind{name: "views", version: 1, fields: map[string]any{"family": stored}}

// documents is the kind of index that has a view's documents. What is parked
// lies among them, so that it is dropped and goes live with them.
func documents(view string, fields map[string]any) kind {
	all := map[string]any{"stream": keyword, "body": stored, "parked": keyword, "record": stored, "marker": kept}
	maps.Copy(all, fields)
	return kind{name: view, version: 1, fields: all}
}

func (k kind) mappings() map[string]any {
	return map[string]any{"dynamic": "strict", "_meta": map[string]any{"version": k.version}, "properties": k.fields}
}

// index names an index, or without a number the alias of the live one.
func (d *DB) index(kind string, number ...int) string {
	name := d.cfg.Namespace + "-" + kind
	if len(number) > 0 {
		name += "-" + strconv.Itoa(number[0])
	}
	return name
}

// numbered gives the generation that an index belongs to.
func numbered(index, alias string) (int, error) {
	digits, ok := strings.CutPrefix(index, alias+"-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || strconv.Itoa(n) != digits {
		return 0, fmt.Errorf("%s is no generation of %s", index, alias)
	}
	return n, nil
}

// liveSettings are those of an index that is read.
func (d *DB) liveSettings() map[string]any {
	return map[string]any{
		"number_of_replicas": d.cfg.Replicas,
		"refresh_interval":   strconv.FormatInt(d.cfg.RefreshEvery.Milliseconds(), 10) + "ms",
	}
}

// buildSettings are those of an index that nobody reads yet: it has no copies
// and no refreshes until it is done.
func buildSettings() map[string]any {
	return map[string]any{"number_of_replicas": 0, "refresh_interval": "-1"}
}

// create makes an index with aliases. An index that is there is left as it is.
func (d *DB) create(ctx context.Context, name string, k kind, settings map[string]any, aliases []string) error {
	settings["number_of_shards"] = d.cfg.Shards
	body := map[string]any{"settings": settings, "mappings": k.mappings()}
	on := map[string]any{}
	for _, alias := range aliases {
		on[alias] = map[string]any{}
	}
	body["aliases"] = on
	r, err := put("/"+name, body)
	if err == nil {
		err = d.do(ctx, r)
	}
	if err != nil && !isType(err, indexExists) {
		return fmt.Errorf("make index %s: %w", name, err)
	}
	return nil
}

// template keeps the server from making an index of a kind by itself, with
// whatever fields come first. It refuses one of a newer program.
func (d *DB) template(ctx context.Context, k kind) error {
	name := d.index(k.name)
	have, err := d.templateVersion(ctx, name)
	if err != nil {
		return fmt.Errorf("look for the index template %s: %w", name, err)
	}
	if have > k.version {
		return fmt.Errorf("the index template %s has version %d and was made by a newer program: this one knows version %d", name, have, k.version)
	}
	if have == k.version {
		return nil
	}
	r, err := put("/_index_template/"+name, map[string]any{
		"index_patterns": []string{name, name + "-*", name + ".*"}, "priority": 500, "allow_auto_create": false,
		"version": k.version, "_meta": map[string]any{"version": k.version, "made_by": "cartwright"},
		"template": map[string]any{"mappings": k.mappings()},
	})
	if err == nil {
		err = d.do(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("make the index template %s: %w", name, err)
	}
	return nil
}

func (d *DB) templateVersion(ctx context.Context, name string) (int, error) {
	answer, err := ask[struct {
		Templates []struct {
			Template struct {
				Version int `json:"version"`
			} `json:"index_template"`
		} `json:"index_templates"`
	}](ctx, d.c, get("/_index_template/"+name))
	if isMissing(err) {
		return 0, nil
	}
	if err != nil || len(answer.Templates) == 0 {
		return 0, err
	}
	return answer.Templates[0].Template.Version, nil
}

// mappingVersion is the version of what laid an index's documents out.
func (d *DB) mappingVersion(ctx context.Context, index string) (int, error) {
	answer, err := ask[map[string]struct {
		Mappings struct {
			Meta struct {
				Version int `json:"version"`
			} `json:"_meta"`
		} `json:"mappings"`
	}](ctx, d.c, get("/"+index+"/_mapping"))
	if err != nil {
		return 0, fmt.Errorf("read the mapping of %s: %w", index, err)
	}
	return answer[index].Mappings.Meta.Version, nil
}

// named gives the names of the indices that fit a pattern.
func (d *DB) named(ctx context.Context, pattern string) ([]string, error) {
	answer, err := ask[map[string]any](ctx, d.c, get("/"+pattern+"/_alias"))
	if isMissing(err) {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(answer)), err
}

// delete drops indices. One that is not there is no error: other processes
// sweep too.
func (d *DB) delete(ctx context.Context, indices ...string) error {
	for _, index := range indices {
		if err := d.do(ctx, remove("/"+index)); err != nil && !isType(err, noIndex) {
			return err
		}
	}
	return nil
}
